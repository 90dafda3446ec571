//! Picks the requests that are copied.

use http::HeaderMap;

use crate::cohort_hash::{self, RequestPath};
use crate::config::{RouteConfig, ShadowConfig};
use crate::metrics::ShadowOutcome;
use crate::proxy::context::RequestContext;
use crate::proxy::http::headers::PATH_HEADER;
use crate::route::is_pinned_sync;
use crate::snapshot::SnapshotRoute;

/// The shadow configuration of a request that is to be copied; `None` if it is not picked. Requests
/// that are pinned to the sync path, or that chose their path, are never picked.
pub(crate) fn pick_for_shadow<'r>(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    route: &'r RouteConfig,
    assigned: RequestPath,
    headers: &HeaderMap,
) -> Option<&'r ShadowConfig> {
    if !snapshot_route.copies_requests || assigned != RequestPath::Sync {
        return None;
    }
    let shadow = route.rollout.shadow.as_ref()?;
    // Few requests are picked, so the more expensive test of the headers comes last.
    let is_picked = shadow.percent.covers(cohort_hash::cohort_bucket(rand::random()));
    let is_bound = || {
        is_pinned_sync(&route.rollout, headers)
            || context.is_trusted && headers.contains_key(&PATH_HEADER)
    };
    (is_picked && !is_bound()).then_some(shadow)
}

/// Counts a picked request that is not copied because it has an idempotency key: its client does
/// not want it to run twice.
pub(crate) fn count_ineligible(context: &RequestContext<'_>, route: &RouteConfig) {
    context.services().metrics.count_shadow_outcome(&route.name, ShadowOutcome::Ineligible);
}
