//! The outcome of a picked request, counted wherever its processing ends.

use std::sync::Arc;

use crate::config::RouteConfig;
use crate::metrics::{FallbackReason, Metrics, ShadowOutcome};
use crate::proxy::context::RequestContext;
use crate::store::{StoreError, StoreRefusal};

/// Counts the outcome of a picked request when dropped.
pub(crate) struct OutcomeGuard {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) route: String,
    outcome: ShadowOutcome,
}

// === impl OutcomeGuard ===

impl OutcomeGuard {
    /// The guard of a request that the sync path has not answered yet.
    pub(crate) fn new(context: &RequestContext<'_>, route: &RouteConfig) -> Self {
        let metrics = context.services().metrics.clone();
        Self { metrics, route: route.name.clone(), outcome: ShadowOutcome::NoSyncAnswer }
    }

    /// Replaces the outcome that is counted.
    pub(crate) fn set_outcome(&mut self, outcome: ShadowOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for OutcomeGuard {
    fn drop(&mut self) {
        self.metrics.count_shadow_outcome(&self.route, self.outcome);
    }
}

/// The outcome of a request that cannot be captured.
pub(crate) fn outcome_of_fallback(reason: FallbackReason) -> ShadowOutcome {
    match reason {
        FallbackReason::StoreUnavailable => ShadowOutcome::StoreUnavailable,
        _ => ShadowOutcome::Ineligible,
    }
}

/// The outcome of a copy that the store did not accept.
pub(crate) fn outcome_of_refusal(error: &StoreError) -> ShadowOutcome {
    match error {
        StoreError::Refused(StoreRefusal::BacklogFull { .. }) => ShadowOutcome::Backpressure,
        error if error.is_outage() => ShadowOutcome::StoreUnavailable,
        _ => ShadowOutcome::StoreRefused,
    }
}
