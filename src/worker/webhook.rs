//! One post of a webhook: its own connection, to an address that was looked at, and whatever is
//! answered.
//!
//! The name is resolved once, and the connection goes to the very address that was found fit: a
//! name that changes its mind between check and use gains nothing. No redirect is followed, nothing
//! of the answer but its status is read. Headers are those of Standard Webhooks, <https://www.standardwebhooks.com>.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::unix_now;
use crate::config::{Secret, WebhooksConfig, is_public_address};
use crate::route::WebhookTarget;
use crate::store::Delivery;

/// SHA-256 works on blocks of so many bytes.
const SHA256_BLOCK_BYTES: usize = 64;

/// How a try ended.
pub(super) enum DeliveryVerdict {
    /// It was heard.
    Delivered,
    /// It may be next time.
    Retryable(String),
    /// It never will be.
    Permanent(String),
}

/// Posts a delivery's body.
pub(super) async fn post_webhook(
    sink: &WebhookTarget,
    delivery: &Delivery,
    webhooks: &WebhooksConfig,
    tls: &Arc<rustls::ClientConfig>,
) -> DeliveryVerdict {
    let exchange = async {
        let address = resolve_target(sink).await?;
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("cannot connect: {error}"))?;
        let _ = stream.set_nodelay(true); // slower without, and no worse
        let request = build_webhook_request(sink, delivery, webhooks.signing_secret.as_ref())?;
        if !sink.tls {
            return send_webhook(stream, request).await;
        }
        let name = ServerName::try_from(sink.host.clone()).map_err(|error| error.to_string())?;
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

/// The first address of the sink that may be connected to.
async fn resolve_target(sink: &WebhookTarget) -> Result<SocketAddr, String> {
    let found = lookup_host((sink.host.as_str(), sink.port)).await;
    let found: Vec<SocketAddr> =
        found.map_err(|error| format!("{} cannot be resolved: {error}", sink.host))?.collect();
    let fit = found.iter().find(|address| sink.allows_private || is_public_address(address.ip()));
    fit.copied().ok_or_else(|| {
        format!("{} is not on the public internet: list it as private:{0} in webhooks.hosts if it is yours", sink.host)
    })
}

fn build_webhook_request(
    sink: &WebhookTarget,
    delivery: &Delivery,
    secret: Option<&Secret>,
) -> Result<Request<Full<Bytes>>, String> {
    let stamp = unix_now().0 / 1000;
    let path = sink.uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = sink.uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("omnidaemon/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &delivery.event_id)
        .header("webhook-timestamp", stamp)
        .header("idempotency-key", &delivery.event_id);
    if let Some(secret) = secret {
        request = request.header(
            "webhook-signature",
            sign_webhook(secret, &delivery.event_id, stamp, &delivery.body),
        );
    }
    request.body(Full::new(delivery.body.clone())).map_err(|error| error.to_string())
}

async fn send_webhook<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |error: hyper::Error| format!("the connection broke: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered,
        // a sink may answer and close at once: the request knows which
        _ = connection => answer.await,
    };
    answered.map(|answer| answer.status()).map_err(broke)
}

/// 2xx has heard it; what the sink could do better later is tried again; the rest, a redirect too,
/// stays as it is.
fn classify_status(status: StatusCode) -> DeliveryVerdict {
    let again = status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS]
            .contains(&status);
    match status {
        status if status.is_success() => DeliveryVerdict::Delivered,
        status if again => DeliveryVerdict::Retryable(format!("answered {status}")),
        status => DeliveryVerdict::Permanent(format!("answered {status}")),
    }
}

/// `v1,<base64>` of HMAC-SHA256 over `id.timestamp.body`. A secret `whsec_<base64>` is the bytes
/// that it encodes.
fn sign_webhook(secret: &Secret, id: &str, stamp: u64, body: &[u8]) -> String {
    let text = secret.expose();
    let decoded = text.strip_prefix("whsec_").and_then(|encoded| BASE64.decode(encoded).ok());
    let key = decoded.unwrap_or_else(|| text.as_bytes().to_vec());
    let signed = [id.as_bytes(), b".", stamp.to_string().as_bytes(), b".", body].concat();
    format!("v1,{}", BASE64.encode(hmac_sha256(&key, &signed)))
}

/// RFC 2104 with SHA-256.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; SHA256_BLOCK_BYTES];
    if key.len() > SHA256_BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner =
        Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_hex(text: &str) -> Vec<u8> {
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
        (0..text.len()).step_by(2).map(byte).collect()
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let short = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(
            short[..],
            decode_hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        );
        let long =
            hmac_sha256(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(
            long[..],
            decode_hex("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54")
        );
    }

    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = br#"{"test": 2432232314}"#;
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(
            sign_webhook(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            expected
        );
    }

    #[test]
    fn a_status_says_whether_it_was_heard() {
        let word = |code: u16| match classify_status(StatusCode::from_u16(code).expect("a status"))
        {
            DeliveryVerdict::Delivered => "heard",
            DeliveryVerdict::Retryable(_) => "again",
            DeliveryVerdict::Permanent(_) => "never",
        };
        for (code, expected) in [
            (200, "heard"),
            (204, "heard"),
            (301, "never"),
            (307, "never"),
            (400, "never"),
            (404, "never"),
            (408, "again"),
            (410, "never"),
            (425, "again"),
            (429, "again"),
            (500, "again"),
            (503, "again"),
        ] {
            assert_eq!(word(code), expected, "{code}");
        }
    }
}
