//! Delivers the outbox: webhooks are posted, replies are enqueued as tasks. Deliveries run in tasks
//! of their own, so that attempts do not wait for them.
//!
//! A delivery is claimed for longer than one try can take, so that only one process tries it at a
//! time; if that process dies, the claim expires and another process claims the delivery. A failed
//! delivery is tried again with growing delays, until it succeeds or has been retried
//! `webhooks.retries` times. At most [`MAX_PER_DESTINATION`] deliveries to one destination are in
//! flight, so that a destination that does not answer does not delay deliveries to others.

mod signature;
mod webhook;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::webhook::DeliveryVerdict;
use super::context::{WorkerContext, unix_now};
use crate::backoff::{BackoffPolicy, full_jitter};
use crate::config::Config;
use crate::outbound::{build_tls_config, load_native_roots};
use crate::route::parse_webhook_target;
use crate::store::{Delivery, DeliveryKind, DeliveryOutcome, StoreError, TopicQueue};
use crate::task::{Task, Topic};

/// The interval between reads of an empty outbox.
const OUTBOX_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The most deliveries in flight, in total and to one destination.
const MAX_DELIVERIES: usize = 64;
const MAX_PER_DESTINATION: usize = 8;
/// How much longer than `webhooks.timeout` a claim lasts.
const CLAIM_MARGIN: Duration = Duration::from_secs(30);
/// The delay of a delivery whose destination has too many in flight.
const BUSY_DESTINATION_DELAY: Duration = Duration::from_secs(2);
/// The delays between tries of one delivery, before jitter.
const DELIVERY_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_secs(5), Duration::from_hours(6));

/// The number of deliveries in flight, by destination key.
type DeliveriesByDestination = HashMap<String, usize>;

/// Runs deliveries until `done`. Deliveries that are in flight then are dropped; they are tried
/// again when their claims have expired.
pub(super) async fn run_deliveries(context: &Arc<WorkerContext>, done: &CancellationToken) {
    let (mut deliveries, mut in_flight) = (JoinSet::new(), DeliveriesByDestination::new());
    let tls = Arc::new(build_tls_config(load_native_roots()));
    while !done.is_cancelled() {
        let free = MAX_DELIVERIES - deliveries.len();
        let claimed = if free > 0 && context.worker_count() > 0 && context.circuit.is_clear_to_run()
        {
            claim_due_deliveries(context, free).await
        } else {
            Vec::new()
        };
        let may_have_more = free > 0 && claimed.len() == free;
        for delivery in claimed {
            start_delivery(context, &mut deliveries, &mut in_flight, &tls, delivery).await;
        }
        let claims_again_at_once = may_have_more && deliveries.len() < MAX_DELIVERIES;
        tokio::select! {
            () = done.cancelled() => {}
            Some(ended) = deliveries.join_next() => release_destination(&mut in_flight, ended),
            () = sleep(OUTBOX_POLL_INTERVAL), if !claims_again_at_once => {}
            () = std::future::ready(()), if claims_again_at_once => {}
        }
    }
}

async fn claim_due_deliveries(context: &WorkerContext, max: usize) -> Vec<Delivery> {
    let hold = context.snapshots.load().config.webhooks.timeout + CLAIM_MARGIN;
    let store = context.circuit.store();
    let claimed = context.circuit.call(store.claim_due_deliveries(max, hold)).await;
    claimed.unwrap_or_else(|error| {
        if !error.is_outage() {
            tracing::warn!(%error, "the outbox cannot be read");
        }
        Vec::new()
    })
}

/// Starts one delivery, or postpones it if its destination has too many in flight.
async fn start_delivery(
    context: &Arc<WorkerContext>,
    deliveries: &mut JoinSet<String>,
    in_flight: &mut DeliveriesByDestination,
    tls: &Arc<rustls::ClientConfig>,
    delivery: Delivery,
) {
    let destination = destination_key(&delivery);
    let count = in_flight.entry(destination.clone()).or_default();
    if *count >= MAX_PER_DESTINATION {
        return settle_delivery(
            context,
            &delivery,
            DeliveryOutcome::Retry {
                retry_at: unix_now().plus(BUSY_DESTINATION_DELAY),
                error: None,
            },
        )
        .await;
    }
    *count += 1;
    let (context, tls) = (Arc::clone(context), Arc::clone(tls));
    deliveries.spawn(async move {
        let config = context.snapshots.load().config.clone();
        let outcome = attempt_delivery(&context, &config, &tls, &delivery).await;
        record_delivery_outcome(&context, &delivery, &outcome);
        settle_delivery(&context, &delivery, outcome).await;
        destination
    });
}

fn release_destination(
    in_flight: &mut DeliveriesByDestination,
    ended: Result<String, tokio::task::JoinError>,
) {
    match ended {
        Ok(destination) => {
            if let Some(count) = in_flight.get_mut(&destination) {
                *count -= 1;
                if *count == 0 {
                    in_flight.remove(&destination);
                }
            }
        }
        Err(error) => {
            tracing::error!(%error, "a delivery panicked: it is tried again after its claim");
        }
    }
}

/// The key under which the deliveries to one destination are counted. For a webhook this is only
/// the host and port of the URL, because keys are logged and the rest may contain secrets; for a
/// reply it is the topic followed by a slash, which no host and port contains.
fn destination_key(delivery: &Delivery) -> String {
    let host_and_port = |url: &str| {
        let uri: http::Uri = url.parse().ok()?;
        let host = uri.host()?.to_ascii_lowercase();
        Some(uri.port_u16().map_or_else(|| host.clone(), |port| format!("{host}:{port}")))
    };
    match delivery.kind {
        DeliveryKind::Webhook => host_and_port(&delivery.target).unwrap_or_default(),
        DeliveryKind::Reply => format!("{}/", delivery.target),
    }
}

async fn attempt_delivery(
    context: &WorkerContext,
    config: &Config,
    tls: &Arc<rustls::ClientConfig>,
    delivery: &Delivery,
) -> DeliveryOutcome {
    let verdict = match delivery.kind {
        DeliveryKind::Webhook => match parse_webhook_target(&delivery.target, &config.webhooks) {
            Ok(target) => webhook::post_webhook(&target, delivery, &config.webhooks, tls).await,
            Err(refused) => DeliveryVerdict::Permanent(refused.to_string()),
        },
        DeliveryKind::Reply => enqueue_reply(context, config, delivery).await,
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
            let delay = DELIVERY_BACKOFF.delay_for(delivery.attempt);
            let pause = full_jitter(delay, rand::random());
            DeliveryOutcome::Retry { retry_at: unix_now().plus(pause), error: Some(error) }
        }
    }
}

/// Enqueues the result as a task of the reply topic. The task's id is derived from the event, so
/// that a repeated delivery does not create a second task.
async fn enqueue_reply(
    context: &WorkerContext,
    config: &Config,
    delivery: &Delivery,
) -> DeliveryVerdict {
    let configured =
        Topic::parse(&delivery.target).ok().and_then(|topic| config.topics.get_key_value(&topic));
    let Some((topic, topic_config)) = configured else {
        return DeliveryVerdict::Permanent(format!(
            "there is no topic {} in the configuration",
            delivery.target
        ));
    };
    let task = Task {
        causation_id: Some(delivery.task_id.to_string()),
        correlation_id: delivery.correlation_id.clone(),
        owner: delivery.owner.clone(),
        retries: topic_config.retries,
        ..Task::new(delivery.reply_task_id(), topic.clone(), delivery.body.clone(), unix_now())
    };
    match context
        .circuit
        .call(context.circuit.store().enqueue(&task, &TopicQueue::new(topic, topic_config)))
        .await
    {
        Ok(()) => {
            context.metrics.count_task_received(topic.as_str());
            DeliveryVerdict::Delivered
        }
        Err(error) => DeliveryVerdict::Retryable(error.to_string()),
    }
}

fn record_delivery_outcome(
    context: &WorkerContext,
    delivery: &Delivery,
    outcome: &DeliveryOutcome,
) {
    let (task_id, event, attempt) = (&delivery.task_id, &delivery.event_id, delivery.attempt);
    let (kind, to) = (delivery.kind.as_str(), destination_key(delivery));
    match outcome {
        DeliveryOutcome::Delivered => {
            context.metrics.count_delivery(kind, "delivered");
            tracing::debug!(%task_id, event, kind, to, attempt, "a delivery succeeded");
        }
        DeliveryOutcome::Retry { error, .. } => {
            context.metrics.count_delivery(kind, "retried");
            tracing::info!(
                %task_id, event, kind, to, attempt, ?error,
                "a delivery failed: it is tried again"
            );
        }
        DeliveryOutcome::Dropped { error } => {
            context.metrics.count_delivery(kind, "dropped");
            tracing::warn!(%task_id, event, kind, to, attempt, %error, "a delivery is dropped");
        }
    }
}

/// Records the outcome of a delivery in the store. If the store call fails, the delivery is tried
/// again when its claim has expired.
async fn settle_delivery(context: &WorkerContext, delivery: &Delivery, outcome: DeliveryOutcome) {
    let settled: Result<(), StoreError> =
        context.circuit.call(context.circuit.store().settle_delivery(delivery, &outcome)).await;
    if let Err(error) = settled {
        let event = &delivery.event_id;
        tracing::debug!(event, %error, "a delivery's outcome was not saved: it is tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{TaskId, UnixMs};

    #[test]
    fn a_destination_key_is_host_and_port_without_credentials() {
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
