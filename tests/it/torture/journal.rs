//! The file that a round's history is written to as it happens, and the handlers that write most of
//! it.

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

use super::history::{JournalEntry, TortureEvent};
use crate::support::wall_clock::wall_clock_now;

/// The journal, open to be appended to.
#[derive(Clone)]
pub(super) struct TortureJournal {
    path: Arc<PathBuf>,
    file: Arc<File>,
}

/// What a task asks of its handler.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct HandlerWork {
    pub(super) sleep_ms: u64,
    /// So many attempts fail.
    pub(super) fail: u32,
}

/// The handler of the `command` topic: the journal's path is its argument.
pub(super) const HANDLER_SCRIPT: &str = r#"
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

impl TortureJournal {
    pub(super) fn open(path: &Path) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("the journal can be opened");
        Self { path: Arc::new(path.to_owned()), file: Arc::new(file) }
    }

    /// Says that something happens now.
    pub(super) fn record(&self, event: TortureEvent) {
        let mut line =
            serde_json::to_vec(&JournalEntry { at: unix_millis(), event }).expect("JSON");
        line.push(b'\n');
        // In one write, so that lines of several processes don't mix.
        (&*self.file).write_all(&line).expect("the journal can be written");
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All that happened so far. A process that is killed while it writes leaves half a line.
    pub(super) fn read_entries(&self) -> Vec<JournalEntry> {
        let text = std::fs::read_to_string(&*self.path).expect("the journal can be read");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Unix time, ms.
pub(super) fn unix_millis() -> u64 {
    wall_clock_now().0
}

/// Serves the legacy endpoint and the `http` handler in one; its address.
pub(super) async fn serve_handlers(journal: TortureJournal) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    let addr = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        axum::serve(listener, Router::new().fallback(handle_call).with_state(journal)).await
    });
    addr
}

/// A call of the sync path has no attempt, and leaves no trace.
async fn handle_call(
    State(journal): State<TortureJournal>,
    headers: HeaderMap,
    body: Json<HandlerWork>,
) -> (StatusCode, Json<Value>) {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let attempt = header("x-omnidaemon-attempt").and_then(|number| number.parse().ok());
    let id = header("x-omnidaemon-task-id").or(header("idempotency-key"));
    let (Some(attempt), Some(id)) = (attempt, id.map(str::to_owned)) else {
        return (StatusCode::OK, Json(json!({"path": "sync"})));
    };
    journal.record(TortureEvent::Begun { id: id.clone(), attempt });
    tokio::time::sleep(Duration::from_millis(body.sleep_ms)).await;
    let ok = attempt > body.fail;
    journal.record(TortureEvent::Ended { id, attempt, ok });
    let status = if ok { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (status, Json(json!({"attempt": attempt})))
}
