//! How other modules read rollouts and send commands to the controller.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::counts;
use super::views::RolloutsView;
use crate::rollout::{CommandRefusal, EpochRange, OperatorCommand, RolloutState};
use crate::store::Circuit;

/// Shows rollouts and takes commands to them.
#[derive(Clone)]
pub struct RolloutHandle {
    pub(super) view_receiver: watch::Receiver<Arc<RolloutsView>>,
    pub(super) command_sender: mpsc::Sender<PendingCommand>,
}

/// A command that the controller has not executed yet.
pub(super) struct PendingCommand {
    pub(super) route: String,
    pub(super) command: OperatorCommand,
    pub(super) reply_sender: oneshot::Sender<Result<RolloutCommandOutcome, RolloutCommandError>>,
}

/// What an executed command led to.
#[derive(Clone, Debug)]
pub struct RolloutCommandOutcome {
    /// The state after the command.
    pub state: RolloutState,
    /// Whether the store has that state. False after an abort without the store: it holds in this
    /// process only, until the store is back.
    pub is_saved: bool,
}

/// Why a command was not executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolloutCommandError {
    /// No route has that name.
    #[error("there is no route {0:?}")]
    UnknownRoute(String),
    /// The rollout's present state does not allow the command.
    #[error(transparent)]
    Refused(#[from] CommandRefusal),
    /// The store is unreachable, and only an abort works without it.
    #[error("the store is unreachable, and without it only abort works: {0}")]
    StoreUnavailable(String),
    /// Other writers changed the state during every attempt.
    #[error("other processes keep changing the rollout: try again")]
    ConcurrentChange,
    /// The process is shutting down.
    #[error("the process is shutting down")]
    ShuttingDown,
}

// === impl RolloutHandle ===

impl RolloutHandle {
    /// The newest view.
    #[must_use]
    pub fn current_view(&self) -> Arc<RolloutsView> {
        self.view_receiver.borrow().clone()
    }

    /// The newest view, with the evidence that the gates judge also where another process leads;
    /// it is then read from the store, for `only_route` or for all routes.
    pub async fn view_with_evidence(
        &self,
        circuit: &Circuit,
        only_route: Option<&str>,
    ) -> Arc<RolloutsView> {
        let mut view = self.current_view();
        if !view.store_reachable
            || view.leader_process.as_ref().is_none_or(|leader| *leader == view.own_process)
        {
            return view;
        }
        let routes = Arc::make_mut(&mut view).routes.iter_mut();
        let wanted = routes.filter(|(route, _)| only_route.is_none_or(|only| only == *route));
        for (route, route_view) in wanted {
            let EpochRange { from_epoch, to_epoch, .. } = route_view.state.cohort;
            let epochs: Vec<u64> = (from_epoch..=to_epoch.max(from_epoch)).collect();
            let stored = circuit.call(circuit.store().load_evidence(route, &epochs)).await;
            let evidence = stored
                .map(|stored| stored.iter().map(counts::combine_evidence).collect::<Vec<_>>());
            route_view.judged_evidence = evidence.ok().map(|evidence| evidence.iter().sum());
        }
        view
    }

    /// A receiver that changes with every view.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<RolloutsView>> {
        self.view_receiver.clone()
    }

    /// Executes a command. It is in force in this process when this returns, and in the others
    /// within about a second.
    ///
    /// # Errors
    /// [`RolloutCommandError`]: nothing was changed.
    pub async fn execute(
        &self,
        route: &str,
        command: OperatorCommand,
    ) -> Result<RolloutCommandOutcome, RolloutCommandError> {
        let (reply_sender, reply) = oneshot::channel();
        let pending = PendingCommand { route: route.to_owned(), command, reply_sender };
        let sent = self.command_sender.send(pending).await;
        sent.map_err(|_| RolloutCommandError::ShuttingDown)?;
        reply.await.map_err(|_| RolloutCommandError::ShuttingDown)?
    }
}
