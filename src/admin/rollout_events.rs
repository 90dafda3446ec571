//! `GET rollouts/{route}/events`: how a rollout stands, as server-sent events.
//!
//! `rollout` with the document of `GET rollouts/{route}`: at first, and whenever something
//! that matters has changed (not each second of a soak). A comment shows that the stream lives; it
//! ends when the server drains, and browsers connect again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde_json::Value;
use tokio::sync::watch;

use super::AdminServices;
use super::api::ApiProblem;
use super::rollouts::render_rollout;
use crate::control::RolloutsView;

/// How often a comment shows that the stream lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// What a stream goes on from.
struct RolloutEventStream {
    parts: AdminServices,
    route: String,
    views: watch::Receiver<Arc<RolloutsView>>,
    last_sent: Option<Value>,
}

pub(super) async fn get_events(
    State(parts): State<AdminServices>,
    Path(route): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiProblem> {
    let mut views = parts.rollouts.subscribe();
    let view = views.borrow_and_update().clone();
    render_rollout(&parts, &route, &view)?; // or there is no such route
    views.mark_changed();
    let events = RolloutEventStream { parts, route, views, last_sent: None };
    let next = |mut events: RolloutEventStream| async move {
        events.next().await.map(|event| (Ok(event), events))
    };
    Ok(Sse::new(stream::unfold(events, next))
        .keep_alive(KeepAlive::new().interval(KEEPALIVE_INTERVAL)))
}

// === impl Events ===

impl RolloutEventStream {
    /// The next event; none when the server drains, or the route is gone.
    async fn next(&mut self) -> Option<Event> {
        let draining = self.parts.health.draining.clone();
        loop {
            draining.run_until_cancelled(self.views.changed()).await?.ok()?;
            let view = self.views.borrow_and_update().clone();
            let document = render_rollout(&self.parts, &self.route, &view).ok()?;
            let matters = Some(strip_volatile_fields(&document));
            if matters != self.last_sent {
                self.last_sent = matters;
                return Some(Event::default().event("rollout").data(document.to_string()));
            }
        }
    }
}

/// The document without what changes by itself: a soak under way and the numbers that the gates
/// count.
fn strip_volatile_fields(document: &Value) -> Value {
    const VOLATILE_FIELDS: [&str; 9] = [
        "soak",
        "countdown",
        "pauses_in",
        "explain",
        "gates",
        "evidence",
        "per_minute",
        "passes",
        "fails",
    ];
    let mut matters = document.clone();
    if let Value::Object(fields) = &mut matters {
        fields.retain(|name, _| !VOLATILE_FIELDS.contains(&name.as_str()));
    }
    let gates = document["gates"].as_array().into_iter().flatten();
    matters["verdicts"] = gates.map(|gate| gate["verdict"].clone()).collect();
    matters
}
