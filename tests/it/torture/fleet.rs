//! The processes under torture, and what is done to them. One loop owns them: it brings back what died, ends what
//! has lasted long enough, and begins the next fault.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::clients::World;
use super::history::{Event, Fault};
use super::journal::{SCRIPT, now};
use crate::harness::fault::FaultProxy;
use crate::harness::process::Process;
use crate::harness::{Omnidaemon, PATIENCE, eventually_some};
use crate::stores::Store;

/// The lease of all processes: no machine lets a live one wait for so long, and no round waits long for a dead one.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// What a process runs at once, at most.
pub(super) const CONCURRENCY: usize = 4;
pub(super) const RETRIES: u32 = 3;

const CONFIG: &str = "
proxy: {listen: 127.0.0.1:0, drain: 14s}
upstream: {url: 'http://<handlers>'}
store: {url: '<store>', timeout: 1s}
routes:
  invoke:
    {path: /invoke, topic: replay, wait: 8s, retry_canaried: true, rollout: {percent: 50, mode: manual}}
topics:
  replay: {handler: upstream, retries: 3, retry_delay: 100ms, timeout: 20s}
  service: {handler: {http: 'http://<handlers>/service'}, retries: 3, retry_delay: 100ms, timeout: 20s}
  program: {handler: {command: [sh, '<dir>/handler.sh', '<journal>']}, retries: 3, retry_delay: 100ms, timeout: 20s}
workers: {count: 2, concurrency: 2, drain: 9s}
";

/// Rare enough for work to go on, frequent enough for each to come up in a minute.
const FAILPOINTS: &str = "enqueue.before=kill:0.001,enqueue.after=kill:0.001,lease.after=kill:0.001,\
    settle.before=kill:0.002,settle.after=kill:0.002,renew.before=kill:0.001,tend.after=kill:0.001,\
    enqueue.after=error(unknown):0.003,settle.after=error(unknown):0.005,settle.before=error(unreachable):0.003,\
    lease.after=error(unknown):0.001,renew.after=error(unknown):0.005,\
    settle.before=delay(50ms):0.05,enqueue.after=delay(30ms):0.02";

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
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
pub(super) const EVERYTHING: &[Strike] = &[
    Strike::KillProxy,
    Strike::KillProxy,
    Strike::KillWorker,
    Strike::KillWorker,
    Strike::KillRedis,
    Strike::Cut,
    Strike::Cut,
    Strike::Freeze,
    Strike::Freeze,
    Strike::Drain,
    Strike::Drain,
    Strike::Drain,
];

/// What is tortured.
pub(super) struct Fleet {
    world: World,
    store: Store,
    way: Option<FaultProxy>,
    members: Vec<Member>,
    /// When redis comes back, and since when it is gone.
    outage: Option<(Instant, u64)>,
    /// When the way to it is whole again, and since when it is not.
    cut: Option<(Instant, u64)>,
}

struct Member {
    name: String,
    body: Body,
    state: State,
    /// When it was last seen alive.
    alive: u64,
}

enum Body {
    Serve(Box<Omnidaemon>),
    Runner(Process),
}

#[derive(Clone, Copy)]
enum State {
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

// === impl Fleet ===

impl Fleet {
    /// Two proxies with workers and two runners over Redis, or one proxy over its file.
    /// With `failpoints` they also kill themselves now and then, and lose answers.
    pub(super) async fn start(world: World, store: Store, handlers: &str, failpoints: Option<u64>) -> Self {
        let way = match &store {
            Store::Redis(server) => Some(FaultProxy::in_front_of(&server.addr()).await),
            Store::Sqlite => None,
        };
        let url = way.as_ref().map_or_else(|| store.url(), |way| format!("redis://{}", way.addr()));
        let (proxies, runners) = if way.is_some() { (2, 2) } else { (1, 0) };
        let mut members = Vec::new();
        for n in 1..=proxies {
            let journal = world.journal.path().to_str().expect("UTF-8");
            let launch = Omnidaemon::with_config(CONFIG).set("handlers", handlers).set("store", &url);
            let launch = launch.set("journal", journal).file("handler.sh", SCRIPT);
            let lease = humantime::format_duration(LEASE).to_string();
            let mut launch = launch.env("OMNIDAEMON_LEASE", lease);
            if let Some(seed) = failpoints {
                launch = launch.env("OMNIDAEMON_FAILPOINTS", FAILPOINTS);
                launch = launch.env("OMNIDAEMON_FAILPOINTS_SEED", seed.to_string());
            }
            let omni = launch.launch().await;
            members.push(Member::new(format!("proxy-{n}"), Body::Serve(Box::new(omni))));
        }
        for n in 1..=runners {
            let Body::Serve(beside) = &members[0].body else { unreachable!("proxies come first") };
            let name = format!("worker-{n}");
            let runner = beside.beside(&name, &["runner", "--name", &name]);
            members.push(Member::new(name, Body::Runner(runner)));
        }
        let fleet = Self { world, store, way, members, outage: None, cut: None };
        fleet.tell_addresses();
        fleet
    }

    /// Ends what has lasted long enough, and brings back what died.
    pub(super) async fn tend(&mut self) {
        let over = |at: &Option<(Instant, u64)>| at.filter(|(until, _)| Instant::now() >= *until);
        if let Some((_, from)) = over(&self.cut) {
            self.cut = None;
            self.way.as_ref().expect("it was cut").resume();
            self.note(Fault::Cut, "the way to redis", from);
        }
        if let Some((_, from)) = over(&self.outage) {
            self.outage = None;
            if let Store::Redis(server) = &mut self.store {
                server.restart().await;
            }
            self.note(Fault::Outage, "redis", from);
        }
        for n in 0..self.members.len() {
            if self.members[n].tend(&self.world) {
                self.revive(n).await;
            }
        }
    }

    /// Begins one of the faults of `plan`.
    pub(super) fn strike(&mut self, plan: &[Strike], dice: &mut StdRng) {
        let soon = |dice: &mut StdRng, ms: std::ops::Range<u64>| {
            (Instant::now() + Duration::from_millis(dice.random_range(ms)), now())
        };
        let strike = plan[dice.random_range(0..plan.len())];
        match (strike, &mut self.store, &self.way) {
            (Strike::KillRedis, Store::Redis(server), _) if self.outage.is_none() => {
                self.outage = Some(soon(dice, 100..1500));
                server.kill9();
            }
            (Strike::Cut, _, Some(way)) if self.cut.is_none() => {
                self.cut = Some(soon(dice, 50..400));
                if dice.random_bool(0.5) { way.reset() } else { way.blackhole() }
            }
            (Strike::KillRedis | Strike::Cut, ..) => {}
            (Strike::KillProxy, ..) => self.one(dice, Member::serves).kill(),
            (Strike::KillWorker, ..) => self.one(dice, |member| !member.serves()).kill(),
            (Strike::Freeze, ..) => {
                let thaw = LEASE + Duration::from_millis(dice.random_range(0..2500));
                self.one(dice, |_| true).freeze(Instant::now() + thaw);
            }
            (Strike::Drain, ..) => self.one(dice, |_| true).drain(),
        }
    }

    /// A member by chance, of those that `may` be it; any, where none may.
    fn one(&mut self, dice: &mut StdRng, may: impl Fn(&Member) -> bool) -> &mut Member {
        let some: Vec<_> = (0..self.members.len()).filter(|n| may(&self.members[*n])).collect();
        let n = if some.is_empty() { 0 } else { some[dice.random_range(0..some.len())] };
        &mut self.members[n]
    }

    /// No more faults but those that processes bring on themselves.
    pub(super) fn relent(&mut self) {
        let over = |fault: &mut Option<(Instant, u64)>| {
            if let Some((until, _)) = fault {
                *until = Instant::now();
            }
        };
        over(&mut self.cut);
        over(&mut self.outage);
        for member in &mut self.members {
            if let State::Frozen { thaw, .. } | State::Down { until: thaw } = &mut member.state {
                *thaw = Instant::now();
            }
        }
    }

    /// Ids of the dead letters, as often as they are there; none where nobody could be asked.
    pub(super) async fn dead_letters(&self) -> Option<Vec<String>> {
        let Body::Serve(omni) = &self.members[0].body else { unreachable!("proxies come first") };
        let mut ids = Vec::new();
        for topic in ["replay", "service", "program"] {
            let path = format!("/admin/v1/dead-letters?topic={topic}&limit=1000");
            let request = omni.admin_client().request(http::Method::GET, &path).timeout(PATIENCE);
            let answer = crate::harness::client::Answer::try_to(request).await.ok().filter(|a| a.status == 200)?;
            let letters = answer.json();
            ids.extend(letters.as_array()?.iter().filter_map(|letter| letter["id"].as_str().map(str::to_owned)));
        }
        Some(ids)
    }

    /// The logs of all that run now, for whoever has to find out.
    pub(super) fn logs(&self) -> String {
        let log = |member: &Member| format!("--- {}\n{}\n", member.name, member.logs());
        self.members.iter().map(log).collect()
    }

    async fn revive(&mut self, n: usize) {
        if !self.members[n].serves() {
            let name = self.members[n].name.clone();
            let Body::Serve(beside) = &self.members[0].body else { unreachable!("proxies come first") };
            self.members[n].body = Body::Runner(beside.beside(&name, &["runner", "--name", &name]));
        } else if let Body::Serve(omni) = &mut self.members[n].body {
            omni.restart().await;
        }
        (self.members[n].state, self.members[n].alive) = (State::Up, now());
        self.tell_addresses();
    }

    fn tell_addresses(&self) {
        let serving = self.members.iter().filter_map(|member| match &member.body {
            Body::Serve(omni) => Some(omni.client()),
            Body::Runner(_) => None,
        });
        *self.world.proxies.lock().expect("not poisoned") = serving.collect();
    }

    fn note(&self, fault: Fault, target: &str, from: u64) {
        self.world.journal.note(Event::Fault { fault, target: target.into(), from });
    }
}

// === impl Member ===

impl Member {
    fn new(name: String, body: Body) -> Self {
        Self { name, body, state: State::Up, alive: now() }
    }

    fn serves(&self) -> bool {
        matches!(self.body, Body::Serve(_))
    }

    fn process(&mut self) -> &mut Process {
        match &mut self.body {
            Body::Serve(omni) => omni.process(),
            Body::Runner(process) => process,
        }
    }

    fn logs(&self) -> String {
        match &self.body {
            Body::Serve(omni) => omni.logs().text(),
            Body::Runner(process) => process.logs().text(),
        }
    }

    /// Whether it is to be brought back now.
    fn tend(&mut self, world: &World) -> bool {
        let fault = |fault, target: &str, from| {
            world.journal.note(Event::Fault { fault, target: target.into(), from });
        };
        if let State::Down { until } = self.state {
            return Instant::now() >= until;
        }
        let (name, alive, state) = (self.name.clone(), self.alive, self.state);
        if let Some(status) = self.process().exited() {
            match state {
                State::Draining { from } if status.success() => fault(Fault::Drain, &name, from),
                State::Draining { .. } if status.code().is_some() => {
                    world.complain(format!("{name} ended its drain with {status}"));
                }
                _ => {}
            }
            if !status.success() {
                fault(Fault::Kill, &name, alive);
            }
            if status.success() && !matches!(state, State::Draining { .. }) || status.code() == Some(101) {
                world.complain(format!("{name} ended by itself: {status}\n{}", self.logs()));
            }
            self.state = State::Down { until: Instant::now() + Duration::from_millis(200) };
            return false;
        }
        match state {
            State::Frozen { thaw, from } if Instant::now() >= thaw => {
                self.process().signal(Signal::CONT);
                fault(Fault::Freeze, &name, from);
                self.state = State::Up;
            }
            _ => {}
        }
        self.alive = now();
        false
    }

    fn kill(&mut self) {
        if matches!(self.state, State::Up | State::Draining { .. }) {
            self.process().signal(Signal::KILL);
        }
    }

    fn freeze(&mut self, thaw: Instant) {
        if matches!(self.state, State::Up) {
            self.process().signal(Signal::STOP);
            self.state = State::Frozen { thaw, from: now() };
        }
    }

    fn drain(&mut self) {
        if matches!(self.state, State::Up) {
            self.process().signal(Signal::TERM);
            self.state = State::Draining { from: now() };
        }
    }
}

/// Waits until `find` finds something, while the fleet is tended.
pub(super) async fn until<T>(
    fleet: &mut Fleet,
    patience: Duration,
    what: &str,
    mut find: impl AsyncFnMut(&Fleet) -> Option<T>,
) -> T {
    eventually_some(patience, what, async || {
        fleet.tend().await;
        find(fleet).await
    })
    .await
}
