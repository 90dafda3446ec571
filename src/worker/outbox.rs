//! Delivers what the outbox holds, beside the tasks and never in their way: webhooks are posted,
//! replies become tasks.
//!
//! A delivery is taken for longer than it may last, so that one process at a time tries it; a
//! process that dies leaves it to another. What failed comes again, each time later, until it was
//! heard or `webhooks.retries` is spent. A sink has [`MAX_PER_DESTINATION`] deliveries under way at
//! most: one that hangs keeps nobody else waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::pool::WorkerContext;
use super::webhook::{self, DeliveryVerdict};
use super::{retry, unix_now};
use crate::config::Config;
use crate::outbound::{build_tls_config, load_native_roots};
use crate::route::parse_webhook_target;
use crate::store::{Delivery, DeliveryKind, DeliveryOutcome, StoreError, TopicQueue};
use crate::task::{Task, Topic};

/// How often an empty outbox is looked into.
const OUTBOX_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Deliveries under way at a time, and of these to one sink.
const MAX_DELIVERIES: usize = 64;
const MAX_PER_DESTINATION: usize = 8;
/// For how long a delivery is hidden beyond its timeout.
const CLAIM_MARGIN: Duration = Duration::from_secs(30);
/// When what its sink had no room for is looked at again.
const BUSY_DESTINATION_DELAY: Duration = Duration::from_secs(2);
/// The first pause after a failed try, and the longest.
const FIRST_DELIVERY_DELAY: Duration = Duration::from_secs(5);
const MAX_DELIVERY_DELAY: Duration = Duration::from_hours(6);

/// Whom deliveries are under way to, and how many.
type DeliveriesByDestination = HashMap<String, usize>;

/// Delivers until `done`; what is under way then is left to be tried again.
pub(super) async fn run_deliveries(shared: &Arc<WorkerContext>, done: &CancellationToken) {
    let (mut trying, mut under_way) = (JoinSet::new(), DeliveriesByDestination::new());
    let tls = Arc::new(build_tls_config(load_native_roots()));
    while !done.is_cancelled() {
        let free = MAX_DELIVERIES - trying.len();
        let taken = if free > 0 && shared.slot_count() > 0 && shared.circuit.is_clear_to_run() {
            claim_due_deliveries(shared, free).await
        } else {
            Vec::new()
        };
        let full = free > 0 && taken.len() == free;
        for delivery in taken {
            start_delivery(shared, &mut trying, &mut under_way, &tls, delivery).await;
        }
        tokio::select! {
            () = done.cancelled() => {}
            Some(ended) = trying.join_next() => release_destination(&mut under_way, ended),
            () = sleep(OUTBOX_POLL_INTERVAL), if !full || trying.len() >= MAX_DELIVERIES => {}
            () = std::future::ready(()), if full && trying.len() < MAX_DELIVERIES => {}
        }
    }
}

async fn claim_due_deliveries(shared: &WorkerContext, max: usize) -> Vec<Delivery> {
    let hold = shared.snapshots.load().config.webhooks.timeout + CLAIM_MARGIN;
    let taken = shared.circuit.call(shared.circuit.store().claim_due_deliveries(max, hold)).await;
    taken.unwrap_or_else(|error| {
        if !error.is_outage() {
            tracing::warn!(%error, "the outbox cannot be read");
        }
        Vec::new()
    })
}

/// Begins one delivery, or puts it off where its sink has enough of them.
async fn start_delivery(
    shared: &Arc<WorkerContext>,
    trying: &mut JoinSet<String>,
    under_way: &mut DeliveriesByDestination,
    tls: &Arc<rustls::ClientConfig>,
    delivery: Delivery,
) {
    let to = destination_key(&delivery);
    let count = under_way.entry(to.clone()).or_default();
    if *count >= MAX_PER_DESTINATION {
        return settle_delivery(
            shared,
            &delivery,
            DeliveryOutcome::Retry {
                retry_at: unix_now().plus(BUSY_DESTINATION_DELAY),
                error: None,
            },
        )
        .await;
    }
    *count += 1;
    let (shared, tls) = (Arc::clone(shared), Arc::clone(tls));
    trying.spawn(async move {
        let config = shared.snapshots.load().config.clone();
        let outcome = attempt_delivery(&shared, &config, &tls, &delivery).await;
        record_delivery_outcome(&shared, &delivery, &outcome);
        settle_delivery(&shared, &delivery, outcome).await;
        to
    });
}

fn release_destination(
    under_way: &mut DeliveriesByDestination,
    ended: Result<String, tokio::task::JoinError>,
) {
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

/// Whom it goes to, as far as they get into each other's way: of a URL host and port alone, since
/// it is logged.
fn destination_key(delivery: &Delivery) -> String {
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

async fn attempt_delivery(
    shared: &WorkerContext,
    config: &Config,
    tls: &Arc<rustls::ClientConfig>,
    delivery: &Delivery,
) -> DeliveryOutcome {
    let verdict = match delivery.kind {
        DeliveryKind::Webhook => match parse_webhook_target(&delivery.target, &config.webhooks) {
            Ok(sink) => webhook::post_webhook(&sink, delivery, &config.webhooks, tls).await,
            Err(refused) => DeliveryVerdict::Permanent(refused.to_string()),
        },
        DeliveryKind::Reply => enqueue_reply(shared, config, delivery).await,
    };
    match verdict {
        DeliveryVerdict::Delivered => DeliveryOutcome::Delivered,
        DeliveryVerdict::Permanent(error) => DeliveryOutcome::Dropped { error },
        DeliveryVerdict::Retryable(error) if delivery.attempt > config.webhooks.retries => {
            DeliveryOutcome::Dropped {
                error: format!("given up after {} attempts: {error}", delivery.attempt),
            }
        }
        DeliveryVerdict::Retryable(error) => {
            let pause = retry::capped_backoff(
                delivery.attempt,
                FIRST_DELIVERY_DELAY,
                MAX_DELIVERY_DELAY,
                rand::random(),
            );
            DeliveryOutcome::Retry { retry_at: unix_now().plus(pause), error: Some(error) }
        }
    }
}

/// Makes the result a task of the topic that waits for it. Its id is of the event: made twice, it
/// is there once.
async fn enqueue_reply(
    shared: &WorkerContext,
    config: &Config,
    delivery: &Delivery,
) -> DeliveryVerdict {
    let known =
        Topic::parse(&delivery.target).ok().and_then(|topic| config.topics.get_key_value(&topic));
    let Some((topic, known)) = known else {
        return DeliveryVerdict::Permanent(format!(
            "there is no topic {} in the configuration",
            delivery.target
        ));
    };
    let task = Task {
        causation_id: Some(delivery.task_id.to_string()),
        correlation_id: delivery.correlation_id.clone(),
        owner: delivery.owner.clone(),
        retries: known.retries,
        ..Task::new(delivery.reply_task_id(), topic.clone(), delivery.body.clone(), unix_now())
    };
    match shared
        .circuit
        .call(shared.circuit.store().enqueue(&task, &TopicQueue::new(topic, known)))
        .await
    {
        Ok(()) => {
            shared.metrics.count_task_received(topic.as_str());
            DeliveryVerdict::Delivered
        }
        Err(error) => DeliveryVerdict::Retryable(error.to_string()),
    }
}

fn record_delivery_outcome(shared: &WorkerContext, delivery: &Delivery, outcome: &DeliveryOutcome) {
    let (task_id, event, attempt) = (&delivery.task_id, &delivery.event_id, delivery.attempt);
    let (kind, to) = (delivery.kind.as_str(), destination_key(delivery));
    match outcome {
        DeliveryOutcome::Delivered => {
            shared.metrics.count_delivery(kind, "delivered");
            tracing::debug!(%task_id, event, kind, to, attempt, "delivered");
        }
        DeliveryOutcome::Retry { error, .. } => {
            shared.metrics.count_delivery(kind, "retried");
            tracing::info!(%task_id, event, kind, to, attempt, ?error, "not delivered: it is tried again");
        }
        DeliveryOutcome::Dropped { error } => {
            shared.metrics.count_delivery(kind, "dropped");
            tracing::warn!(%task_id, event, kind, to, attempt, %error, "a delivery is dropped");
        }
    }
}

/// Where this cannot be said, the delivery comes again by itself.
async fn settle_delivery(shared: &WorkerContext, delivery: &Delivery, outcome: DeliveryOutcome) {
    let said: Result<(), StoreError> =
        shared.circuit.call(shared.circuit.store().settle_delivery(delivery, &outcome)).await;
    if let Err(error) = said {
        tracing::debug!(event = delivery.event_id, %error, "a delivery is not settled: it is tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{TaskId, UnixMs};

    #[test]
    fn a_destination_is_host_and_port_and_no_password() {
        let to = |target: &str| {
            destination_key(&Delivery {
                task_id: TaskId::new(UnixMs(1), 1),
                kind: DeliveryKind::Webhook,
                target: target.into(),
                event_id: String::new(),
                ended_at: UnixMs(1),
                body: bytes::Bytes::new(),
                owner: None,
                correlation_id: None,
                attempt: 1,
            })
        };
        assert_eq!(to("https://user:secret@Hooks.example.com:8443/x"), "hooks.example.com:8443");
        assert_eq!(to("https://user:secret@hooks.example.com/x"), "hooks.example.com");
        assert_eq!(
            (to("http://[::1]:80/"), to("no url at all")),
            ("[::1]:80".into(), String::new())
        );
    }
}
