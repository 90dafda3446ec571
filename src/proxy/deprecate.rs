//! Telling legacy clients to move on: headers on every answer, a redirect, or 410.

use http::Response;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::body::Reply;
use super::respond::{self, Problem};
use crate::config::{Deprecation, DeprecationMode, Route};

static DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
static SUNSET: HeaderName = HeaderName::from_static("sunset");

/// What the clients of a deprecated route are told.
pub(super) struct Told<'d> {
    config: &'d Deprecation,
}

// === impl Told ===

impl<'d> Told<'d> {
    /// None for a route that is not deprecated.
    pub(super) fn of(config: &'d Deprecation) -> Option<Self> {
        (config.mode != DeprecationMode::None).then_some(Self { config })
    }

    /// The answer that takes the place of the real one, where the mode has one.
    pub(super) fn instead(&self, route: &Route) -> Option<Response<Reply>> {
        let mut response = match self.config.mode {
            DeprecationMode::None | DeprecationMode::Announce => return None,
            DeprecationMode::Redirect => {
                let successor = self.config.successor.as_deref().unwrap_or("/");
                let location = HeaderValue::from_str(successor).ok()?; // checked when the file was read
                respond::redirect(&location, self.config.permanent)
            }
            DeprecationMode::Gone => {
                let (route, successor) = (route.path.text.clone(), self.config.successor.clone());
                Problem::Gone { route, successor }.into_response()
            }
        };
        self.announce(response.headers_mut());
        Some(response)
    }

    /// Adds `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link` to an answer.
    pub(super) fn announce(&self, headers: &mut HeaderMap) {
        if let Some(at) = self.config.deprecated_at {
            insert(headers, &DEPRECATION, &format!("@{}", at.as_second()));
        }
        if let Some(at) = self.config.sunset_at {
            insert(headers, &SUNSET, &at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
        }
        let links = [(&self.config.successor, "successor-version"), (&self.config.link, "deprecation")];
        for (target, relation) in links {
            if let Some(value) = target.as_ref().and_then(|to| format!("<{to}>; rel=\"{relation}\"").parse().ok()) {
                headers.append(header::LINK, value);
            }
        }
    }
}

fn insert(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
