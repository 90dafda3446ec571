//! Clients that submit, call, poll and cancel through any proxy that is up, and note what they are told.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::history::{End, Event};
use super::journal::{Journal, Work};
use crate::harness::client::{Answer, Client};

/// Longer than any call may take; a proxy that stands still has no answer.
const NO_ANSWER: Duration = Duration::from_secs(12);

/// What the clients share.
#[derive(Clone)]
pub(super) struct World {
    pub(super) journal: Journal,
    /// Where the proxies are now.
    pub(super) proxies: Arc<Mutex<Vec<Client>>>,
    pub(super) stop: Arc<AtomicBool>,
    /// Answers that no client should have got.
    pub(super) complaints: Arc<Mutex<Vec<String>>>,
    pub(super) calls: Arc<AtomicUsize>,
    pub(super) submissions: Arc<AtomicUsize>,
}

// === impl World ===

impl World {
    pub(super) fn new(journal: Journal) -> Self {
        let (proxies, stop, complaints) = (Arc::default(), Arc::default(), Arc::default());
        Self { journal, proxies, stop, complaints, calls: Arc::default(), submissions: Arc::default() }
    }

    /// A proxy by chance.
    pub(super) fn proxy(&self, dice: &mut StdRng) -> Client {
        let proxies = self.proxies.lock().expect("not poisoned");
        proxies[dice.random_range(0..proxies.len())].clone()
    }

    pub(super) fn complain(&self, what: String) {
        self.complaints.lock().expect("not poisoned").push(what);
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Submits tasks one after the other; polls some, cancels some.
pub(super) async fn submit(world: World, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    while world.goes_on() {
        let work = work(&mut dice, 3);
        let body = match dice.random_range(0..10) {
            0 => json!({"topic": "program", "payload": work}),
            1..6 => json!({"topic": "service", "payload": work}),
            _ => json!(work),
        };
        let client = world.proxy(&mut dice);
        if let Some(answer) = asked(&client, Method::POST, "/invoke/async", Some(&body)).await {
            match answer.status {
                StatusCode::ACCEPTED => {
                    let id = id_of(&answer);
                    world.journal.note(Event::Accepted { id: id.clone() });
                    world.submissions.fetch_add(1, Ordering::Relaxed);
                    follow(&world, &mut dice, &id).await;
                }
                StatusCode::SERVICE_UNAVAILABLE => {}
                status => world.complain(format!("/invoke/async: {status} {}", answer.text())),
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(5..60))).await;
    }
}

/// Calls as a legacy client does: whatever becomes of the store, it gets its answer.
pub(super) async fn call(world: World, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    while world.goes_on() {
        let body = json!(work(&mut dice, 0));
        let client = world.proxy(&mut dice);
        if let Some(answer) = asked(&client, Method::POST, "/invoke", Some(&body)).await {
            world.calls.fetch_add(1, Ordering::Relaxed);
            match answer.status {
                StatusCode::OK => {}
                StatusCode::ACCEPTED => world.journal.note(Event::Accepted { id: id_of(&answer) }),
                status => world.complain(format!("/invoke: {status} {}", answer.text())),
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(5..60))).await;
    }
}

fn work(dice: &mut StdRng, most_failures: u32) -> Work {
    let long = dice.random_bool(0.05);
    let sleep_ms = if long { dice.random_range(500..2000) } else { dice.random_range(0..60) };
    // One in 25 fails for good.
    let fail = if dice.random_bool(0.2) { dice.random_range(0..=most_failures + most_failures.min(1)) } else { 0 };
    Work { sleep_ms, fail }
}

/// Cancels one in ten, polls one in five.
async fn follow(world: &World, dice: &mut StdRng, id: &str) {
    let path = format!("/task/{id}");
    match dice.random_range(0..10) {
        0 => {
            tokio::time::sleep(Duration::from_millis(dice.random_range(0..100))).await;
            let answer = asked(&world.proxy(dice), Method::DELETE, &path, None).await;
            match answer.map(|answer| answer.status) {
                Some(StatusCode::OK) => world.journal.note(Event::Cancelled { id: id.to_owned() }),
                None | Some(StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE) => {}
                Some(status) => world.complain(format!("DELETE {path}: {status}")),
            }
        }
        1 | 2 => {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(dice.random_range(0..100))).await;
                if let Read::Is(Some(end)) = read(&world.proxy(dice), id).await
                    && is_final(&end)
                {
                    world.journal.note(Event::Seen { id: id.to_owned(), end: Some(end) });
                }
            }
        }
        _ => {}
    }
}

/// What `GET /task/<id>` says.
pub(super) enum Read {
    /// Nothing: no answer, or no store.
    Nothing,
    /// The task, or 404.
    Is(Option<End>),
}

pub(super) async fn read(client: &Client, id: &str) -> Read {
    let Some(answer) = asked(client, Method::GET, &format!("/task/{id}"), None).await else { return Read::Nothing };
    match answer.status {
        StatusCode::OK => {
            let task = answer.json();
            let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
            let status = task["status"].as_str().unwrap_or_default().to_owned();
            let attempts = number(&task["attempts"]).unwrap_or_default();
            Read::Is(Some(End { status, attempts, by: number(&task["result"]["attempt"]) }))
        }
        StatusCode::NOT_FOUND => Read::Is(None),
        _ => Read::Nothing,
    }
}

pub(super) fn is_final(end: &End) -> bool {
    ["completed", "failed", "cancelled"].contains(&end.status.as_str())
}

/// The answer; none where the proxy died or stands still.
async fn asked(client: &Client, method: Method, path: &str, body: Option<&Value>) -> Option<Answer> {
    let request = client.request(method, path).timeout(NO_ANSWER);
    let request = if let Some(body) = body { request.json(body) } else { request };
    Answer::try_to(request).await.ok()
}

fn id_of(answer: &Answer) -> String {
    answer.json()["task_id"].as_str().expect("a 202 says the id").to_owned()
}
