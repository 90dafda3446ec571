//! Checks that a request may be passed on, and makes its context.

use std::cell::Cell;
use std::time::Instant;

use http::{Request, header};
use hyper::body::Incoming;

use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::context::{ClientConnection, RequestContext};
use crate::proxy::http::headers::client_request_id;
use crate::proxy::http::validate::{RequestRejection, validate_request};

/// Why the framing check refuses a head.
const AMBIGUOUS_HEAD: &str = "a line of the head ends without CR, or Content-Length is malformed \
                              or stands beside Transfer-Encoding";

/// The context of a request that has just been parsed. Loads the snapshot that holds for the whole
/// request.
pub(crate) fn new_context<'c>(
    connection: &'c ClientConnection,
    request: &Request<Incoming>,
) -> RequestContext<'c> {
    let started_at = Instant::now();
    let snapshot = connection.thread.services.snapshots.load();
    let trusted_networks = &snapshot.config.proxy.trusted_networks;
    let is_trusted =
        trusted_networks.iter().any(|network| network.contains(connection.peer_address));
    let request_id =
        client_request_id(request.headers()).unwrap_or_else(|| connection.thread.new_request_id());
    RequestContext {
        connection,
        snapshot,
        is_trusted,
        request_id,
        started_at,
        client_group: Cell::new(None),
    }
}

/// Checks a request, and rewrites it into the form that the upstream gets.
///
/// # Errors
/// If the request is framed ambiguously, malformed, or has passed through this process before.
pub(crate) fn check_request(
    context: &RequestContext<'_>,
    request: &mut Request<Incoming>,
) -> Result<(), ProxyProblem> {
    check_head_framing(context.connection)?;
    validate_request(request)?;
    if has_passed_here(context, request) { Err(ProxyProblem::LoopDetected) } else { Ok(()) }
}

/// Whether the head of the request that the parser has just returned is framed unambiguously.
fn check_head_framing(connection: &ClientConnection) -> Result<(), RequestRejection> {
    let number = connection.next_request_number();
    match &connection.framing_report {
        Some(report) if report.is_refused(number) => {
            Err(RequestRejection::Malformed(AMBIGUOUS_HEAD))
        }
        _ => Ok(()),
    }
}

/// Whether `Via` names this process.
fn has_passed_here(context: &RequestContext<'_>, request: &Request<Incoming>) -> bool {
    let own_element = &context.thread().via_header;
    let fields = request.headers().get_all(header::VIA).iter();
    fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .any(|element| element.trim() == own_element)
}
