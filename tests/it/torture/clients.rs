//! Clients that submit, call, poll and cancel through any proxy that is up, and note what they are
//! told.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::history::{TaskEnd, TortureEvent};
use super::journal::{HandlerWork, TortureJournal};
use crate::support::http::client::{HttpClient, HttpResponse};

/// Longer than any call may take; a proxy that stands still has no answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);

/// What the clients share.
#[derive(Clone)]
pub(super) struct TortureContext {
    pub(super) journal: TortureJournal,
    /// Where the proxies are now.
    pub(super) proxies: Arc<Mutex<Vec<HttpClient>>>,
    pub(super) stop: Arc<AtomicBool>,
    /// Answers that no client should have got.
    pub(super) unexpected_answers: Arc<Mutex<Vec<String>>>,
    pub(super) call_count: Arc<AtomicUsize>,
    pub(super) submission_count: Arc<AtomicUsize>,
}

// === impl World ===

impl TortureContext {
    pub(super) fn new(journal: TortureJournal) -> Self {
        let (proxies, stop, unexpected_answers) = (Arc::default(), Arc::default(), Arc::default());
        Self {
            journal,
            proxies,
            stop,
            unexpected_answers,
            call_count: Arc::default(),
            submission_count: Arc::default(),
        }
    }

    /// A proxy by chance.
    pub(super) fn random_proxy(&self, dice: &mut StdRng) -> HttpClient {
        let proxies = self.proxies.lock().expect("not poisoned");
        proxies[dice.random_range(0..proxies.len())].clone()
    }

    pub(super) fn record_unexpected(&self, what: String) {
        self.unexpected_answers.lock().expect("not poisoned").push(what);
    }

    fn is_running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Submits tasks one after the other; polls some, cancels some.
pub(super) async fn run_submitter(world: TortureContext, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    while world.is_running() {
        let work = random_work(&mut dice, 3);
        let body = match dice.random_range(0..10) {
            0 => json!({"topic": "program", "payload": work}),
            1..6 => json!({"topic": "service", "payload": work}),
            _ => json!(work),
        };
        let client = world.random_proxy(&mut dice);
        if let Some(answer) = try_request(&client, Method::POST, "/invoke/async", Some(&body)).await
        {
            match answer.status {
                StatusCode::ACCEPTED => {
                    let id = accepted_task_id(&answer);
                    world.journal.record(TortureEvent::Accepted { id: id.clone() });
                    world.submission_count.fetch_add(1, Ordering::Relaxed);
                    poll_or_cancel(&world, &mut dice, &id).await;
                }
                StatusCode::SERVICE_UNAVAILABLE => {}
                status => {
                    world.record_unexpected(format!("/invoke/async: {status} {}", answer.text()));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(5..60))).await;
    }
}

/// Calls as a legacy client does: whatever becomes of the store, it gets its answer.
pub(super) async fn run_caller(world: TortureContext, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    while world.is_running() {
        let body = json!(random_work(&mut dice, 0));
        let client = world.random_proxy(&mut dice);
        if let Some(answer) = try_request(&client, Method::POST, "/invoke", Some(&body)).await {
            world.call_count.fetch_add(1, Ordering::Relaxed);
            match answer.status {
                StatusCode::OK => {}
                StatusCode::ACCEPTED => {
                    world.journal.record(TortureEvent::Accepted { id: accepted_task_id(&answer) });
                }
                status => world.record_unexpected(format!("/invoke: {status} {}", answer.text())),
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(5..60))).await;
    }
}

fn random_work(dice: &mut StdRng, most_failures: u32) -> HandlerWork {
    let long = dice.random_bool(0.05);
    let sleep_ms = if long { dice.random_range(500..2000) } else { dice.random_range(0..60) };
    // One in 25 fails for good.
    let fail = if dice.random_bool(0.2) {
        dice.random_range(0..=most_failures + most_failures.min(1))
    } else {
        0
    };
    HandlerWork { sleep_ms, fail }
}

/// Cancels one in ten, polls one in five.
async fn poll_or_cancel(world: &TortureContext, dice: &mut StdRng, id: &str) {
    let path = format!("/task/{id}");
    match dice.random_range(0..10) {
        0 => {
            tokio::time::sleep(Duration::from_millis(dice.random_range(0..100))).await;
            let answer = try_request(&world.random_proxy(dice), Method::DELETE, &path, None).await;
            match answer.map(|answer| answer.status) {
                Some(StatusCode::OK) => {
                    world.journal.record(TortureEvent::Cancelled { id: id.to_owned() });
                }
                None | Some(StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE) => {}
                Some(status) => world.record_unexpected(format!("DELETE {path}: {status}")),
            }
        }
        1 | 2 => {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(dice.random_range(0..100))).await;
                if let TaskReadResult::TaskOrMissing(Some(end)) =
                    read_task(&world.random_proxy(dice), id).await
                    && is_final(&end)
                {
                    world
                        .journal
                        .record(TortureEvent::EndObserved { id: id.to_owned(), end: Some(end) });
                }
            }
        }
        _ => {}
    }
}

/// What `GET /task/<id>` says.
pub(super) enum TaskReadResult {
    /// Nothing: no answer, or no store.
    NoAnswer,
    /// The task, or 404.
    TaskOrMissing(Option<TaskEnd>),
}

pub(super) async fn read_task(client: &HttpClient, id: &str) -> TaskReadResult {
    let Some(answer) = try_request(client, Method::GET, &format!("/task/{id}"), None).await else {
        return TaskReadResult::NoAnswer;
    };
    match answer.status {
        StatusCode::OK => {
            let task = answer.json();
            let number =
                |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
            let status = task["status"].as_str().unwrap_or_default().to_owned();
            let attempts = number(&task["attempts"]).unwrap_or_default();
            TaskReadResult::TaskOrMissing(Some(TaskEnd {
                status,
                attempts,
                result_attempt: number(&task["result"]["attempt"]),
            }))
        }
        StatusCode::NOT_FOUND => TaskReadResult::TaskOrMissing(None),
        _ => TaskReadResult::NoAnswer,
    }
}

pub(super) fn is_final(end: &TaskEnd) -> bool {
    ["completed", "failed", "cancelled"].contains(&end.status.as_str())
}

/// The answer; none where the proxy died or stands still.
async fn try_request(
    client: &HttpClient,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Option<HttpResponse> {
    let request = client.request(method, path).timeout(CALL_TIMEOUT);
    let request = if let Some(body) = body { request.json(body) } else { request };
    HttpResponse::try_from_request(request).await.ok()
}

fn accepted_task_id(answer: &HttpResponse) -> String {
    answer.json()["task_id"].as_str().expect("a 202 says the id").to_owned()
}
