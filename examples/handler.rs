//! omnidaemon as a library: a proxy in front of a legacy endpoint, with a handler in Rust that runs
//! the tasks.
//!
//! ```console
//! $ cargo run --example handler -- http://127.0.0.1:9000
//! $ curl -s http://127.0.0.1:8000/invoke/async -H 'content-type: application/json' \
//!     -d '{"name":"ada"}'
//! ```

use async_trait::async_trait;
use omnidaemon::app::App;
use omnidaemon::config;
use omnidaemon::task::{FailureKind, TaskAnswer, TaskFailure, Topic};
use omnidaemon::worker::{Handler, TaskAttempt};
use tokio_util::sync::CancellationToken;

/// Greets the person that the payload names.
struct Greeter;

#[async_trait]
impl Handler for Greeter {
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        let payload: serde_json::Value = serde_json::from_slice(&attempt.task.payload)
            .map_err(|error| TaskFailure::new(FailureKind::Malformed, error.to_string()))?;
        let name = payload["name"].as_str().unwrap_or("world");
        Ok(TaskAnswer::from_json(
            serde_json::json!({"greeting": format!("hello, {name}")}).to_string(),
        ))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let upstream = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:9000".into());
    let env = std::env::vars().collect();
    let loaded = config::load_for_upstream(&upstream, None, Some("100"), &env)?;
    let bound = App::new(loaded).with_handler(Topic::parse("invoke")?, Greeter).bind().await?;
    println!("listening on http://{}", bound.data_address());
    let shutdown = CancellationToken::new();
    let on_ctrl_c = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_ctrl_c.cancel();
        }
    });
    bound.run(shutdown).await?;
    Ok(())
}
