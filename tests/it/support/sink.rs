//! A server that receives webhooks.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;

use super::{TEST_DEADLINE, wait_for_some};

/// A request that a sink received.
#[derive(Clone)]
pub(crate) struct ReceivedWebhook {
    path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// A server that answers `/CODE` with that status, `/flaky` with 503 at first, and `/hang` never.
#[derive(Clone, Default)]
pub(crate) struct WebhookSink {
    posted: Arc<Mutex<Vec<ReceivedWebhook>>>,
    addr: String,
}

impl WebhookSink {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let addr = listener.local_addr().expect("bound").to_string();
        let sink = Self { addr, ..Self::default() };
        let app = axum::Router::new()
            .route("/{path}", axum::routing::post(answer))
            .with_state(sink.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        sink
    }

    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.addr)
    }

    pub(crate) fn posts(&self, path: &str) -> Vec<ReceivedWebhook> {
        let posted = self.posted.lock().expect("not poisoned");
        posted.iter().filter(|posted| posted.path == path).cloned().collect()
    }

    /// The last post to `/path`, once there is one.
    pub(crate) async fn wait_for_post(&self, path: &str) -> ReceivedWebhook {
        wait_for_some(TEST_DEADLINE, "a webhook arrives", async || self.posts(path).pop()).await
    }
}

async fn answer(
    State(sink): State<WebhookSink>,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap) {
    let body = serde_json::from_slice(&body).unwrap_or_default();
    sink.posted.lock().expect("not poisoned").push(ReceivedWebhook {
        path: path.clone(),
        headers,
        body,
    });
    let mut answered = HeaderMap::new();
    let status = match path.as_str() {
        "hang" => std::future::pending().await,
        "flaky" if sink.posts("flaky").len() == 1 => 503,
        "302" => {
            answered.insert("location", sink.url("redirected").parse().expect("a header value"));
            302
        }
        code => code.parse().unwrap_or(200),
    };
    (StatusCode::from_u16(status).expect("a status"), answered)
}
