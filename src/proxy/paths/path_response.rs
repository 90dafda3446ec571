//! A response and the path that its request took in the end.

use http::Response;

use crate::cohort_hash::RequestPath;
use crate::proxy::answer::response_body::ResponseBody;

/// A response and the path that its request took in the end.
pub(crate) struct PathResponse {
    pub(crate) path: RequestPath,
    pub(crate) response: Response<ResponseBody>,
}

// === impl PathResponse ===

impl PathResponse {
    /// The response of a request that the sync path served.
    pub(crate) fn from_sync(response: Response<ResponseBody>) -> Self {
        Self { path: RequestPath::Sync, response }
    }

    /// The response of a request that the async path served.
    pub(crate) fn from_async(response: Response<ResponseBody>) -> Self {
        Self { path: RequestPath::Async, response }
    }
}
