//! Posts rollout events to the webhooks of `rollout.notify`, with a few retries each.
//!
//! The lasting record of an event is the rollout's history. A notification that fails in every
//! attempt is given up and logged.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use tokio::time::sleep;

use super::stored;
use crate::config::{RouteConfig, Secret};
use crate::outbound::{build_request, send_request};
use crate::rollout::RolloutEvent;

/// The pause before each attempt.
const RETRY_DELAYS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
];
/// The longest that one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Posts each event to the webhooks that want it. The posts run in the background.
pub(super) fn notify_webhooks(route: &RouteConfig, events: &[RolloutEvent]) {
    for event in events {
        let Some(trigger) = event.notification_trigger() else { continue };
        let mut json = stored::event_to_json(&route.name, event);
        json["text"] = format_event_text(&route.name, event).into();
        let body = Bytes::from(json.to_string());
        let wanting =
            route.rollout.notifications.iter().filter(|notify| notify.triggers.contains(&trigger));
        for notify in wanting {
            let (webhook, route) = (notify.webhook_url.clone(), route.name.clone());
            tokio::spawn(post_with_retries(webhook, body.clone(), route));
        }
    }
}

/// The event as one line of text, under the JSON key that chat services display.
fn format_event_text(route: &str, event: &RolloutEvent) -> String {
    let RolloutEvent { kind, actor, reason, from_weight: from, to_weight: to, .. } = event;
    let moved = if from == to { format!("at {to}") } else { format!("from {from} to {to}") };
    format!("{route}: {} {moved}, by {actor}: {reason}", kind.as_str())
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
    tracing::warn!(route, why, "a webhook of rollout.notify could not be notified");
}

async fn post_once(webhook: &Secret, body: Bytes) -> Result<(), String> {
    let mut request = build_request(Method::POST, &webhook.read_current()?, body)?;
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (status, _) = send_request(request, ATTEMPT_TIMEOUT).await?;
    if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
}
