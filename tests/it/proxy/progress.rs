//! How far a task has come: said by a program or an HTTP service, shown to those who poll and those
//! who watch.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::Request;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::http::client::HttpResponse;
use crate::support::scenario::{Scenario, route, scenario, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::tasks::submit_task;
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some, wait_until};

const PROGRAM_SCRIPT: &str = r#"dir=$(dirname "$0")
echo 'starting' >&2
echo '{"progress": 0.4, "note": "page 4"}' >&2
until [ -e "$dir/go" ]; do sleep 0.05; done
echo '{"progress": 0.8}' >&2
echo 'the reason' >&2
[ -e "$dir/fail" ] && exit 3
printf '{\n  "pages": 10\n}'
"#;

/// An HTTP service that answers when it is told to, and remembers where it may say how far it is.
struct Service {
    url: String,
    progress_urls: Arc<Mutex<Vec<String>>>,
    answer: Arc<Notify>,
}

impl Service {
    async fn start() -> Self {
        let (progress_urls, answer) =
            (Arc::<Mutex<Vec<String>>>::default(), Arc::<Notify>::default());
        let (urls, go) = (progress_urls.clone(), answer.clone());
        let run = move |request: Request| {
            let (urls, go) = (urls.clone(), go.clone());
            async move {
                if request.method() == Method::POST {
                    let url = request.headers()["x-omnidaemon-progress-url"]
                        .to_str()
                        .expect("a URL")
                        .to_owned();
                    urls.lock().unwrap_or_else(PoisonError::into_inner).push(url);
                    go.notified().await;
                }
                "1"
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(run)).await });
        Self { url, progress_urls, answer }
    }

    /// The path of the first URL that it was given.
    async fn progress_path(&self) -> String {
        let first =
            || self.progress_urls.lock().unwrap_or_else(PoisonError::into_inner).first().cloned();
        let url = wait_for_some(TEST_DEADLINE, "the service is called", async || first()).await;
        url.strip_prefix("http://proxy.example:8000").expect("the configured base").to_owned()
    }
}

async fn start(store: &Store, service: &Service, workers: u32) -> Scenario {
    scenario()
        .store(store)
        .yaml("store.timeout", "1s")
        .yaml("proxy.public_url", "http://proxy.example:8000")
        .upstream_url(&service.url)
        .route(route("invoke").topic("program"))
        .topic(topic("program").command(["sh", "<dir>/program.sh"]).retries(0))
        .topic(topic("service").http("<upstream>/run").retries(0))
        .topic(topic("outside").external())
        .workers(workers)
        .file("program.sh", PROGRAM_SCRIPT)
        .start()
        .await
}

fn touch(omni: &Omnidaemon, file: &str) {
    std::fs::write(omni.dir().join(file), "").expect("it can be written");
}

async fn wait_for_progress(omni: &Omnidaemon, poll: &str, expected: Value) {
    wait_until(TEST_DEADLINE, &format!("{expected} shows"), async || {
        let task = omni.data_client().get(poll).await.json();
        task["progress"] == expected && task["status"] == "processing"
    })
    .await;
}

/// A stream of events being read.
struct Events {
    response: reqwest::Response,
    read: String,
}

#[derive(Debug)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

impl Events {
    async fn open(omni: &Omnidaemon, poll: &str) -> Self {
        let request = omni.data_client().request(Method::GET, &format!("{poll}/events"));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(
            (header("content-type"), header("cache-control")),
            ("text/event-stream".into(), "no-store".into())
        );
        Self { response, read: String::new() }
    }

    /// The next event; none at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.read = rest;
                let field = |name: &str| {
                    let lines =
                        event.lines().filter_map(|line| line.strip_prefix(&format!("{name}: ")));
                    lines.collect::<Vec<_>>().join("\n")
                };
                if event.contains("data: ") {
                    let data = serde_json::from_str(&field("data")).expect("JSON");
                    return Some(Event { name: field("event"), id: field("id"), data });
                }
                continue; // a comment, or the retry time
            }
            let chunk = timeout(TEST_DEADLINE, self.response.chunk())
                .await
                .expect("something in time")
                .expect("no break");
            self.read.push_str(std::str::from_utf8(&chunk?).expect("UTF-8 in whole pieces"));
        }
    }

    /// The next event of this name; others are passed over.
    async fn until(&mut self, name: &str) -> Event {
        loop {
            let event =
                self.next().await.unwrap_or_else(|| panic!("the stream ended before {name}"));
            if event.name == name {
                return event;
            }
        }
    }
}

on_both_stores!(
    a_program_says_on_stderr_how_far_it_is,
    an_http_service_says_by_a_request_how_far_it_is,
    a_task_is_watched_to_its_end,
    what_cannot_be_watched_is_refused,
    a_server_that_drains_ends_its_streams,
);

async fn a_program_says_on_stderr_how_far_it_is(store: Store) {
    let service = Service::start().await;
    let omni = start(&store, &service, 1).await;
    let poll = submit_task(&omni, "program", json!({})).await;
    wait_for_progress(&omni, &poll, json!({"fraction": 0.4, "note": "page 4"})).await;
    touch(&omni, "fail");
    touch(&omni, "go");
    let ended = omni.data_client().get(&format!("{poll}?wait=60s")).await.json();
    assert_eq!((&ended["status"], ended.get("progress")), (&json!("failed"), None));
    let error = ended["error"].as_str().expect("an error");
    assert!(
        error.contains("starting") && error.ends_with("the reason") && !error.contains("progress"),
        "{error}"
    );
}

async fn an_http_service_says_by_a_request_how_far_it_is(store: Store) {
    let service = Service::start().await;
    let omni = start(&store, &service, 1).await;
    let poll = submit_task(&omni, "service", json!({})).await;
    let path = service.progress_path().await;
    assert!(path.starts_with(&format!("{poll}/progress?token=")), "{path}");
    let say = |body: Value| {
        let (client, path) = (omni.data_client(), path.clone());
        async move { client.post(&path, &body).await.status.as_u16() }
    };
    assert_eq!(say(json!({"progress": 0.1, "note": "one"})).await, 204);
    wait_for_progress(&omni, &poll, json!({"fraction": 0.1, "note": "one"})).await;
    for fraction in [0.2, 0.3, 7.0] {
        assert_eq!(say(json!({"progress": fraction})).await, 204);
    }
    wait_for_progress(&omni, &poll, json!({"fraction": 1.0})).await;

    for bad in [
        json!({}),
        json!({"progress": "x"}),
        json!({"progress": 0.1, "more": 1}),
        json!("x".repeat(9000)),
    ] {
        assert_eq!(say(bad).await, 400);
    }
    let post = async |path: &str| {
        omni.data_client().post(path, &json!({"progress": 0.5})).await.status.as_u16()
    };
    assert_eq!(post(&format!("{poll}/progress?token=AAAA")).await, 404);
    assert_eq!(post(&format!("{poll}/progress")).await, 404);
    assert_eq!(
        post(&path.replace(&poll, "/task/task_other")).await,
        404,
        "a token is good for one task"
    );
    assert_eq!(omni.data_client().get(&path).await.status, 405);

    service.answer.notify_one();
    let ended = omni.data_client().get(&format!("{poll}?wait=60s")).await.json();
    assert_eq!((&ended["status"], ended.get("progress")), (&json!("completed"), None));
    // What was put off may still be held back for a moment.
    wait_until(TEST_DEADLINE, "the attempt is over", async || {
        say(json!({"progress": 0.5})).await == 409
    })
    .await;
}

async fn a_task_is_watched_to_its_end(store: Store) {
    let service = Service::start().await;
    let omni = start(&store, &service, 1).await;
    let poll = submit_task(&omni, "program", json!({})).await;
    let (mut one, mut two) = (Events::open(&omni, &poll).await, Events::open(&omni, &poll).await);
    for events in [&mut one, &mut two] {
        let mut status = events.until("status").await;
        if status.data["status"] == "queued" {
            status = events.until("status").await;
        }
        assert_eq!(
            (&status.data["status"], &status.data["attempts"]),
            (&json!("processing"), &json!(1))
        );
        assert_eq!(events.until("progress").await.data, json!({"fraction": 0.4, "note": "page 4"}));
    }
    touch(&omni, "go");
    for events in [&mut one, &mut two] {
        let end = events.until("end").await;
        assert_eq!(
            (end.id.as_str(), &end.data),
            ("end", &omni.data_client().get(&poll).await.json())
        );
        assert_eq!(
            (&end.data["status"], &end.data["result"]),
            (&json!("completed"), &json!({"pages": 10}))
        );
        assert!(events.next().await.is_none(), "the stream ends");
    }
    let late = Events::open(&omni, &poll).await.next().await.expect("an event");
    assert_eq!((late.name.as_str(), late.id.as_str()), ("end", "end"));
    let again = omni
        .data_client()
        .request(Method::GET, &format!("{poll}/events"))
        .header("last-event-id", "end");
    assert_eq!(
        HttpResponse::from_request(again).await.status,
        204,
        "a browser does not come again"
    );
    let numbered = omni
        .data_client()
        .request(Method::GET, &format!("{poll}/events"))
        .header("last-event-id", "garbage\t7");
    assert_eq!(HttpResponse::from_request(numbered).await.status, 200);
}

async fn what_cannot_be_watched_is_refused(store: Store) {
    let service = Service::start().await;
    let omni = start(&store, &service, 0).await;
    let create =
        omni.data_client().request(Method::POST, "/invoke/async").header("x-api-key", "mine");
    let hidden =
        HttpResponse::from_request(create.json(&json!({"topic": "outside", "payload": 1})))
            .await
            .json();
    let poll = hidden["poll_url"].as_str().expect("a poll URL");
    for path in
        [format!("{poll}/events"), "/task/task_unknown/events".into(), format!("{poll}/else")]
    {
        assert_eq!(omni.data_client().get(&path).await.status, 404, "{path}");
    }
    assert_eq!(omni.data_client().delete(&format!("{poll}/events")).await.status, 405);
}

async fn a_server_that_drains_ends_its_streams(store: Store) {
    let service = Service::start().await;
    let mut omni = start(&store, &service, 0).await;
    let poll = submit_task(&omni, "outside", json!({})).await;
    let mut events = Events::open(&omni, &poll).await;
    assert_eq!(events.until("status").await.data["status"], "queued");
    omni.send_sigterm();
    events.until("interrupted").await;
    assert!(events.next().await.is_none());
    assert_eq!(omni.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_task_that_runs_elsewhere_is_watched_and_a_store_that_goes_is_said() {
    let (store, service) = (Store::redis().await, Service::start().await);
    let (here, there) = (start(&store, &service, 1).await, start(&store, &service, 0).await);
    let poll = submit_task(&here, "service", json!({})).await;
    let mut events = Events::open(&there, &poll).await;
    // Said to a server that neither took the task nor runs it.
    let path = service.progress_path().await;
    assert_eq!(there.data_client().post(&path, &json!({"progress": 0.5})).await.status, 204);
    assert_eq!(events.until("progress").await.data, json!({"fraction": 0.5}));
    let Store::Redis(mut redis) = store else { unreachable!("it is one") };
    redis.kill();
    events.until("interrupted").await;
    assert!(events.next().await.is_none());
    redis.restart().await;
    let back = async || there.data_client().get(&poll).await.status == 200;
    wait_until(TEST_DEADLINE, "the store is back", back).await;
    let mut events = Events::open(&there, &poll).await;
    service.answer.notify_one();
    assert_eq!(events.until("end").await.data["result"], 1);
}
