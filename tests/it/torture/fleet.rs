//! The processes under torture, and what is done to them. One loop owns them: it brings back what
//! died, ends what has lasted long enough, and begins the next fault.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::clients::TortureContext;
use super::history::{FaultKind, TortureEvent};
use super::journal::{HANDLER_SCRIPT, unix_millis};
use crate::support::http::fault::FaultProxy;
use crate::support::process::child::ChildProcess;
use crate::support::scenario::{ScenarioBuilder, route, scenario, topic};
use crate::support::stores::Store;
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some};

/// The lease of all processes: no machine lets a live one wait for so long, and no round waits long
/// for a dead one.
pub(super) const LEASE_DURATION: Duration = Duration::from_secs(5);
/// What a process runs at once, at most.
pub(super) const CONCURRENCY: usize = 4;
pub(super) const RETRIES: u32 = 3;

/// Rare enough for work to go on, frequent enough for each to come up in a minute.
const FAILPOINTS: &str = "enqueue.before=kill:0.001,enqueue.after=kill:0.001,\
    lease_demand.after=kill:0.001,\
    settle.before=kill:0.002,settle.after=kill:0.002,renew.before=kill:0.001,\
    reap_expired.after=kill:0.001,\
    enqueue.after=error(unknown):0.003,settle.after=error(unknown):0.005,\
    settle.before=error(unreachable):0.003,\
    lease_demand.after=error(unknown):0.001,renew.after=error(unknown):0.005,\
    settle.before=delay(50ms):0.05,enqueue.after=delay(30ms):0.02";

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultStrike {
    KillProxy,
    KillWorker,
    KillRedis,
    /// Connections to it are reset, or nothing gets through.
    Cut,
    /// SIGSTOP past the lease, then SIGCONT.
    Freeze,
    /// SIGTERM.
    Drain,
}

/// All of it, the common more often.
pub(super) const ALL_STRIKES: &[FaultStrike] = &[
    FaultStrike::KillProxy,
    FaultStrike::KillProxy,
    FaultStrike::KillWorker,
    FaultStrike::KillWorker,
    FaultStrike::KillRedis,
    FaultStrike::Cut,
    FaultStrike::Cut,
    FaultStrike::Freeze,
    FaultStrike::Freeze,
    FaultStrike::Drain,
    FaultStrike::Drain,
    FaultStrike::Drain,
];

/// What is tortured.
pub(super) struct TortureFleet {
    context: TortureContext,
    store: Store,
    redis_proxy: Option<FaultProxy>,
    members: Vec<FleetMember>,
    /// When redis comes back, and since when it is gone.
    outage: Option<(Instant, u64)>,
    /// When the way to it is whole again, and since when it is not.
    cut: Option<(Instant, u64)>,
}

struct FleetMember {
    name: String,
    process: MemberProcess,
    state: MemberState,
    /// When it was last seen alive.
    last_alive: u64,
}

enum MemberProcess {
    Serve(Box<Omnidaemon>),
    Runner(ChildProcess),
}

#[derive(Clone, Copy)]
enum MemberState {
    Up,
    Frozen {
        thaw: Instant,
        from: u64,
    },
    Draining {
        from: u64,
    },
    /// Dead, to be brought back.
    Down {
        until: Instant,
    },
}

/// One proxy of a fleet; its command handler writes into the journal too.
fn fleet_scenario(handlers: &str, store_url: String, journal: &str) -> ScenarioBuilder {
    let handled = |name: &str| topic(name).retries(3).retry_delay("100ms").timeout("20s");
    let replay = route("invoke").topic("replay").wait("8s").percent(50);
    scenario()
        .yaml("proxy.drain", "14s")
        .upstream_url(format!("http://{handlers}"))
        .store_url(store_url)
        .yaml("store.timeout", "1s")
        .route(replay.yaml("retry_canaried", true))
        .topic(handled("replay"))
        .topic(handled("service").http("<upstream>/service"))
        .topic(handled("program").command(["sh", "<dir>/handler.sh", journal]))
        .workers(2)
        .concurrency(2)
        .yaml("workers.drain", "9s")
        .file("handler.sh", HANDLER_SCRIPT)
}

// === impl Fleet ===

impl TortureFleet {
    /// Two proxies with workers and two runners over Redis, or one proxy over its file.
    /// With `failpoints` they also kill themselves now and then, and lose answers.
    pub(super) async fn start(
        world: TortureContext,
        store: Store,
        handlers: &str,
        failpoints: Option<u64>,
    ) -> Self {
        let way = match &store {
            Store::Redis(server) => Some(FaultProxy::start(&server.addr()).await),
            Store::Sqlite => None,
        };
        let url = way.as_ref().map_or_else(|| store.url(), |way| format!("redis://{}", way.addr()));
        let (proxies, runners) = if way.is_some() { (2, 2) } else { (1, 0) };
        let mut members = Vec::new();
        for n in 1..=proxies {
            let journal = world.journal.path().to_str().expect("UTF-8");
            let lease = humantime::format_duration(LEASE_DURATION).to_string();
            let mut launch =
                fleet_scenario(handlers, url.clone(), journal).env("OMNIDAEMON_LEASE", lease);
            if let Some(seed) = failpoints {
                launch = launch.env("OMNIDAEMON_FAILPOINTS", FAILPOINTS);
                launch = launch.env("OMNIDAEMON_FAILPOINTS_SEED", seed.to_string());
            }
            let omni = launch.start_server_listening().await;
            members
                .push(FleetMember::new(format!("proxy-{n}"), MemberProcess::Serve(Box::new(omni))));
        }
        for n in 1..=runners {
            let MemberProcess::Serve(beside) = &members[0].process else {
                unreachable!("proxies come first")
            };
            let name = format!("worker-{n}");
            let runner = beside.spawn_command(&name, &["runner", "--name", &name]);
            members.push(FleetMember::new(name, MemberProcess::Runner(runner)));
        }
        let fleet =
            Self { context: world, store, redis_proxy: way, members, outage: None, cut: None };
        fleet.publish_proxies();
        fleet
    }

    /// Ends what has lasted long enough, and brings back what died.
    pub(super) async fn supervise(&mut self) {
        let over = |at: &Option<(Instant, u64)>| at.filter(|(until, _)| Instant::now() >= *until);
        if let Some((_, from)) = over(&self.cut) {
            self.cut = None;
            self.redis_proxy.as_ref().expect("it was cut").pass_through();
            self.record_fault(FaultKind::Cut, "the way to redis", from);
        }
        if let Some((_, from)) = over(&self.outage) {
            self.outage = None;
            if let Store::Redis(server) = &mut self.store {
                server.restart().await;
            }
            self.record_fault(FaultKind::Outage, "redis", from);
        }
        for n in 0..self.members.len() {
            if self.members[n].update_state(&self.context) {
                self.restart_member(n).await;
            }
        }
    }

    /// Begins one of the faults of `plan`.
    pub(super) fn inject_fault(&mut self, plan: &[FaultStrike], dice: &mut StdRng) {
        let soon = |dice: &mut StdRng, ms: std::ops::Range<u64>| {
            (Instant::now() + Duration::from_millis(dice.random_range(ms)), unix_millis())
        };
        let strike = plan[dice.random_range(0..plan.len())];
        match (strike, &mut self.store, &self.redis_proxy) {
            (FaultStrike::KillRedis, Store::Redis(server), _) if self.outage.is_none() => {
                self.outage = Some(soon(dice, 100..1500));
                server.kill();
            }
            (FaultStrike::Cut, _, Some(way)) if self.cut.is_none() => {
                self.cut = Some(soon(dice, 50..400));
                if dice.random_bool(0.5) { way.reset_connections() } else { way.blackhole() }
            }
            (FaultStrike::KillRedis | FaultStrike::Cut, ..) => {}
            (FaultStrike::KillProxy, ..) => self.random_member(dice, FleetMember::is_server).kill(),
            (FaultStrike::KillWorker, ..) => {
                self.random_member(dice, |member| !member.is_server()).kill();
            }
            (FaultStrike::Freeze, ..) => {
                let thaw = LEASE_DURATION + Duration::from_millis(dice.random_range(0..2500));
                self.random_member(dice, |_| true).freeze(Instant::now() + thaw);
            }
            (FaultStrike::Drain, ..) => self.random_member(dice, |_| true).drain(),
        }
    }

    /// A member by chance, of those that `may` be it; any, where none may.
    fn random_member(
        &mut self,
        dice: &mut StdRng,
        may: impl Fn(&FleetMember) -> bool,
    ) -> &mut FleetMember {
        let some: Vec<_> = (0..self.members.len()).filter(|n| may(&self.members[*n])).collect();
        let n = if some.is_empty() { 0 } else { some[dice.random_range(0..some.len())] };
        &mut self.members[n]
    }

    /// No more faults but those that processes bring on themselves.
    pub(super) fn end_faults_now(&mut self) {
        let over = |fault: &mut Option<(Instant, u64)>| {
            if let Some((until, _)) = fault {
                *until = Instant::now();
            }
        };
        over(&mut self.cut);
        over(&mut self.outage);
        for member in &mut self.members {
            if let MemberState::Frozen { thaw, .. } | MemberState::Down { until: thaw } =
                &mut member.state
            {
                *thaw = Instant::now();
            }
        }
    }

    /// Ids of the dead letters, as often as they are there; none where nobody could be asked.
    pub(super) async fn list_dead_letters(&self) -> Option<Vec<String>> {
        let MemberProcess::Serve(omni) = &self.members[0].process else {
            unreachable!("proxies come first")
        };
        let mut ids = Vec::new();
        for topic in ["replay", "service", "program"] {
            let path = format!("/admin/v1/dead-letters?topic={topic}&limit=1000");
            let request =
                omni.admin_client().request(http::Method::GET, &path).timeout(TEST_DEADLINE);
            let answer = crate::support::http::client::HttpResponse::try_from_request(request)
                .await
                .ok()
                .filter(|a| a.status == 200)?;
            let letters = answer.json();
            ids.extend(
                letters
                    .as_array()?
                    .iter()
                    .filter_map(|letter| letter["id"].as_str().map(str::to_owned)),
            );
        }
        Some(ids)
    }

    /// The logs of all that run now, for whoever has to find out.
    pub(super) fn logs(&self) -> String {
        let log = |member: &FleetMember| format!("--- {}\n{}\n", member.name, member.logs());
        self.members.iter().map(log).collect()
    }

    async fn restart_member(&mut self, n: usize) {
        if !self.members[n].is_server() {
            let name = self.members[n].name.clone();
            let MemberProcess::Serve(beside) = &self.members[0].process else {
                unreachable!("proxies come first")
            };
            self.members[n].process =
                MemberProcess::Runner(beside.spawn_command(&name, &["runner", "--name", &name]));
        } else if let MemberProcess::Serve(omni) = &mut self.members[n].process {
            omni.restart().await;
        }
        (self.members[n].state, self.members[n].last_alive) = (MemberState::Up, unix_millis());
        self.publish_proxies();
    }

    fn publish_proxies(&self) {
        let serving = self.members.iter().filter_map(|member| match &member.process {
            MemberProcess::Serve(omni) => Some(omni.data_client()),
            MemberProcess::Runner(_) => None,
        });
        *self.context.proxies.lock().expect("not poisoned") = serving.collect();
    }

    fn record_fault(&self, fault: FaultKind, target: &str, from: u64) {
        self.context.journal.record(TortureEvent::Fault { fault, target: target.into(), from });
    }
}

// === impl Member ===

impl FleetMember {
    fn new(name: String, process: MemberProcess) -> Self {
        Self { name, process, state: MemberState::Up, last_alive: unix_millis() }
    }

    fn is_server(&self) -> bool {
        matches!(self.process, MemberProcess::Serve(_))
    }

    fn process(&mut self) -> &mut ChildProcess {
        match &mut self.process {
            MemberProcess::Serve(omni) => omni.process(),
            MemberProcess::Runner(process) => process,
        }
    }

    fn logs(&self) -> String {
        match &self.process {
            MemberProcess::Serve(omni) => omni.logs().to_text(),
            MemberProcess::Runner(process) => process.logs().to_text(),
        }
    }

    /// Whether it is to be brought back now.
    fn update_state(&mut self, world: &TortureContext) -> bool {
        let fault = |fault, target: &str, from| {
            world.journal.record(TortureEvent::Fault { fault, target: target.into(), from });
        };
        if let MemberState::Down { until } = self.state {
            return Instant::now() >= until;
        }
        let (name, alive, state) = (self.name.clone(), self.last_alive, self.state);
        if let Some(status) = self.process().exit_status() {
            match state {
                MemberState::Draining { from } if status.success() => {
                    fault(FaultKind::Drain, &name, from);
                }
                MemberState::Draining { .. } if status.code().is_some() => {
                    world.record_unexpected(format!("{name} ended its drain with {status}"));
                }
                _ => {}
            }
            if !status.success() {
                fault(FaultKind::Kill, &name, alive);
            }
            if status.success() && !matches!(state, MemberState::Draining { .. })
                || status.code() == Some(101)
            {
                world.record_unexpected(format!(
                    "{name} ended by itself: {status}\n{}",
                    self.logs()
                ));
            }
            self.state = MemberState::Down { until: Instant::now() + Duration::from_millis(200) };
            return false;
        }
        match state {
            MemberState::Frozen { thaw, from } if Instant::now() >= thaw => {
                self.process().send_signal(Signal::CONT);
                fault(FaultKind::Freeze, &name, from);
                self.state = MemberState::Up;
            }
            _ => {}
        }
        self.last_alive = unix_millis();
        false
    }

    fn kill(&mut self) {
        if matches!(self.state, MemberState::Up | MemberState::Draining { .. }) {
            self.process().send_signal(Signal::KILL);
        }
    }

    fn freeze(&mut self, thaw: Instant) {
        if matches!(self.state, MemberState::Up) {
            self.process().send_signal(Signal::STOP);
            self.state = MemberState::Frozen { thaw, from: unix_millis() };
        }
    }

    fn drain(&mut self) {
        if matches!(self.state, MemberState::Up) {
            self.process().send_signal(Signal::TERM);
            self.state = MemberState::Draining { from: unix_millis() };
        }
    }
}

/// Waits until `find` finds something, while the fleet is tended.
pub(super) async fn wait_supervised<T>(
    fleet: &mut TortureFleet,
    patience: Duration,
    what: &str,
    mut find: impl AsyncFnMut(&TortureFleet) -> Option<T>,
) -> T {
    wait_for_some(patience, what, async || {
        fleet.supervise().await;
        find(fleet).await
    })
    .await
}
