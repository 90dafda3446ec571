//! Tells the webhooks of `rollout.notify` what happened: each event a few times, until it is taken.
//!
//! A notification is not a record: the history is. It is given up after the last try, with a line
//! in the log.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use tokio::time::sleep;

use super::{calls, stored};
use crate::config::{RouteConfig, Secret};
use crate::rollout::RolloutEvent;

/// Before each try.
const RETRY_DELAYS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
];
/// The longest that one try may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Tells whoever asked for it, beside everything else.
pub(super) fn notify_webhooks(route: &RouteConfig, happened: &[RolloutEvent]) {
    for happened in happened {
        let Some(notice) = happened.notification_trigger() else { continue };
        let told =
            route.rollout.notifications.iter().filter(|notify| notify.triggers.contains(&notice));
        let mut event = stored::event_to_json(&route.name, happened);
        event["text"] = format_event_text(&route.name, happened).into();
        let body = Bytes::from(event.to_string());
        for notify in told {
            tokio::spawn(post_with_retries(
                notify.webhook_url.clone(),
                body.clone(),
                route.name.clone(),
            ));
        }
    }
}

/// One line for people, under the key that chat services show.
fn format_event_text(route: &str, happened: &RolloutEvent) -> String {
    let RolloutEvent { kind: event, actor: by, reason, from_weight: from, to_weight: to, .. } =
        happened;
    let moved = if from == to { format!("at {to}") } else { format!("from {from} to {to}") };
    format!("{route}: {} {moved}, by {by}: {reason}", event.as_str())
}

async fn post_with_retries(webhook: Secret, body: Bytes, route: String) {
    let mut why = String::new();
    for pause in RETRY_DELAYS {
        sleep(pause).await;
        match post_once(&webhook, body.clone()).await {
            Ok(()) => return,
            Err(error) => why = error,
        }
    }
    tracing::warn!(route, why, "a webhook of rollout.notify could not be told");
}

async fn post_once(webhook: &Secret, body: Bytes) -> Result<(), String> {
    let mut request = calls::build_request(Method::POST, &webhook.read_current()?, body)?;
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (status, _) = calls::send_request(request, ATTEMPT_TIMEOUT).await?;
    if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
}
