//! Upgrades to `websocket`: a tunnel between client and upstream, opened once the upstream has
//! answered 101. A client's request for any other protocol is not passed on.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;

use crate::outbound::strip_hop_by_hop;
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::http::request_body::RequestBody;
use crate::proxy::upstream::connection::BorrowedConnection;

/// A client's request for an upgrade to `websocket`.
pub(crate) struct UpgradeRequest {
    client_upgrade: OnUpgrade,
}

// === impl UpgradeRequest ===

impl UpgradeRequest {
    /// Takes the upgrade that a request asks for; `None` if it asks for none, or for another
    /// protocol.
    pub(crate) fn take_from(request: &mut Request<RequestBody>) -> Option<Self> {
        let protocol = request.headers().get(header::UPGRADE)?;
        if request.version() != Version::HTTP_11 {
            return None; // ignored in other versions (RFC 9110 §7.8)
        }
        let connection = request.headers().get(header::CONNECTION)?.to_str().ok()?;
        let is_named =
            connection.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
        if is_named && protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
            Some(Self { client_upgrade: hyper::upgrade::on(request) })
        } else {
            None
        }
    }

    /// The response that switches the client's connection, for the upstream's `switched`. Bytes are
    /// then copied both ways until either side closes; `tracker` tracks that task.
    pub(crate) fn open_tunnel(
        self,
        tracker: &TaskTracker,
        mut switched: Response<Incoming>,
        connection: BorrowedConnection,
    ) -> Response<ResponseBody> {
        let upstream = hyper::upgrade::on(&mut switched);
        let client = self.client_upgrade;
        tracker.spawn_local(async move {
            let copy = async {
                let (client, upstream) = (client.await?, upstream.await?);
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
                Ok::<(), Box<dyn std::error::Error>>(())
            };
            if let Err(error) = copy.await {
                tracing::debug!(%error, "a tunnel ended with an error");
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

/// Restores the hop-by-hop fields that ask for an upgrade, or accept it.
pub(crate) fn set_websocket_headers(fields: &mut HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}
