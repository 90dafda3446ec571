//! A client of the admin plane: finds it, proves itself, and turns its problems into messages.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use serde_json::Value;

use super::exit::CliError;
use super::global::Global;
use super::output::text;
use crate::config::{self, Env, Loaded, Secret};
use crate::outbound::{innermost, native_roots, tls};

/// Where the admin plane is when nothing says otherwise.
const DEFAULT: &str = "http://127.0.0.1:8001";
/// The longest that an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// What asks one server.
pub(super) struct Client {
    http: Http<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    token: Option<Secret>,
}

/// Status, content type and body of an answer.
type Exchanged = (StatusCode, Option<HeaderValue>, Bytes);

// === impl Client ===

impl Client {
    /// A client of the server that the arguments, the environment or the configuration file name, in this order.
    pub(super) fn new(global: &Global) -> Result<Self, CliError> {
        let loaded = configuration(global);
        let listen = loaded.as_ref().map(|loaded| loaded.config.admin.listen);
        let token = global.token.clone().filter(|token| !token.is_empty()).map(Secret::new);
        let given = global.admin.clone().filter(|url| !url.is_empty());
        Ok(Self {
            http: Http::builder(TokioExecutor::new()).build(connector(given.as_deref())),
            base: base(given.as_deref().unwrap_or(&listen.map_or(DEFAULT.to_owned(), reachable)))?,
            token: token.or_else(|| loaded.and_then(|loaded| loaded.config.admin.token)),
        })
    }

    /// Whether anything answers.
    pub(super) async fn find(&self) -> Result<(), CliError> {
        match self.ask(Method::GET, "livez", Bytes::new()).await {
            Err(error @ CliError::Unreachable { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// `GET /admin/v1/{path}`
    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.ask(Method::GET, &format!("admin/v1/{path}"), Bytes::new()).await
    }

    /// `POST /admin/v1/{path}` with a JSON body.
    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<Value, CliError> {
        self.ask(Method::POST, &format!("admin/v1/{path}"), body).await
    }

    /// `DELETE /admin/v1/{path}`
    pub(super) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.ask(Method::DELETE, &format!("admin/v1/{path}"), Bytes::new()).await
    }

    /// `GET /{path}`: a text, such as `/metrics`.
    pub(super) async fn text(&self, path: &str) -> Result<String, CliError> {
        let (status, _, body) = self.exchange(Method::GET, path, Bytes::new()).await?;
        if status.is_success() {
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
        Err(CliError::Stranger { address: self.base.clone() })
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Value, CliError> {
        let (status, kind, body) = self.exchange(method, path, body).await?;
        self.read(status, kind.as_ref(), &body)
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Exchanged, CliError> {
        let mut request = Request::builder().method(method).uri(format!("{}/{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| {
            CliError::Usage(format!("{} with this token or path is not a request: {error}", self.base))
        })?;
        let answered = async {
            let response = self.http.request(request).await.map_err(|error| self.unreachable(&innermost(&error)))?;
            let (status, kind) = (response.status(), response.headers().get(header::CONTENT_TYPE).cloned());
            let body = response.into_body().collect().await.map_err(|error| self.unreachable(&innermost(&error)))?;
            Ok((status, kind, body.to_bytes()))
        };
        let late = |_| Err(self.unreachable(&format!("nothing within {TIMEOUT:?}")));
        tokio::time::timeout(TIMEOUT, answered).await.unwrap_or_else(late)
    }

    /// The answer's document; a refusal of ours is a problem document, so anything else is somebody else's.
    fn read(&self, status: StatusCode, kind: Option<&HeaderValue>, body: &[u8]) -> Result<Value, CliError> {
        let address = self.base.clone();
        let document: Option<Value> = serde_json::from_slice(body).ok();
        let is_problem = kind.is_some_and(|kind| kind == "application/problem+json");
        match document {
            Some(document) if status.is_success() => Ok(document),
            Some(problem) if is_problem => Err(CliError::Refused { address, status, detail: text(&problem["detail"]) }),
            _ => Err(CliError::Stranger { address }),
        }
    }

    fn unreachable(&self, reason: &str) -> CliError {
        CliError::Unreachable { address: self.base.clone(), reason: reason.to_owned() }
    }
}

/// The configuration file, where it is there and right; a wrong one is named and not used, as a server may well
/// run on what it said before.
pub(super) fn configuration(global: &Global) -> Option<Loaded> {
    if !global.config.exists() {
        return None;
    }
    let env: Env = std::env::vars().collect();
    config::load(&global.config, &env)
        .inspect_err(|problems| {
            let (file, count) = (&problems.file, problems.list.len());
            eprintln!("{file} is not used, it has mistakes ({count}): `omnidaemon config check` shows them");
        })
        .ok()
}

fn base(url: &str) -> Result<String, CliError> {
    let trimmed = url.trim_end_matches('/');
    let parsed = trimmed.parse::<Uri>().ok();
    let usable = parsed.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    let wrong = || CliError::Usage(format!("{url:?} is not an address of an admin plane: write it like {DEFAULT}"));
    if usable { Ok(trimmed.to_owned()) } else { Err(wrong()) }
}

/// The URL at which a listener of this machine can be called.
fn reachable(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// Plain or TLS; the system's certificates are only read where they are needed.
fn connector(url: Option<&str>) -> HttpsConnector<HttpConnector> {
    let is_https = url.is_some_and(|url| url.starts_with("https:"));
    let roots = if is_https { native_roots() } else { RootCertStore::empty() };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT));
    HttpsConnectorBuilder::new().with_tls_config(tls(roots)).https_or_http().enable_http1().wrap_connector(http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_called_on_loopback() {
        let url = |listen: &str| reachable(listen.parse().expect("an address"));
        assert_eq!(url("0.0.0.0:8001"), "http://127.0.0.1:8001");
        assert_eq!(url("[::]:8001"), "http://[::1]:8001");
        assert_eq!(url("10.0.0.7:9"), "http://10.0.0.7:9");
    }

    #[test]
    fn only_http_urls_are_addresses() {
        assert_eq!(base("http://h:1/").ok().as_deref(), Some("http://h:1"));
        for bad in ["h:1", "ftp://h", "http://", "not a url"] {
            assert!(matches!(base(bad), Err(CliError::Usage(_))), "{bad}");
        }
    }
}
