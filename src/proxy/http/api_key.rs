//! The API key that a request carries. The key itself is never stored, only digests of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest as _, Sha256};

use crate::task::TaskOwner;

/// Bytes of the SHA-256 digest that name a task's owner. Stored with tasks: do not change.
const OWNER_DIGEST_BYTES: usize = 16;

/// The API key of a request: `Authorization`, else `X-API-Key`.
pub(crate) fn find_api_key(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key"))
}

/// The owner of the tasks that a request makes: a digest of its API key; `None` without a key.
pub(crate) fn owner_from_headers(headers: &HeaderMap) -> Option<TaskOwner> {
    let digest = Sha256::digest(find_api_key(headers)?.as_bytes());
    Some(TaskOwner::from_digest(&BASE64.encode(&digest[..OWNER_DIGEST_BYTES])))
}
