//! What is known of the rollouts, for whoever shows it; and the way by which orders come in.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::clock::StoreClock;
use super::counts;
use crate::cohort::Weight;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::{CommandRefusal, EpochRange, OperatorCommand, RolloutState};
use crate::store::Circuit;

/// All routes, as this process sees them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutsView {
    /// By route.
    pub routes: BTreeMap<String, RouteRolloutView>,
    /// The process that leads, where one does.
    pub leader_process: Option<String>,
    /// This process.
    pub own_process: String,
    /// The replicas that are there, this one among them.
    pub replicas: Vec<ReplicaView>,
    /// Whether the store answers.
    pub store_reachable: bool,
    /// The time that rollouts go by.
    pub store_clock: StoreClock,
}

/// A route's rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRolloutView {
    /// Its state.
    pub state: RolloutState,
    /// Whether the store has it: false while what was decided here could not be saved.
    pub is_saved: bool,
    /// What this process runs.
    pub running_weight: Weight,
    /// The next step; none when `percent` is reached.
    pub next_weight: Option<Weight>,
    /// Live replicas that do not run the present epoch, or whose file differs. Known where the
    /// leader is.
    pub lagging_replicas: Vec<String>,
    /// The evidence that the gates looked at last. Known where the leader is, and to
    /// [`RolloutHandle::view_with_evidence`].
    pub judged_evidence: Option<RolloutEvidence>,
    /// Canaried requests a minute, lately. Known where the leader is.
    pub requests_per_minute: Option<f64>,
}

/// A replica, by what it said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its name.
    pub process_name: String,
    /// A digest of the rollouts in its file.
    pub config_digest: String,
    /// What it runs: weight and epoch by route.
    pub weights_by_route: BTreeMap<String, (Weight, u64)>,
}

/// Where rollouts are shown and ordered.
#[derive(Clone)]
pub struct RolloutHandle {
    pub(super) view_receiver: watch::Receiver<Arc<RolloutsView>>,
    pub(super) command_sender: mpsc::Sender<PendingCommand>,
}

/// An order on its way.
pub(super) struct PendingCommand {
    pub(super) route: String,
    pub(super) command: OperatorCommand,
    pub(super) reply_sender: oneshot::Sender<Result<RolloutCommandOutcome, RolloutCommandError>>,
}

/// What an order did.
#[derive(Clone, Debug)]
pub struct RolloutCommandOutcome {
    /// The state after it.
    pub state: RolloutState,
    /// Whether the store has it: false where it holds here only, until the store is back.
    pub is_saved: bool,
}

/// Why an order was not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolloutCommandError {
    /// There is no such route.
    #[error("there is no route {0:?}")]
    UnknownRoute(String),
    /// Not now.
    #[error(transparent)]
    Refused(#[from] CommandRefusal),
    /// The store is gone, and only abort is done without it.
    #[error("the store is gone, so nothing but abort can be ordered: {0}")]
    StoreUnavailable(String),
    /// Others changed the state at the same time, again and again.
    #[error("the rollout is being changed by others: try again")]
    ConcurrentChange,
    /// The process ends.
    #[error("the process is ending")]
    ShuttingDown,
}

// === impl Rollouts ===

impl RolloutHandle {
    /// What is known now.
    #[must_use]
    pub fn current_view(&self) -> Arc<RolloutsView> {
        self.view_receiver.borrow().clone()
    }

    /// The same with the evidence that a leader elsewhere judges, as far as the store tells it; of
    /// one route, or of all.
    pub async fn view_with_evidence(
        &self,
        circuit: &Circuit,
        one: Option<&str>,
    ) -> Arc<RolloutsView> {
        let mut view = self.current_view();
        if !view.store_reachable
            || view.leader_process.as_ref().is_none_or(|leader| *leader == view.own_process)
        {
            return view;
        }
        let routes = Arc::make_mut(&mut view).routes.iter_mut();
        for (route, known) in routes.filter(|(route, _)| one.is_none_or(|one| one == *route)) {
            let EpochRange { from_epoch: from, to_epoch: to, .. } = known.state.cohort;
            let epochs: Vec<u64> = (from..=to.max(from)).collect();
            let stored = circuit.call(circuit.store().load_evidence(route, &epochs)).await;
            let counted = stored
                .map(|stored| stored.iter().map(counts::combine_evidence).collect::<Vec<_>>());
            known.judged_evidence = counted.ok().map(|counted| counted.iter().sum());
        }
        view
    }

    /// Changes with every view.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<RolloutsView>> {
        self.view_receiver.clone()
    }

    /// Orders something. It holds here when this returns, and everywhere within about a second.
    ///
    /// # Errors
    /// [`RolloutCommandError`]: nothing was done.
    pub async fn execute(
        &self,
        route: &str,
        verb: OperatorCommand,
    ) -> Result<RolloutCommandOutcome, RolloutCommandError> {
        let (reply, answer) = oneshot::channel();
        let order = PendingCommand { route: route.to_owned(), command: verb, reply_sender: reply };
        self.command_sender.send(order).await.map_err(|_| RolloutCommandError::ShuttingDown)?;
        answer.await.map_err(|_| RolloutCommandError::ShuttingDown)?
    }
}
