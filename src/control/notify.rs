//! Tells the webhooks of `rollout.notify` what happened: each event a few times, until it is taken.
//!
//! A notification is not a record: the history is. It is given up after the last try, with a line in the log.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use tokio::time::sleep;

use super::{calls, state};
use crate::config::{Notice, Route, Secret};
use crate::rollout::{Happened, Phase};

/// Before each try.
const PAUSES: [Duration; 5] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_mins(2)];
/// The longest that one try may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What an event is, to those who are told.
fn notice(happened: &Happened) -> Option<Notice> {
    match (happened.event, &happened.phase) {
        ("rollback" | "abort", _) => Some(Notice::Rollback),
        ("pause", _) => Some(Notice::Paused),
        ("step", Phase::Healthy) => Some(Notice::Healthy),
        ("step" | "promote", _) => Some(Notice::Step),
        _ => None,
    }
}

/// Tells whoever asked for it, beside everything else.
pub(super) fn tell(route: &Route, happened: &[Happened]) {
    for happened in happened {
        let Some(notice) = notice(happened) else { continue };
        let told = route.rollout.notify.iter().filter(|notify| notify.on.contains(&notice));
        let mut event = state::write_happened(&route.name, happened);
        event["text"] = said(&route.name, happened).into();
        let body = Bytes::from(event.to_string());
        for notify in told {
            tokio::spawn(post(notify.webhook.clone(), body.clone(), route.name.clone()));
        }
    }
}

/// One line for people, under the key that chat services show.
fn said(route: &str, happened: &Happened) -> String {
    let Happened { event, by, reason, from, to, .. } = happened;
    let moved = if from == to { format!("at {to}") } else { format!("from {from} to {to}") };
    format!("{route}: {event} {moved}, by {by}: {reason}")
}

async fn post(webhook: Secret, body: Bytes, route: String) {
    let mut why = String::new();
    for pause in PAUSES {
        sleep(pause).await;
        match try_to_post(&webhook, body.clone()).await {
            Ok(()) => return,
            Err(error) => why = error,
        }
    }
    tracing::warn!(route, why, "a webhook of rollout.notify could not be told");
}

async fn try_to_post(webhook: &Secret, body: Bytes) -> Result<(), String> {
    let mut request = calls::request(Method::POST, &webhook.current()?, body)?;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (status, _) = calls::send(request, LIMIT).await?;
    if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
}
