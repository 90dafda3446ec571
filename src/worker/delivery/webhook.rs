//! Posts one webhook over a connection of its own.
//!
//! The host name is resolved once, and the connection goes to the address that was checked: a name
//! that resolves differently a moment later cannot lead into a private network. No redirect is
//! followed, and of the answer only the status is read. The headers are those of Standard Webhooks,
//! <https://www.standardwebhooks.com>.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::signature::sign_webhook;
use crate::config::{Secret, WebhooksConfig, is_public_address};
use crate::route::{WebhookTarget, is_retryable_status};
use crate::store::Delivery;
use crate::worker::context::unix_now;

/// The result of one delivery try.
pub(super) enum DeliveryVerdict {
    /// The destination accepted the delivery.
    Delivered,
    /// The try failed, and another may succeed; the reason.
    Retryable(String),
    /// The delivery cannot succeed; the reason.
    Permanent(String),
}

/// Posts the body of a delivery within `webhooks.timeout`.
pub(super) async fn post_webhook(
    target: &WebhookTarget,
    delivery: &Delivery,
    webhooks: &WebhooksConfig,
    tls: &Arc<rustls::ClientConfig>,
) -> DeliveryVerdict {
    let exchange = async {
        let address = resolve_target(target).await?;
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("cannot connect: {error}"))?;
        let _ = stream.set_nodelay(true); // without it the post is slower, but works
        let request = build_webhook_request(target, delivery, webhooks.signing_secret.as_ref())?;
        if !target.tls {
            return send_webhook(stream, request).await;
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        send_webhook(stream.map_err(|error| format!("no TLS: {error}"))?, request).await
    };
    match timeout(webhooks.timeout, exchange).await {
        Ok(Ok(status)) => classify_status(status),
        Ok(Err(error)) => DeliveryVerdict::Retryable(error),
        Err(_) => DeliveryVerdict::Retryable(format!(
            "no answer within {:?} (webhooks.timeout)",
            webhooks.timeout
        )),
    }
}

/// The first allowed address of the target: a public one, or any if the target allows private ones.
async fn resolve_target(target: &WebhookTarget) -> Result<SocketAddr, String> {
    let resolved = lookup_host((target.host.as_str(), target.port)).await;
    let addresses: Vec<SocketAddr> =
        resolved.map_err(|error| format!("{} cannot be resolved: {error}", target.host))?.collect();
    let allowed =
        addresses.iter().find(|address| target.allows_private || is_public_address(address.ip()));
    allowed.copied().ok_or_else(|| {
        format!(
            "{0} is not on the public internet: list it as private:{0} in webhooks.hosts \
             if it is yours",
            target.host
        )
    })
}

fn build_webhook_request(
    target: &WebhookTarget,
    delivery: &Delivery,
    secret: Option<&Secret>,
) -> Result<Request<Full<Bytes>>, String> {
    let timestamp = unix_now().0 / 1000;
    let path = target.uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = target.uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("omnidaemon/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &delivery.event_id)
        .header("webhook-timestamp", timestamp)
        .header("idempotency-key", &delivery.event_id);
    if let Some(secret) = secret {
        request = request.header(
            "webhook-signature",
            sign_webhook(secret, &delivery.event_id, timestamp, &delivery.body),
        );
    }
    request.body(Full::new(delivery.body.clone())).map_err(|error| error.to_string())
}

async fn send_webhook<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| format!("the connection broke: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered,
        // the target may answer and close at once: the request then has the answer
        _ = connection => answer.await,
    };
    answered.map(|answer| answer.status()).map_err(broken)
}

/// The verdict of an answer: 2xx is delivered, a retryable status is tried again, and any other
/// status, including a redirect, is permanent.
fn classify_status(status: StatusCode) -> DeliveryVerdict {
    match status {
        status if status.is_success() => DeliveryVerdict::Delivered,
        status if is_retryable_status(status) => {
            DeliveryVerdict::Retryable(format!("answered {status}"))
        }
        status => DeliveryVerdict::Permanent(format!("answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_decides_the_verdict() {
        let word = |code: u16| match classify_status(StatusCode::from_u16(code).expect("a status"))
        {
            DeliveryVerdict::Delivered => "delivered",
            DeliveryVerdict::Retryable(_) => "retryable",
            DeliveryVerdict::Permanent(_) => "permanent",
        };
        for (code, expected) in [
            (200, "delivered"),
            (204, "delivered"),
            (301, "permanent"),
            (307, "permanent"),
            (400, "permanent"),
            (404, "permanent"),
            (408, "retryable"),
            (410, "permanent"),
            (425, "retryable"),
            (429, "retryable"),
            (500, "retryable"),
            (503, "retryable"),
        ] {
            assert_eq!(word(code), expected, "{code}");
        }
    }
}
