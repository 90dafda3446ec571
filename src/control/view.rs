//! What is known of the rollouts, for whoever shows it; and the way by which orders come in.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::clock::StoreClock;
use super::counts;
use crate::cohort::Weight;
use crate::rollout::evidence::Evidence;
use crate::rollout::{Cohort, Refusal, State, Verb};
use crate::store::Circuit;

/// All routes, as this process sees them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// By route.
    pub routes: BTreeMap<String, RouteView>,
    /// The process that leads, where one does.
    pub leader: Option<String>,
    /// This process.
    pub process: String,
    /// The replicas that are there, this one among them.
    pub replicas: Vec<ReplicaView>,
    /// Whether the store answers.
    pub store: bool,
    /// The time that rollouts go by.
    pub clock: StoreClock,
}

/// A route's rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteView {
    /// Its state.
    pub state: State,
    /// Whether the store has it: false while what was decided here could not be saved.
    pub saved: bool,
    /// What this process runs.
    pub running: Weight,
    /// The next step; none when `percent` is reached.
    pub next: Option<Weight>,
    /// Live replicas that do not run the present epoch, or whose file differs. Known where the leader is.
    pub laggards: Vec<String>,
    /// The evidence that the gates looked at last. Known where the leader is, and to [`Rollouts::looked_up`].
    pub evidence: Option<Evidence>,
    /// Canaried requests a minute, lately. Known where the leader is.
    pub per_minute: Option<f64>,
}

/// A replica, by what it said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its name.
    pub process: String,
    /// A digest of the rollouts in its file.
    pub config: String,
    /// What it runs: weight and epoch by route.
    pub weights: BTreeMap<String, (Weight, u64)>,
}

/// Where rollouts are shown and ordered.
#[derive(Clone)]
pub struct Rollouts {
    pub(super) views: watch::Receiver<Arc<View>>,
    pub(super) orders: mpsc::Sender<Order>,
}

/// An order on its way.
pub(super) struct Order {
    pub(super) route: String,
    pub(super) verb: Verb,
    pub(super) reply: oneshot::Sender<Result<Acted, ActError>>,
}

/// What an order did.
#[derive(Clone, Debug)]
pub struct Acted {
    /// The state after it.
    pub state: State,
    /// Whether the store has it: false where it holds here only, until the store is back.
    pub saved: bool,
}

/// Why an order was not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    /// There is no such route.
    #[error("there is no route {0:?}")]
    NoRoute(String),
    /// Not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store is gone, and only abort is done without it.
    #[error("the store is gone, so nothing but abort can be ordered: {0}")]
    NoStore(String),
    /// Others changed the state at the same time, again and again.
    #[error("the rollout is being changed by others: try again")]
    Contended,
    /// The process ends.
    #[error("the process is ending")]
    Ending,
}

// === impl Rollouts ===

impl Rollouts {
    /// What is known now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// The same with the evidence that a leader elsewhere judges, as far as the store tells it; of one route, or of all.
    pub async fn looked_up(&self, circuit: &Circuit, one: Option<&str>) -> Arc<View> {
        let mut view = self.view();
        if !view.store || view.leader.as_ref().is_none_or(|leader| *leader == view.process) {
            return view;
        }
        let routes = Arc::make_mut(&mut view).routes.iter_mut();
        for (route, known) in routes.filter(|(route, _)| one.is_none_or(|one| one == *route)) {
            let Cohort { from, to, .. } = known.state.cohort;
            let epochs: Vec<u64> = (from..=to.max(from)).collect();
            let stored = circuit.call(circuit.store().evidence(route, &epochs)).await;
            let counted = stored.map(|stored| stored.iter().map(counts::evidence).collect::<Vec<_>>());
            known.evidence = counted.ok().map(|counted| counted.iter().sum());
        }
        view
    }

    /// Changes with every view.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
    }

    /// Orders something. It holds here when this returns, and everywhere within about a second.
    ///
    /// # Errors
    /// [`ActError`]: nothing was done.
    pub async fn act(&self, route: &str, verb: Verb) -> Result<Acted, ActError> {
        let (reply, answer) = oneshot::channel();
        let order = Order { route: route.to_owned(), verb, reply };
        self.orders.send(order).await.map_err(|_| ActError::Ending)?;
        answer.await.map_err(|_| ActError::Ending)?
    }
}
