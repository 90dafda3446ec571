//! Legacy clients at a constant rate, who compare each response with what the legacy endpoint
//! itself answers to the same request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::support::TestUpstream;
use crate::support::http::client::{HttpClient, HttpResponse};

/// How many clients there are, each with an API key of its own.
const CLIENTS: usize = 40;
/// The longest time that a client waits for a response.
const CLIENT_TIMEOUT: Duration = Duration::from_mins(1);

/// Headers that this proxy adds, or whose values differ from call to call.
const UNCOMPARED_HEADERS: [&str; 3] = ["x-request-id", "date", "content-length"];

/// What a client asks for. Each kind is asked at `/invoke` and at `/invoke/{agent}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CallKind {
    /// An agent that answers at once.
    Quick,
    /// An agent that takes a while.
    Slow,
    /// An agent that fails.
    Failing,
    /// An API key that the legacy endpoint refuses.
    ExpiredKey,
}

/// What a client sees of a response: the status, the headers but those that this proxy adds or that
/// differ from call to call, and the body without its duration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SeenResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: Value,
}

/// What clients noticed.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Responses as the legacy endpoint gives them, by the path that served the call.
    pub(super) same: BTreeMap<String, usize>,
    /// Calls that got a 202.
    pub(super) deferred: usize,
    /// What differed from the legacy endpoint's response.
    pub(super) noticed: Vec<String>,
    /// How long quick calls took, by path.
    latencies: BTreeMap<String, Vec<Duration>>,
}

/// Clients that call until they are stopped.
pub(super) struct LegacyClients {
    shared: Arc<Shared>,
    caller: JoinHandle<()>,
}

struct Shared {
    expected: BTreeMap<(CallKind, &'static str), SeenResponse>,
    proxies: Vec<HttpClient>,
    tally: Mutex<Tally>,
    fails_replayed: AtomicBool,
    is_stopped: AtomicBool,
}

// === impl LegacyClients ===

impl LegacyClients {
    /// Asks the upstream for the expected responses, and starts to call the proxies `rate` times a
    /// second.
    pub(super) async fn start(
        upstream: &TestUpstream,
        proxies: Vec<HttpClient>,
        rate: u32,
    ) -> Self {
        let upstream = HttpClient::new(&upstream.url());
        let mut expected = BTreeMap::new();
        for path in ["/invoke", "/invoke/qa"] {
            for kind in [CallKind::Quick, CallKind::Slow, CallKind::Failing, CallKind::ExpiredKey] {
                let response = call(&upstream, kind, path, 0, false).await.expect("answered");
                expected.insert((kind, path), SeenResponse::new(&response));
            }
        }
        let shared = Arc::new(Shared {
            expected,
            proxies,
            tally: Mutex::default(),
            fails_replayed: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        });
        let caller = tokio::spawn(call_at_rate(shared.clone(), rate));
        Self { shared, caller }
    }

    /// Has the upstream fail the calls that workers replay, as after a bad deployment of the async
    /// path.
    pub(super) fn fail_replayed_calls(&self) {
        self.shared.fails_replayed.store(true, Ordering::Relaxed);
    }

    /// What was noticed since the last time.
    pub(super) fn take_tally(&self) -> Tally {
        std::mem::take(&mut *self.shared.tally.lock().expect("not poisoned"))
    }

    /// Calls until `calls` more have got their responses, and returns what they noticed.
    pub(super) async fn tally_of_next(&self, calls: usize) -> Tally {
        let mut tally = self.take_tally();
        while tally.responses() < calls {
            tokio::time::sleep(Duration::from_millis(100)).await;
            tally.add(self.take_tally());
        }
        tally
    }

    /// Stops calling, waits for the responses, and returns what was noticed since the last time.
    pub(super) async fn stop(self) -> Tally {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        self.caller.await.expect("the clients do not panic");
        std::mem::take(&mut *self.shared.tally.lock().expect("not poisoned"))
    }
}

// === impl Tally ===

impl Tally {
    fn responses(&self) -> usize {
        self.same.values().sum::<usize>() + self.deferred + self.noticed.len()
    }

    /// Calls that this path served as the legacy endpoint does.
    pub(super) fn same_by(&self, path: &str) -> usize {
        self.same.get(path).copied().unwrap_or_default()
    }

    /// Adds what another period noticed.
    pub(super) fn add(&mut self, other: Self) {
        for (path, count) in other.same {
            *self.same.entry(path).or_default() += count;
        }
        for (path, latencies) in other.latencies {
            self.latencies.entry(path).or_default().extend(latencies);
        }
        self.deferred += other.deferred;
        self.noticed.extend(other.noticed);
    }

    /// The 95th percentile of the quick calls that this path served.
    pub(super) fn p95(&self, path: &str) -> Option<Duration> {
        let mut latencies = self.latencies.get(path)?.clone();
        latencies.sort_unstable();
        latencies.get(latencies.len() * 95 / 100).copied()
    }

    fn count(
        &mut self,
        kind: CallKind,
        expected: &SeenResponse,
        took: Duration,
        got: &HttpResponse,
    ) {
        let path = got.header("x-omnidaemon-path").unwrap_or("none").to_owned();
        let seen = SeenResponse::new(got);
        if seen == *expected {
            if kind == CallKind::Quick {
                self.latencies.entry(path.clone()).or_default().push(took);
            }
            *self.same.entry(path).or_default() += 1;
        } else if seen.status == 202 && got.header("location").is_some() {
            self.deferred += 1;
        } else {
            self.noticed.push(format!("{path} {kind:?}: {seen:?}"));
        }
    }
}

// === impl SeenResponse ===

impl SeenResponse {
    fn new(response: &HttpResponse) -> Self {
        let is_compared =
            |name: &str| !name.starts_with("x-omnidaemon-") && !UNCOMPARED_HEADERS.contains(&name);
        let mut headers: Vec<_> = response
            .headers
            .iter()
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .filter(|(name, _)| is_compared(name))
            .collect();
        headers.sort_unstable();
        let mut body = serde_json::from_str(&response.text()).unwrap_or(Value::Null);
        if let Some(body) = body.as_object_mut() {
            body.remove("execution_time_ms");
        }
        Self { status: response.status.as_u16(), headers, body }
    }
}

async fn call_at_rate(shared: Arc<Shared>, rate: u32) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = JoinSet::new();
    let mut number = 0;
    while !shared.is_stopped.load(Ordering::Relaxed) {
        ticks.tick().await;
        calls.spawn(call_and_compare(shared.clone(), number));
        while calls.try_join_next().is_some() {}
        number += 1;
    }
    calls.join_all().await;
}

async fn call_and_compare(shared: Arc<Shared>, number: usize) {
    let proxy = &shared.proxies[number % shared.proxies.len()];
    let kind = match number % 400 {
        13 | 214 => CallKind::Failing,
        n if n % 25 == 7 => CallKind::Slow,
        n if n % 50 == 30 => CallKind::ExpiredKey,
        _ => CallKind::Quick,
    };
    let path = if number.is_multiple_of(3) { "/invoke/qa" } else { "/invoke" };
    let started = Instant::now();
    let fails_replayed = shared.fails_replayed.load(Ordering::Relaxed);
    let response = call(proxy, kind, path, number % CLIENTS, fails_replayed).await;
    let mut tally = shared.tally.lock().expect("not poisoned");
    match response {
        Ok(response) => {
            tally.count(kind, &shared.expected[&(kind, path)], started.elapsed(), &response);
        }
        Err(error) => tally.noticed.push(format!("no response: {error:?}")),
    }
}

async fn call(
    server: &HttpClient,
    kind: CallKind,
    path: &str,
    client: usize,
    fails_replayed: bool,
) -> reqwest::Result<HttpResponse> {
    let mut arguments =
        json!({"headers": [["x-agent-run", "7"], ["set-cookie", "seen=1; Path=/"]]});
    match kind {
        CallKind::Quick => arguments["sleep_ms"] = json!(20),
        CallKind::Slow => arguments["sleep_ms"] = json!(400),
        CallKind::Failing => arguments["status"] = json!(500),
        CallKind::ExpiredKey => {}
    }
    if fails_replayed {
        arguments["replayed"] = json!({"status": 500});
    }
    let key =
        if kind == CallKind::ExpiredKey { "expired".to_owned() } else { format!("key-{client}") };
    let request = server
        .request(Method::POST, path)
        .header("x-api-key", key)
        .json(&json!({"agent": "qa", "task": "t", "arguments": arguments, "context": {"n": 1}}))
        .timeout(CLIENT_TIMEOUT);
    HttpResponse::try_from_request(request).await
}
