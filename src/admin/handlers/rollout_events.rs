//! `GET rollouts/{route}/events`: the state of a rollout as server-sent events.
//!
//! Each `rollout` event carries the document of `GET rollouts/{route}`: one at first, and one
//! whenever its stable part changes, so not for each second of a soak. Comments in between keep the
//! connection alive. The stream ends when the server drains; browsers then connect again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use super::rollouts::render_rollout;
use crate::admin::problem::ApiProblem;
use crate::admin::services::AdminServices;
use crate::admin::views::RolloutDocument;
use crate::control::RolloutsView;

/// Time between two keep-alive comments.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// One follower's stream.
struct RolloutEventStream {
    services: AdminServices,
    route: String,
    views: watch::Receiver<Arc<RolloutsView>>,
    /// The stable part of the last event.
    last_sent: Option<RolloutDocument>,
}

pub(crate) async fn get_events(
    State(services): State<AdminServices>,
    Path(route): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiProblem> {
    let mut views = services.rollouts.subscribe();
    let view = views.borrow_and_update().clone();
    render_rollout(&services, &route, &view)?; // 404 for a route that does not exist
    views.mark_changed();
    let events = RolloutEventStream { services, route, views, last_sent: None };
    let next = |mut events: RolloutEventStream| async move {
        events.next().await.map(|event| (Ok(event), events))
    };
    Ok(Sse::new(stream::unfold(events, next))
        .keep_alive(KeepAlive::new().interval(KEEPALIVE_INTERVAL)))
}

impl RolloutEventStream {
    /// The next event; none when the server drains, or the route was removed.
    async fn next(&mut self) -> Option<Event> {
        let draining = self.services.health.draining.clone();
        loop {
            draining.run_until_cancelled(self.views.changed()).await?.ok()?;
            let view = self.views.borrow_and_update().clone();
            let document = render_rollout(&self.services, &self.route, &view).ok()?;
            let stable = Some(document.stable_part());
            if stable != self.last_sent {
                self.last_sent = stable;
                return Event::default().event("rollout").json_data(document).ok();
            }
        }
    }
}
