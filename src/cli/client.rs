//! An HTTP client of a server's admin API.
//!
//! The address and the token come from the arguments, the environment or the configuration file. A
//! problem document of the server becomes a [`CliError`] with its detail; a response that the admin
//! API of omnidaemon cannot have sent is an error of its own.

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
use super::global::GlobalArgs;
use super::output::format_field;
use crate::config::{self, EnvVars, LoadedConfig, Secret};
use crate::outbound::{build_tls_config, format_root_cause, load_native_roots};

/// The URL of the admin API without an argument, a variable and a configuration file.
const DEFAULT_ADMIN_URL: &str = "http://127.0.0.1:8001";
/// The longest time that a request and its response may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time that opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one server's admin API.
pub(super) struct AdminClient {
    http: Http<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base_url: String,
    token: Option<Secret>,
}

/// Status, content type and body of a response.
type RawAdminResponse = (StatusCode, Option<HeaderValue>, Bytes);

// === impl AdminClient ===

impl AdminClient {
    /// A client of the server that the arguments, the environment or the configuration file name,
    /// in this order.
    pub(super) fn new(global: &GlobalArgs) -> Result<Self, CliError> {
        let loaded = load_usable_config(global);
        let listen = loaded.as_ref().map(|loaded| loaded.config.admin.listen);
        let token = global.token.clone().filter(|token| !token.is_empty()).map(Secret::new);
        let explicit_url = global.admin.clone().filter(|url| !url.is_empty());
        let connector = build_connector(explicit_url.as_deref());
        Ok(Self {
            http: Http::builder(TokioExecutor::new()).build(connector),
            base_url: normalize_base_url(
                explicit_url
                    .as_deref()
                    .unwrap_or(&listen.map_or(DEFAULT_ADMIN_URL.to_owned(), local_admin_url)),
            )?,
            token: token.or_else(|| loaded.and_then(|loaded| loaded.config.admin.token)),
        })
    }

    /// An error when no server answers at the address.
    pub(super) async fn check_reachable(&self) -> Result<(), CliError> {
        match self.request_json(Method::GET, "livez", Bytes::new()).await {
            Err(error @ CliError::Unreachable { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// `GET /admin/v1/{path}`
    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.request_json(Method::GET, &format!("admin/v1/{path}"), Bytes::new()).await
    }

    /// `POST /admin/v1/{path}` with a JSON body.
    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<Value, CliError> {
        self.request_json(Method::POST, &format!("admin/v1/{path}"), body).await
    }

    /// `DELETE /admin/v1/{path}`
    pub(super) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.request_json(Method::DELETE, &format!("admin/v1/{path}"), Bytes::new()).await
    }

    /// `GET /{path}` for a text document, such as `/metrics`.
    pub(super) async fn get_text(&self, path: &str) -> Result<String, CliError> {
        let (status, _, body) = self.send_request(Method::GET, path, Bytes::new()).await?;
        if status.is_success() {
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
        Err(CliError::NotOmnidaemon { address: self.base_url.clone() })
    }

    async fn request_json(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Value, CliError> {
        let (status, content_type, body) = self.send_request(method, path, body).await?;
        self.parse_response(status, content_type.as_ref(), &body)
    }

    async fn send_request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<RawAdminResponse, CliError> {
        let mut request =
            Request::builder().method(method).uri(format!("{}/{path}", self.base_url));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| {
            CliError::Usage(format!(
                "{} with this token or path is not a request: {error}",
                self.base_url
            ))
        })?;
        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| self.unreachable_error(&format_root_cause(&error)))?;
            let (status, content_type) =
                (response.status(), response.headers().get(header::CONTENT_TYPE).cloned());
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|error| self.unreachable_error(&format_root_cause(&error)))?;
            Ok((status, content_type, body.to_bytes()))
        };
        let timed_out = |_| {
            let reason = format!("no response within {RESPONSE_TIMEOUT:?}");
            Err(self.unreachable_error(&reason))
        };
        tokio::time::timeout(RESPONSE_TIMEOUT, exchange).await.unwrap_or_else(timed_out)
    }

    /// The document of a response. The admin API sends every error as a problem document, so
    /// another kind of error response comes from another server.
    fn parse_response(
        &self,
        status: StatusCode,
        content_type: Option<&HeaderValue>,
        body: &[u8],
    ) -> Result<Value, CliError> {
        let address = self.base_url.clone();
        let document: Option<Value> = serde_json::from_slice(body).ok();
        let is_problem = content_type.is_some_and(|value| value == "application/problem+json");
        match document {
            Some(document) if status.is_success() => Ok(document),
            Some(problem) if is_problem => Err(CliError::AdminRefused {
                address,
                status,
                detail: format_field(&problem["detail"]),
            }),
            _ => Err(CliError::NotOmnidaemon { address }),
        }
    }

    fn unreachable_error(&self, reason: &str) -> CliError {
        CliError::Unreachable { address: self.base_url.clone(), reason: reason.to_owned() }
    }
}

/// The configuration of the file; none when the file does not exist or has problems. An invalid
/// file is only reported on stderr: a server may still be running with its previous content.
pub(super) fn load_usable_config(global: &GlobalArgs) -> Option<LoadedConfig> {
    if !global.config.exists() {
        return None;
    }
    let env: EnvVars = std::env::vars().collect();
    config::load_file(&global.config, &env)
        .inspect_err(|problems| {
            let (file, count) = (&problems.file, problems.problems.len());
            eprintln!(
                "{file} is not used, since it has problems ({count}): `omnidaemon config check` \
                    shows them"
            );
        })
        .ok()
}

/// The URL without a slash at the end; an error when it has no host or another scheme than http and
/// https.
fn normalize_base_url(url: &str) -> Result<String, CliError> {
    let trimmed = url.trim_end_matches('/');
    let parsed = trimmed.parse::<Uri>().ok();
    let is_usable = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
    });
    let wrong = || {
        CliError::Usage(format!(
            "{url:?} is not an address of an admin plane: write it like {DEFAULT_ADMIN_URL}"
        ))
    };
    if is_usable { Ok(trimmed.to_owned()) } else { Err(wrong()) }
}

/// The URL at which a listener of this machine can be called.
fn local_admin_url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// A connector for http and https. The system's certificates are read only for an https URL.
fn build_connector(url: Option<&str>) -> HttpsConnector<HttpConnector> {
    let is_https = url.is_some_and(|url| url.starts_with("https:"));
    let roots = if is_https { load_native_roots() } else { RootCertStore::empty() };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    HttpsConnectorBuilder::new()
        .with_tls_config(build_tls_config(roots))
        .https_or_http()
        .enable_http1()
        .wrap_connector(http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_called_on_loopback() {
        let url = |listen: &str| local_admin_url(listen.parse().expect("an address"));
        assert_eq!(url("0.0.0.0:8001"), "http://127.0.0.1:8001");
        assert_eq!(url("[::]:8001"), "http://[::1]:8001");
        assert_eq!(url("10.0.0.7:9"), "http://10.0.0.7:9");
    }

    #[test]
    fn only_http_urls_are_addresses() {
        assert_eq!(normalize_base_url("http://h:1/").ok().as_deref(), Some("http://h:1"));
        for bad in ["h:1", "ftp://h", "http://", "not a url"] {
            assert!(matches!(normalize_base_url(bad), Err(CliError::Usage(_))), "{bad}");
        }
    }
}
