//! What the demo says: what is running and what to try, then how it goes, then how it went.
//!
//! On a terminal the line that tells how it goes is rewritten in place; elsewhere one is written
//! every few seconds.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::net::SocketAddr;
use std::path::Path as File;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::setup::find_percent_line;
use super::traffic::{CLIENT_COUNT, PathLatencies};
use crate::cli::global::stdout_allows_colour;
use crate::cli::scrape::{MetricsScrape, SampleLabels};
use crate::cohort::RequestPath;
use crate::metrics::{Metrics, names};

/// The route of the demo's file.
const ROUTE_LABEL: (&str, &str) = ("route", "invoke");
/// How often things are looked at, and how often a line is written where none can be rewritten.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
const REFRESHES_PER_LINE: u64 = 5;

/// Where things listen.
pub(super) struct DemoAddresses {
    pub(super) legacy: SocketAddr,
    pub(super) data: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// Says what is running, and three things to try.
pub(super) fn print_welcome(at: &DemoAddresses, dir: &File, file: &File) {
    print_text(&render_introduction(at, dir));
    print_text(&render_suggestions(at.data, file));
}

fn render_introduction(
    DemoAddresses { legacy, data, admin }: &DemoAddresses,
    dir: &File,
) -> String {
    format!(
        "
{title}
  legacy API   http://{legacy}   a sample agent service: slow, and now and then wrong
  proxy        http://{data}   what clients call; it hands a share of them to the queue
  admin        http://{admin}   /admin/v1/status, /metrics, /readyz
  traffic      {CLIENT_COUNT} clients, about 5 requests a second
  files        {dir}",
        title = bold("omnidaemon demo"),
        dir = dir.display(),
    )
}

fn render_suggestions(data: SocketAddr, file: &File) -> String {
    let post = "-H 'content-type: application/json' -d";
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let shift = match find_percent_line(&text) {
        Some((line, percent)) => format!("{}, line {line}: `{percent}`", file.display()),
        None => format!("{}: `percent` of the route", file.display()),
    };
    format!(
        "
{title}, in another terminal:
  1. call it as a legacy client; `x-omnidaemon-path` says which way it went
     curl -si http://{data}/invoke {post} '{{\"agent\":\"qa\",\"task\":\"test it\"}}'
  2. call it as an async client: the task's id at once, its result when it is done
     task=$(curl -s http://{data}/invoke/async {post} '{{\"agent\":\"build\",\"task\":\"build \
         it\"}}' | grep -o '/task/[a-z0-9_]*')
     sleep 1; curl -s http://{data}$task
  3. shift traffic: edit the file below, save, and watch the weight here
     {shift}

Ctrl-C ends it.
",
        title = bold("Try"),
    )
}

/// Tells how it goes until `shutdown`; returns how long that was.
pub(super) async fn report_progress(
    file: &File,
    metrics: &Metrics,
    latencies: &PathLatencies,
    shutdown: CancellationToken,
) -> Duration {
    let start = Instant::now();
    let mut line = TerminalStatusLine { in_place: stdout().is_terminal() };
    let mut ticks = interval_at((start + REFRESH_INTERVAL).into(), REFRESH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut before, mut then) = (DemoCounts::from_metrics(metrics), start);
    for look in 0_u64.. {
        if shutdown.run_until_cancelled(ticks.tick()).await.is_none() {
            break;
        }
        let now = DemoCounts::from_metrics(metrics);
        if let Some(news) = describe_change(&before, &now, file) {
            line.print_above(&news);
        }
        if line.in_place || look % REFRESHES_PER_LINE == 0 {
            line.update(&render_status(&before, &now, then.elapsed(), latencies));
            then = Instant::now();
            before = now;
        } else {
            (before.weight, before.reload_ok) = (now.weight, now.reload_ok);
        }
    }
    line.print_above("\nstopping: requests and tasks finish first");
    start.elapsed()
}

/// What has changed beside the counts.
fn describe_change(before: &DemoCounts, now: &DemoCounts, file: &File) -> Option<String> {
    if before.reload_ok && !now.reload_ok {
        let file = file.display();
        return Some(format!(
            "{file} has a mistake, the old one stays: `omnidaemon config check {file}` shows it"
        ));
    }
    let (old, new) = (before.weight?, now.weight?);
    #[allow(clippy::float_cmp)] // the same gauge, read twice
    let changed = old != new;
    changed.then(|| bold(&format!("weight {old} % -> {new} %: {}", describe_shift(old, new))))
}

fn describe_shift(old: f64, new: f64) -> &'static str {
    match (old < new, new) {
        (_, 0.0) => "all clients take the sync path again",
        (_, 100.0) => "all clients take the async path",
        (true, _) => "more clients take the async path, those that did stay on it",
        (false, _) => "fewer clients take the async path",
    }
}

/// How it went, in two lines.
pub(super) fn print_farewell(took: Duration, metrics: &Metrics, dir: &File) {
    let DemoCounts { sync, r#async, deferred, failed, .. } = DemoCounts::from_metrics(metrics);
    let took = humantime::format_duration(Duration::from_secs(took.as_secs()));
    print_text(&format!(
        "stopped after {took}: {} requests, {sync} sync and {async} async, {deferred} deferred, \
            {failed} failed",
        sync + r#async
    ));
    print_text(&format!(
        "{} keeps the demo's settings and tasks; `omnidaemon config init` writes a file for your \
            own endpoint",
        dir.display()
    ));
}

/// What the metrics say of the demo's route.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct DemoCounts {
    /// The running weight, percent; none until the controller has published one.
    weight: Option<f64>,
    sync: u64,
    r#async: u64,
    /// Requests whose client was told to poll.
    deferred: u64,
    /// Requests that were answered with a 5xx.
    failed: u64,
    /// Waiting tasks.
    queued_tasks: u64,
    reload_ok: bool,
}

// === impl Counts ===

impl DemoCounts {
    fn from_metrics(metrics: &Metrics) -> Self {
        Self::from_scrape(&MetricsScrape::parse(&metrics.render_exposition()))
    }

    fn from_scrape(scrape: &MetricsScrape) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts
        let count = |sum: Option<f64>| sum.unwrap_or_default() as u64;
        let requests = |path: RequestPath| {
            count(scrape.sum(names::REQUESTS, &[ROUTE_LABEL, ("path", path.as_str())]))
        };
        let is_failure =
            |labels: &SampleLabels| labels.get("code").is_some_and(|code| code.starts_with('5'));
        let is_ours = |labels: &SampleLabels| {
            labels.get(ROUTE_LABEL.0).is_some_and(|route| route == ROUTE_LABEL.1)
        };
        Self {
            weight: scrape.sum(names::ROLLOUT_WEIGHT, &[ROUTE_LABEL]),
            sync: requests(RequestPath::Sync),
            r#async: requests(RequestPath::Async),
            deferred: count(
                scrape.sum(names::TASK_OUTCOMES, &[ROUTE_LABEL, ("outcome", "deferred")]),
            ),
            failed: count(
                scrape.sum_where(names::REQUESTS, |labels| is_ours(labels) && is_failure(labels)),
            ),
            queued_tasks: count(scrape.sum(names::QUEUE_DEPTH, &[])),
            reload_ok: scrape.sum(names::CONFIG_RELOAD_OK, &[]).is_some_and(|ok| ok > 0.0),
        }
    }
}

/// `weight 10 % | sync 4.5/s 1203 p50 180 ms | async 0.5/s 133 p50 190 ms | deferred 0 | failed 3 |
/// queue 0`
fn render_status(
    before: &DemoCounts,
    now: &DemoCounts,
    since: Duration,
    latencies: &PathLatencies,
) -> String {
    let path = |path: RequestPath, old: u64, new: u64| {
        let median = latencies.median(path).map(|median| format!(" p50 {} ms", median.as_millis()));
        let rate = per_second(new.saturating_sub(old), since);
        format!("{} {rate:.1}/s {new}{}", path.as_str(), median.unwrap_or_default())
    };
    format!(
        "weight {} % | {} | {} | deferred {} | failed {} | queue {}",
        now.weight.unwrap_or_default(),
        path(RequestPath::Sync, before.sync, now.sync),
        path(RequestPath::Async, before.r#async, now.r#async),
        now.deferred,
        now.failed,
        now.queued_tasks
    )
}

#[allow(clippy::cast_precision_loss)] // a demo's counts
fn per_second(count: u64, since: Duration) -> f64 {
    if since.is_zero() { 0.0 } else { count as f64 / since.as_secs_f64() }
}

/// The line at the bottom.
struct TerminalStatusLine {
    in_place: bool,
}

// === impl StatusLine ===

impl TerminalStatusLine {
    /// Writes the line; over the last one where that can be. The terminal cuts what is too long for
    /// it.
    fn update(&mut self, text: &str) {
        if self.in_place {
            write_stdout(&format!("\x1b[?7l\x1b[2K{text}\x1b[?7h\r"));
        } else {
            print_text(text);
        }
    }

    /// Writes something that stays.
    fn print_above(&mut self, text: &str) {
        if self.in_place {
            write_stdout("\x1b[2K");
        }
        print_text(text);
    }
}

fn bold(text: &str) -> String {
    if stdout_allows_colour() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

fn print_text(text: &str) {
    write_stdout(&format!("{text}\n"));
}

/// A demo whose reader has gone goes on.
fn write_stdout(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_counts(text: &str) -> DemoCounts {
        DemoCounts::from_scrape(&MetricsScrape::parse(text))
    }

    #[test]
    fn the_status_line_tells_rates_totals_and_what_went_wrong() {
        let now = parse_counts(
            "omnidaemon_requests_total{code=\"200\",path=\"sync\",route=\"invoke\"} 40\n\
             omnidaemon_requests_total{code=\"503\",path=\"sync\",route=\"invoke\"} 2\n\
             omnidaemon_requests_total{code=\"200\",path=\"async\",route=\"invoke\"} 5\n\
             omnidaemon_requests_total{code=\"200\",path=\"sync\",route=\"_other\"} 9\n\
             omnidaemon_task_outcomes_total{outcome=\"deferred\",route=\"invoke\"} 1\n\
             omnidaemon_queue_depth{topic=\"t\"} 3\n\
             omnidaemon_rollout_percent{route=\"invoke\"} 10\n\
             omnidaemon_rollout_weight{route=\"invoke\"} 10\n",
        );
        let line = render_status(
            &DemoCounts::default(),
            &now,
            Duration::from_secs(10),
            &PathLatencies::default(),
        );
        assert_eq!(
            line,
            "weight 10 % | sync 4.2/s 42 | async 0.5/s 5 | deferred 1 | failed 2 | queue 3"
        );
    }

    #[test]
    fn a_changed_weight_and_a_refused_edit_are_news_and_the_first_weight_is_not() {
        let at = |weight, reload_ok| DemoCounts { weight, reload_ok, ..DemoCounts::default() };
        let (ten, file) = (at(Some(10.0), true), File::new("f.yaml"));
        assert_eq!(describe_change(&at(None, true), &ten, file), None);
        assert_eq!(describe_change(&ten, &ten, file), None);
        assert!(
            describe_change(&ten, &at(Some(25.0), true), file)
                .is_some_and(|news| news.contains("weight 10 % -> 25 %"))
        );
        assert!(
            describe_change(&ten, &at(Some(0.0), true), file)
                .is_some_and(|news| news.contains("sync path again"))
        );
        assert!(
            describe_change(&ten, &at(Some(10.0), false), file)
                .is_some_and(|news| news.contains("config check f.yaml"))
        );
    }
}
