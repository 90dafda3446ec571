//! Side by side with the Python `OmniDaemon`, the package itself: one Redis, the same topics, in
//! both directions.

mod agents;
mod fleet;
mod publishers;
mod values;

use crate::support::redis::server::RedisServer;
use crate::support::scenario::{Scenario, route, scenario, topic};

/// Prints the number of elements of its payload.
const COUNT_SCRIPT: &str = "import json,sys; task=json.load(sys.stdin); \
    print(json.dumps({\"n\": len(task[\"payload\"])}))";

async fn start_server(server: &RedisServer) -> Scenario {
    let canaried = |name: &str, topic: &str| route(name).topic(topic).wait("25s").percent(100);
    let external = |name: &str| topic(name).external().yaml("agent", "analyst");
    scenario()
        .no_upstream()
        .redis(server)
        .route(canaried("invoke", "outside"))
        .route(canaried("count", "count"))
        .route(canaried("objects", "objects"))
        .topic(external("outside").yaml("external_slots", 4).timeout("1m"))
        .topic(external("held").timeout("1m"))
        .topic(external("hasty").timeout("3s"))
        .topic(external("objects").yaml("content", "object"))
        .topic(topic("count").python(COUNT_SCRIPT))
        .topic(
            topic("crash").shell("echo out of cheese >&2; exit 3").retries(1).retry_delay("20ms"),
        )
        .workers(2)
        .start()
        .await
}
