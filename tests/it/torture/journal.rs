//! The file that a round's history is written to as it happens, and the handlers that write most of it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::history::{Entry, Event};
use crate::contract::wall;

/// The journal, open to be appended to.
#[derive(Clone)]
pub(super) struct Journal {
    path: Arc<PathBuf>,
    file: Arc<File>,
}

/// What a task asks of its handler.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) sleep_ms: u64,
    /// So many attempts fail.
    pub(super) fail: u32,
}

/// The handler of the `command` topic: the journal's path is its argument.
pub(super) const SCRIPT: &str = r#"
input=$(cat)
fail=$(printf %s "$input" | sed -n 's/.*"fail": *\([0-9]*\).*/\1/p')
note() {
    printf '{"at":%s,"event":"%s","id":"%s","attempt":%s%s}\n' \
        "$(date +%s%3N)" "$2" "$OMNIDAEMON_TASK_ID" "$OMNIDAEMON_ATTEMPT" "$3" >> "$1"
}
note "$1" begun
sleep 0.05
if [ "$OMNIDAEMON_ATTEMPT" -le "$fail" ]; then
    note "$1" ended ',"ok":false'
    exit 1
fi
note "$1" ended ',"ok":true'
printf '{"attempt":%s}' "$OMNIDAEMON_ATTEMPT"
"#;

// === impl Journal ===

impl Journal {
    pub(super) fn at(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path).expect("the journal can be opened");
        Self { path: Arc::new(path.to_owned()), file: Arc::new(file) }
    }

    /// Says that something happens now.
    pub(super) fn note(&self, event: Event) {
        let mut line = serde_json::to_vec(&Entry { at: now(), event }).expect("JSON");
        line.push(b'\n');
        // In one write, so that lines of several processes don't mix.
        (&*self.file).write_all(&line).expect("the journal can be written");
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All that happened so far. A process that is killed while it writes leaves half a line.
    pub(super) fn read(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(&*self.path).expect("the journal can be read");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Unix time, ms.
pub(super) fn now() -> u64 {
    wall().0
}

/// Serves the legacy endpoint and the `http` handler in one; its address.
pub(super) async fn serve_handlers(journal: Journal) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    let addr = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handle).with_state(journal)).await });
    addr
}

/// A call of the sync path has no attempt, and leaves no trace.
async fn handle(State(journal): State<Journal>, headers: HeaderMap, body: Json<Work>) -> (StatusCode, Json<Value>) {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let attempt = header("x-omnidaemon-attempt").and_then(|number| number.parse().ok());
    let id = header("x-omnidaemon-task-id").or(header("idempotency-key"));
    let (Some(attempt), Some(id)) = (attempt, id.map(str::to_owned)) else {
        return (StatusCode::OK, Json(json!({"path": "sync"})));
    };
    journal.note(Event::Begun { id: id.clone(), attempt });
    tokio::time::sleep(Duration::from_millis(body.sleep_ms)).await;
    let ok = attempt > body.fail;
    journal.note(Event::Ended { id, attempt, ok });
    let status = if ok { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (status, Json(json!({"attempt": attempt})))
}
