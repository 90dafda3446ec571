//! Access to the API: a known host name, the token where one is configured, and no changes from
//! pages of another site.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use super::problem::ApiProblem;
use super::services::AdminServices;
use crate::config::{AdminConfig, Secret};

/// Middleware: passes a request on, or answers with the reason why not.
pub(super) async fn authorize_request(
    State(services): State<AdminServices>,
    request: Request,
    next: Next,
) -> Response {
    let config = services.config();
    match check_access(&config.admin, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Checks host name, site and token, in this order.
fn check_access(
    admin: &AdminConfig,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(), ApiProblem> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_known_host(admin, host) {
        let detail =
            format!("this admin plane does not answer for {host:?}: list the name in admin.hosts");
        return Err(ApiProblem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    if *method != Method::GET && *method != Method::HEAD && is_cross_site(headers, host) {
        return Err(ApiProblem::new(
            StatusCode::FORBIDDEN,
            "changes from a page of another site are refused",
        ));
    }
    if admin.token.as_ref().is_none_or(|token| carries_token(headers, token)) {
        return Ok(());
    }
    match &admin.read_token {
        Some(token) if carries_token(headers, token) => match *method {
            Method::GET | Method::HEAD => Ok(()),
            _ => Err(ApiProblem::new(
                StatusCode::FORBIDDEN,
                "this token may only read: send `admin.token` to make changes",
            )),
        },
        _ => {
            let detail = "send the admin token as Authorization: Bearer … \
                          (OMNIDAEMON_ADMIN_TOKEN for the command line)";
            Err(ApiProblem::new(StatusCode::UNAUTHORIZED, detail))
        }
    }
}

/// Whether a Host is the listener's address, a loopback name, or a configured one.
fn is_known_host(admin: &AdminConfig, host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().ok();
    name.eq_ignore_ascii_case("localhost")
        || address.is_some_and(|ip| ip.is_loopback() || ip == admin.listen.ip())
        || admin
            .allowed_hosts
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(host))
}

/// Whether a browser says that the request comes from a page of another site.
fn is_cross_site(headers: &HeaderMap, host: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let site = text("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    let origin = text("origin").is_some_and(|origin| origin.split("://").nth(1) != Some(host));
    site || origin
}

/// Whether the request has the token. Digests are compared, so that the time of the comparison
/// reveals nothing about the token.
fn carries_token(headers: &HeaderMap, token: &Secret) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    Sha256::digest(given.as_bytes()) == Sha256::digest(token.expose().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access_status(
        method: &Method,
        pairs: &[(&'static str, &str)],
        token: Option<&str>,
    ) -> Option<StatusCode> {
        let admin = AdminConfig {
            listen: "127.0.0.1:8001".parse().expect("an address"),
            token: token.map(Secret::new),
            read_token: token.map(|_| Secret::new("l00k")),
            allowed_hosts: vec!["ops.example".into()],
        };
        let headers = pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect();
        check_access(&admin, method, &headers).err().map(|problem| problem.status)
    }

    #[test]
    fn only_known_host_names_are_answered() {
        for host in
            ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "ops.example", "OPS.example:443"]
        {
            assert_eq!(access_status(&Method::GET, &[("host", host)], None), None, "{host}");
        }
        for host in ["evil", "evil:8001", "", "127.0.0.1.evil"] {
            assert_eq!(
                access_status(&Method::GET, &[("host", host)], None),
                Some(StatusCode::MISDIRECTED_REQUEST),
                "{host}"
            );
        }
    }

    #[test]
    fn changes_from_a_page_of_another_site_are_refused() {
        let host = ("host", "localhost:8001");
        let post = |pairs: &[(&'static str, &str)]| access_status(&Method::POST, pairs, None);
        assert_eq!(post(&[host, ("origin", "http://evil")]), Some(StatusCode::FORBIDDEN));
        assert_eq!(post(&[host, ("sec-fetch-site", "cross-site")]), Some(StatusCode::FORBIDDEN));
        assert_eq!(
            post(&[host, ("origin", "http://localhost:8001"), ("sec-fetch-site", "same-origin")]),
            None
        );
        assert_eq!(post(&[host]), None);
    }

    #[test]
    fn a_configured_token_is_required() {
        let get =
            |pairs: &[(&'static str, &str)]| access_status(&Method::GET, pairs, Some("t0ken"));
        let host = ("host", "localhost");
        assert_eq!(get(&[host]), Some(StatusCode::UNAUTHORIZED));
        assert_eq!(get(&[host, ("authorization", "Bearer wrong")]), Some(StatusCode::UNAUTHORIZED));
        assert_eq!(get(&[host, ("authorization", "Bearer t0ken")]), None);
    }

    #[test]
    fn the_read_token_reads_and_changes_nothing() {
        let pairs = [("host", "localhost"), ("authorization", "Bearer l00k")];
        for (method, refused) in [(Method::GET, None), (Method::HEAD, None)].into_iter().chain(
            [Method::POST, Method::PUT, Method::DELETE]
                .map(|method| (method, Some(StatusCode::FORBIDDEN))),
        ) {
            assert_eq!(access_status(&method, &pairs, Some("t0ken")), refused, "{method}");
        }
    }
}
