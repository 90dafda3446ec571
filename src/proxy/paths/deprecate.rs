//! The deprecation of a route: headers on every response, a redirect to the successor, or 410.

use http::Response;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::config::{DeprecationConfig, DeprecationMode, RouteConfig};
use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response::respond_redirect;
use crate::proxy::answer::response_body::ResponseBody;

static DEPRECATION_HEADER: HeaderName = HeaderName::from_static("deprecation");
static SUNSET_HEADER: HeaderName = HeaderName::from_static("sunset");

/// The deprecation that the clients of a route are notified of.
pub(crate) struct DeprecationNotice<'d> {
    config: &'d DeprecationConfig,
}

// === impl DeprecationNotice ===

impl<'d> DeprecationNotice<'d> {
    /// The notice of a route; `None` if the route is not deprecated.
    pub(crate) fn from_config(config: &'d DeprecationConfig) -> Option<Self> {
        (config.mode != DeprecationMode::None).then_some(Self { config })
    }

    /// The response in place of the route's own, in the modes `redirect` and `gone`.
    pub(crate) fn replacement_response(
        &self,
        route: &RouteConfig,
    ) -> Option<Response<ResponseBody>> {
        let mut response = match self.config.mode {
            DeprecationMode::None | DeprecationMode::Announce => return None,
            DeprecationMode::Redirect => {
                let successor = self.config.successor.as_deref().unwrap_or("/");
                // Always a valid value: checked with the configuration.
                let location = HeaderValue::from_str(successor).ok()?;
                respond_redirect(&location, self.config.permanent_redirect)
            }
            DeprecationMode::Gone => {
                let route = route.path.source_text.clone();
                let successor = self.config.successor.clone();
                ProxyProblem::RouteGone { route, successor }.into_response()
            }
        };
        self.add_headers(response.headers_mut());
        Some(response)
    }

    /// Adds `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link` to a response.
    pub(crate) fn add_headers(&self, headers: &mut HeaderMap) {
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
                target.as_ref().and_then(|url| format!("<{url}>; rel=\"{relation}\"").parse().ok())
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
