//! The replicas that share the rollouts: what each reports of itself, and which of them do not run
//! what the leader decided.

mod lagging;
mod status;

pub(super) use self::lagging::{LeaderPlan, find_lagging_replicas};
pub(super) use self::status::{ReplicaRouteStatus, ReplicaStatus, ReplicaStatuses};
