//! Telling legacy clients to move on: headers on every answer, a redirect, or 410.

use http::Response;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::body::ResponseBody;
use super::respond::{self, ProxyProblem};
use crate::config::{DeprecationConfig, DeprecationMode, RouteConfig};

static DEPRECATION_HEADER: HeaderName = HeaderName::from_static("deprecation");
static SUNSET_HEADER: HeaderName = HeaderName::from_static("sunset");

/// What the clients of a deprecated route are told.
pub(super) struct DeprecationNotice<'d> {
    config: &'d DeprecationConfig,
}

// === impl Told ===

impl<'d> DeprecationNotice<'d> {
    /// None for a route that is not deprecated.
    pub(super) fn from_config(config: &'d DeprecationConfig) -> Option<Self> {
        (config.mode != DeprecationMode::None).then_some(Self { config })
    }

    /// The answer that takes the place of the real one, where the mode has one.
    pub(super) fn replacement_response(
        &self,
        route: &RouteConfig,
    ) -> Option<Response<ResponseBody>> {
        let mut response = match self.config.mode {
            DeprecationMode::None | DeprecationMode::Announce => return None,
            DeprecationMode::Redirect => {
                let successor = self.config.successor.as_deref().unwrap_or("/");
                let location = HeaderValue::from_str(successor).ok()?; // checked when the file was read
                respond::respond_redirect(&location, self.config.permanent_redirect)
            }
            DeprecationMode::Gone => {
                let (route, successor) =
                    (route.path.source_text.clone(), self.config.successor.clone());
                ProxyProblem::RouteGone { route, successor }.into_response()
            }
        };
        self.add_headers(response.headers_mut());
        Some(response)
    }

    /// Adds `DeprecationConfig` (RFC 9745), `Sunset` (RFC 8594) and `MasterLink` to an answer.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        if let Some(at) = self.config.deprecated_at {
            insert_header(headers, &DEPRECATION_HEADER, &format!("@{}", at.as_second()));
        }
        if let Some(at) = self.config.sunset_at {
            insert_header(
                headers,
                &SUNSET_HEADER,
                &at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
            );
        }
        let links =
            [(&self.config.successor, "successor-version"), (&self.config.link, "deprecation")];
        for (target, relation) in links {
            if let Some(value) =
                target.as_ref().and_then(|to| format!("<{to}>; rel=\"{relation}\"").parse().ok())
            {
                headers.append(header::LINK, value);
            }
        }
    }
}

fn insert_header(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
