//! The complete store as one trait: the sum of the small traits, one per concern.

use super::caller::DeprecatedCallerLog;
use super::claim::IdempotencyClaims;
use super::dead_letter::DeadLetterQueue;
use super::lease::TaskLeasing;
use super::outbox::DeliveryOutbox;
use super::queue::TaskQueue;
use super::read::TaskReader;
use super::rollout::RolloutStore;
use super::service::StoreService;
use super::worker::WorkerRegistry;

/// A complete store. Every method may be called from any runtime, and returns within about
/// `store.timeout` (`lease` also waits for tasks) with a [`StoreError`](super::StoreError) where
/// the store does not answer.
pub trait TaskStore:
    StoreService
    + TaskQueue
    + TaskLeasing
    + TaskReader
    + DeadLetterQueue
    + DeliveryOutbox
    + IdempotencyClaims
    + WorkerRegistry
    + RolloutStore
    + DeprecatedCallerLog
{
}

impl<T> TaskStore for T where
    T: StoreService
        + TaskQueue
        + TaskLeasing
        + TaskReader
        + DeadLetterQueue
        + DeliveryOutbox
        + IdempotencyClaims
        + WorkerRegistry
        + RolloutStore
        + DeprecatedCallerLog
{
}
