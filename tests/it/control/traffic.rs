//! Clients who call all the time. What they ask of the upstream can be changed while they do, for
//! the async path apart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::http::client::{HttpClient, HttpResponse};

/// Clients at a time.
const CLIENTS: usize = 8;
/// Between a client's calls.
const PAUSE: Duration = Duration::from_millis(15);

/// Traffic until it is stopped.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    proxies: Mutex<Vec<HttpClient>>,
    arguments: Mutex<Value>,
    stop: AtomicBool,
    told: Mutex<Told>,
}

/// What clients were told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Answers by path and status.
    pub(super) answers: BTreeMap<(String, u16), usize>,
    /// Calls that got none.
    pub(super) broken: usize,
}

impl Traffic {
    /// Begins.
    pub(super) fn on(proxies: Vec<HttpClient>) -> Self {
        let shared = Arc::new(Shared {
            proxies: Mutex::new(proxies),
            arguments: Mutex::new(json!({})),
            stop: AtomicBool::new(false),
            told: Mutex::default(),
        });
        let clients = (0..CLIENTS).map(|n| tokio::spawn(call(shared.clone(), n))).collect();
        Self { shared, clients }
    }

    /// What the upstream is asked for from now on: `arguments` as in `tests/upstream/app.py`.
    pub(super) fn ask(&self, arguments: Value) {
        *self.shared.arguments.lock().expect("not poisoned") = arguments;
    }

    /// Whom the clients call from now on.
    pub(super) fn go_to(&self, proxies: Vec<HttpClient>) {
        *self.shared.proxies.lock().expect("not poisoned") = proxies;
    }

    /// What was told so far, and is forgotten.
    pub(super) fn take(&self) -> Told {
        std::mem::take(&mut *self.shared.told.lock().expect("not poisoned"))
    }

    /// Ends, and says what clients were told since the last time.
    pub(super) async fn stop(self) -> Told {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client does not panic");
        }
        self.shared.told.lock().expect("not poisoned").clone()
    }
}

impl Told {
    fn note(&mut self, answer: reqwest::Result<HttpResponse>) {
        match answer {
            Ok(answer) => {
                let path = answer.header("x-omnidaemon-path").unwrap_or("none").to_owned();
                *self.answers.entry((path, answer.status.as_u16())).or_default() += 1;
            }
            Err(_) => self.broken += 1,
        }
    }

    /// Answers with that status.
    pub(super) fn with_status(&self, status: u16) -> usize {
        self.answers.iter().filter(|((_, code), _)| *code == status).map(|(_, count)| count).sum()
    }

    /// Answers that went that way.
    pub(super) fn by_path(&self, path: &str) -> usize {
        self.answers.iter().filter(|((way, _), _)| way == path).map(|(_, count)| count).sum()
    }

    /// Answers of the sync path that are not what the legacy endpoint gives.
    pub(super) fn failed_on_sync(&self) -> usize {
        let wrong = self.answers.iter().filter(|((way, code), _)| way == "sync" && *code != 200);
        wrong.map(|(_, count)| count).sum::<usize>() + self.broken
    }

    /// Calls that did not get what the legacy endpoint gives, or a 202.
    pub(super) fn failed(&self) -> usize {
        let well = self.with_status(200) + self.with_status(202);
        self.answers.values().sum::<usize>() - well + self.broken
    }
}

async fn call(shared: Arc<Shared>, number: usize) {
    let mut calls = number;
    while !shared.stop.load(Ordering::Relaxed) {
        let proxy = {
            let proxies = shared.proxies.lock().expect("not poisoned");
            proxies[calls % proxies.len()].clone()
        };
        let arguments = shared.arguments.lock().expect("not poisoned").clone();
        let request = proxy
            .request(Method::POST, "/invoke")
            .json(&json!({"task": "t", "arguments": arguments}));
        let answer = HttpResponse::try_from_request(request.timeout(Duration::from_secs(20))).await;
        shared.told.lock().expect("not poisoned").note(answer);
        calls += 1;
        tokio::time::sleep(PAUSE).await;
    }
}
