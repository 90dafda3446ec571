//! What a real Prometheus answers, and what a gate takes it for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use omnidaemon::config::{self, Secret};
use omnidaemon::control::query_prometheus;
use omnidaemon::rollout::gate::PrometheusSample;

use crate::support::http::fixed_response::{AfterResponse, FixedResponseServer};
use crate::support::prometheus::PrometheusServer;
use crate::support::{TEST_DEADLINE, wait_until};

/// A target with these metrics.
async fn exposing(metrics: &str) -> FixedResponseServer {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}",
        metrics.len()
    );
    let answer = format!("{head}\r\n\r\n{metrics}").into_bytes();
    FixedResponseServer::start(Box::leak(answer.into_boxed_slice()), AfterResponse::KeepOpen).await
}

#[tokio::test]
async fn values_nothing_nonsense_and_what_is_stale_or_gone_are_told_apart() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let metrics = format!(
        "fine 0.25\nstrange NaN\ntwo{{a=\"1\"}} 1\ntwo{{a=\"2\"}} 2\nold 7 {}\n",
        now - 60_000
    );
    let (mut server, target) = (PrometheusServer::start().await, exposing(&metrics).await);
    server.scrape_targets(&[target.url().replace("http://", "")]).await;
    let seconds = Duration::from_secs;
    let asked = config::PrometheusConfig {
        url: Secret::new(server.url()),
        query_timeout: seconds(2),
        max_sample_age: seconds(20),
        unavailable_grace: seconds(60),
    };
    let ask = async |text: &str| query_prometheus(&asked, text).await;
    wait_until(TEST_DEADLINE, "it has scraped", async || {
        ask("fine").await == PrometheusSample::Value(0.25)
    })
    .await;
    assert_eq!(ask("sum(two) * 2").await, PrometheusSample::Value(6.0));
    assert_eq!(ask("no_such_metric").await, PrometheusSample::Empty);
    assert_eq!(ask("strange").await, PrometheusSample::NotANumber);
    assert_eq!(ask("1 / 0").await, PrometheusSample::NotANumber);
    let unavailable = async |text: &str| match ask(text).await {
        PrometheusSample::Unavailable(why) => why,
        other => panic!("{text}: {other:?}"),
    };
    assert!(unavailable("two").await.contains("2 series"));
    assert!(unavailable("sum(").await.contains("parse error"));
    for stale in ["old", "max(old) + 1"] {
        assert!(unavailable(stale).await.contains("more than 20 s"), "{stale}");
    }
    server.freeze().await;
    assert!(unavailable("fine").await.contains("no answer within 2 s"));
    server.unfreeze();
    wait_until(TEST_DEADLINE, "it answers again", async || {
        ask("fine").await == PrometheusSample::Value(0.25)
    })
    .await;
    server.kill().await;
    // at first perhaps on a connection that it died with
    wait_until(TEST_DEADLINE, "it is refused", async || {
        unavailable("fine").await.contains("refused")
    })
    .await;
}
