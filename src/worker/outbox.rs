//! Delivers what the outbox holds, beside the tasks and never in their way: webhooks are posted, replies become tasks.
//!
//! A delivery is taken for longer than it may last, so that one process at a time tries it; a process that dies leaves
//! it to another. What failed comes again, each time later, until it was heard or `webhooks.retries` is spent. A sink
//! has [`PER_SINK`] deliveries under way at most: one that hangs keeps nobody else waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::pool::Shared;
use super::webhook::{self, Verdict};
use super::{now, retry};
use crate::config::Config;
use crate::outbound::{native_roots, tls};
use crate::route::sink;
use crate::store::{Delivery, DeliveryKind, Outcome, Queue, StoreError};
use crate::task::{Task, Topic};

/// How often an empty outbox is looked into.
const LOOK: Duration = Duration::from_millis(500);
/// Deliveries under way at a time, and of these to one sink.
const AT_ONCE: usize = 64;
const PER_SINK: usize = 8;
/// For how long a delivery is hidden beyond its timeout.
const HOLD: Duration = Duration::from_secs(30);
/// When what its sink had no room for is looked at again.
const NO_ROOM: Duration = Duration::from_secs(2);
/// The first pause after a failed try, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_hours(6);

/// Whom deliveries are under way to, and how many.
type UnderWay = HashMap<String, usize>;

/// Delivers until `done`; what is under way then is left to be tried again.
pub(super) async fn run(shared: &Arc<Shared>, done: &CancellationToken) {
    let (mut trying, mut under_way) = (JoinSet::new(), UnderWay::new());
    let tls = Arc::new(tls(native_roots()));
    while !done.is_cancelled() {
        let free = AT_ONCE - trying.len();
        let taken = if free > 0 && shared.capacity() > 0 && shared.circuit.is_clear() {
            take(shared, free).await
        } else {
            Vec::new()
        };
        let full = free > 0 && taken.len() == free;
        for delivery in taken {
            start(shared, &mut trying, &mut under_way, &tls, delivery).await;
        }
        tokio::select! {
            () = done.cancelled() => {}
            Some(ended) = trying.join_next() => ended_one(&mut under_way, ended),
            () = sleep(LOOK), if !full || trying.len() >= AT_ONCE => {}
            () = std::future::ready(()), if full && trying.len() < AT_ONCE => {}
        }
    }
}

async fn take(shared: &Shared, max: usize) -> Vec<Delivery> {
    let hold = shared.snapshots.load().config.webhooks.timeout + HOLD;
    let taken = shared.circuit.call(shared.circuit.store().take_deliveries(max, hold)).await;
    taken.unwrap_or_else(|error| {
        if !error.is_outage() {
            tracing::warn!(%error, "the outbox cannot be read");
        }
        Vec::new()
    })
}

/// Begins one delivery, or puts it off where its sink has enough of them.
async fn start(
    shared: &Arc<Shared>,
    trying: &mut JoinSet<String>,
    under_way: &mut UnderWay,
    tls: &Arc<rustls::ClientConfig>,
    delivery: Delivery,
) {
    let to = destination(&delivery);
    let count = under_way.entry(to.clone()).or_default();
    if *count >= PER_SINK {
        return settle(shared, &delivery, Outcome::Again { at: now().plus(NO_ROOM), error: None }).await;
    }
    *count += 1;
    let (shared, tls) = (Arc::clone(shared), Arc::clone(tls));
    trying.spawn(async move {
        let config = shared.snapshots.load().config.clone();
        let outcome = attempt(&shared, &config, &tls, &delivery).await;
        note(&shared, &delivery, &outcome);
        settle(&shared, &delivery, outcome).await;
        to
    });
}

fn ended_one(under_way: &mut UnderWay, ended: Result<String, tokio::task::JoinError>) {
    match ended {
        Ok(to) => {
            if let Some(count) = under_way.get_mut(&to) {
                *count -= 1;
                if *count == 0 {
                    under_way.remove(&to);
                }
            }
        }
        Err(error) => tracing::error!(%error, "a delivery panicked: it is tried again"),
    }
}

/// Whom it goes to, as far as they get into each other's way: of a URL host and port alone, since it is logged.
fn destination(delivery: &Delivery) -> String {
    let place = |url: &str| {
        let uri: http::Uri = url.parse().ok()?;
        let host = uri.host()?.to_ascii_lowercase();
        Some(uri.port_u16().map_or_else(|| host.clone(), |port| format!("{host}:{port}")))
    };
    match delivery.kind {
        DeliveryKind::Webhook => place(&delivery.target).unwrap_or_default(),
        DeliveryKind::Reply => format!("{}/", delivery.target),
    }
}

async fn attempt(shared: &Shared, config: &Config, tls: &Arc<rustls::ClientConfig>, delivery: &Delivery) -> Outcome {
    let verdict = match delivery.kind {
        DeliveryKind::Webhook => match sink(&delivery.target, &config.webhooks) {
            Ok(sink) => webhook::post(&sink, delivery, &config.webhooks, tls).await,
            Err(refused) => Verdict::Never(refused.to_string()),
        },
        DeliveryKind::Reply => reply(shared, config, delivery).await,
    };
    match verdict {
        Verdict::Heard => Outcome::Done,
        Verdict::Never(error) => Outcome::Drop { error },
        Verdict::Failed(error) if delivery.attempt > config.webhooks.retries => {
            Outcome::Drop { error: format!("given up after {} attempts: {error}", delivery.attempt) }
        }
        Verdict::Failed(error) => {
            let pause = retry::pause(delivery.attempt, FIRST_PAUSE, LONGEST_PAUSE, rand::random());
            Outcome::Again { at: now().plus(pause), error: Some(error) }
        }
    }
}

/// Makes the result a task of the topic that waits for it. Its id is of the event: made twice, it is there once.
async fn reply(shared: &Shared, config: &Config, delivery: &Delivery) -> Verdict {
    let known = Topic::parse(&delivery.target).ok().and_then(|topic| config.topics.get_key_value(&topic));
    let Some((topic, known)) = known else {
        return Verdict::Never(format!("there is no topic {} in the configuration", delivery.target));
    };
    let task = Task {
        causation_id: Some(delivery.task.to_string()),
        correlation_id: delivery.correlation_id.clone(),
        owner: delivery.owner.clone(),
        retries: known.retries,
        ..Task::new(delivery.reply_id(), topic.clone(), delivery.body.clone(), now())
    };
    match shared.circuit.call(shared.circuit.store().enqueue(&task, &Queue::new(topic, known))).await {
        Ok(()) => {
            shared.metrics.task_received(topic.as_str());
            Verdict::Heard
        }
        Err(error) => Verdict::Failed(error.to_string()),
    }
}

fn note(shared: &Shared, delivery: &Delivery, outcome: &Outcome) {
    let (task_id, event, attempt) = (&delivery.task, &delivery.event, delivery.attempt);
    let (kind, to) = (delivery.kind.as_str(), destination(delivery));
    match outcome {
        Outcome::Done => {
            shared.metrics.delivery(kind, "delivered");
            tracing::debug!(%task_id, event, kind, to, attempt, "delivered");
        }
        Outcome::Again { error, .. } => {
            shared.metrics.delivery(kind, "retried");
            tracing::info!(%task_id, event, kind, to, attempt, ?error, "not delivered: it is tried again");
        }
        Outcome::Drop { error } => {
            shared.metrics.delivery(kind, "dropped");
            tracing::warn!(%task_id, event, kind, to, attempt, %error, "a delivery is dropped");
        }
    }
}

/// Where this cannot be said, the delivery comes again by itself.
async fn settle(shared: &Shared, delivery: &Delivery, outcome: Outcome) {
    let said: Result<(), StoreError> =
        shared.circuit.call(shared.circuit.store().settle_delivery(delivery, &outcome)).await;
    if let Err(error) = said {
        tracing::debug!(event = delivery.event, %error, "a delivery is not settled: it is tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{TaskId, UnixMs};

    #[test]
    fn a_destination_is_host_and_port_and_no_password() {
        let to = |target: &str| {
            destination(&Delivery {
                task: TaskId::new(UnixMs(1), 1),
                kind: DeliveryKind::Webhook,
                target: target.into(),
                event: String::new(),
                ended: UnixMs(1),
                body: bytes::Bytes::new(),
                owner: None,
                correlation_id: None,
                attempt: 1,
            })
        };
        assert_eq!(to("https://user:secret@Hooks.example.com:8443/x"), "hooks.example.com:8443");
        assert_eq!(to("https://user:secret@hooks.example.com/x"), "hooks.example.com");
        assert_eq!((to("http://[::1]:80/"), to("no url at all")), ("[::1]:80".into(), String::new()));
    }
}
