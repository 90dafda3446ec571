//! Upgrades: `websocket` passes through as a tunnel, but only once the upstream has said 101; any
//! other protocol is not asked for.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::body::{RequestBody, ResponseBody};
use super::pass::SwitchedResponse;
use super::pool::BorrowedConnection;
use super::service::RequestContext;
use crate::route::strip_hop_by_hop;

/// An upgrade that a client asks for.
pub(super) struct UpgradeRequest {
    client_upgrade: OnUpgrade,
}

// === impl Wanted ===

impl UpgradeRequest {
    /// The upgrade that a request asks for, if it is one that passes.
    pub(super) fn take_from(request: &mut Request<RequestBody>) -> Option<Self> {
        let asked = request.headers().get(header::UPGRADE)?;
        if request.version() != Version::HTTP_11 {
            return None; // RFC 9110 §7.8: ignored elsewhere
        }
        let connection = request.headers().get(header::CONNECTION)?.to_str().ok()?;
        let names_it =
            connection.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
        if names_it && asked.as_bytes().eq_ignore_ascii_case(b"websocket") {
            Some(Self { client_upgrade: hyper::upgrade::on(request) })
        } else {
            None
        }
    }

    /// Answers 101 and has bytes copied both ways until either side ends.
    pub(super) fn open_tunnel(
        self,
        context: &RequestContext<'_>,
        mut switched: SwitchedResponse,
        connection: BorrowedConnection,
    ) -> Response<ResponseBody> {
        let upstream = hyper::upgrade::on(&mut switched);
        let client = self.client_upgrade;
        context.connection.task_tracker.spawn_local(async move {
            let copy = async {
                let (client, upstream) = (client.await?, upstream.await?);
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
                Ok::<(), Box<dyn std::error::Error>>(())
            };
            if let Err(error) = copy.await {
                tracing::debug!(%error, "a tunnel broke");
            }
            drop(connection);
        });
        let mut response = Response::new(ResponseBody::from_bytes(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let mut fields = std::mem::take(switched.headers_mut());
        strip_hop_by_hop(&mut fields);
        set_websocket_headers(&mut fields);
        *response.headers_mut() = fields;
        response
    }
}

/// Puts back into a stripped head what asks for the upgrade, or grants it.
pub(super) fn set_websocket_headers(fields: &mut HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}
