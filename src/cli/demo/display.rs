//! The output of the demo: an introduction with commands to try, a status line and a final
//! summary.
//!
//! On a terminal the status line is rewritten in place every second. Otherwise a line is written
//! every five seconds.

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
use crate::cohort_hash::RequestPath;
use crate::metrics::{Metrics, names};

/// The label of the route in the demo's configuration.
const ROUTE_LABEL: (&str, &str) = ("route", "invoke");
/// How often the metrics are read.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// How many refreshes pass between two lines when stdout is no terminal.
const REFRESHES_PER_LINE: u64 = 5;

/// The addresses of the demo's servers.
pub(super) struct DemoAddresses {
    pub(super) legacy: SocketAddr,
    pub(super) data: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// Prints the running servers, and three things to try.
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
  legacy API   http://{legacy}   a sample agent service: slow, with some errors
  proxy        http://{data}   clients call it; a share of the calls goes to the queue
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

/// Prints the status line, and changes of weight and configuration, until `shutdown`. Returns how
/// long the demo ran.
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
    let (mut before, mut counted_at) = (DemoCounts::from_metrics(metrics), start);
    for refresh in 0_u64.. {
        if shutdown.run_until_cancelled(ticks.tick()).await.is_none() {
            break;
        }
        let now = DemoCounts::from_metrics(metrics);
        if let Some(change) = describe_change(&before, &now, file) {
            line.print_above(&change);
        }
        if line.in_place || refresh % REFRESHES_PER_LINE == 0 {
            line.update(&render_status(&before, &now, counted_at.elapsed(), latencies));
            counted_at = Instant::now();
            before = now;
        } else {
            (before.weight, before.reload_ok) = (now.weight, now.reload_ok);
        }
    }
    line.print_above("\nstopping: requests and tasks finish first");
    start.elapsed()
}

/// A sentence about a changed weight or a refused edit of the file; none when neither happened.
fn describe_change(before: &DemoCounts, now: &DemoCounts, file: &File) -> Option<String> {
    if before.reload_ok && !now.reload_ok {
        let file = file.display();
        return Some(format!(
            "{file} has problems and is not loaded: `omnidaemon config check {file}` shows them"
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

/// Prints the total counts, and what the demo's directory contains.
pub(super) fn print_summary(duration: Duration, metrics: &Metrics, dir: &File) {
    let DemoCounts { sync, r#async, deferred, failed, .. } = DemoCounts::from_metrics(metrics);
    let duration = humantime::format_duration(Duration::from_secs(duration.as_secs()));
    print_text(&format!(
        "stopped after {duration}: {} requests, {sync} sync and {async} async, \
            {deferred} deferred, {failed} failed",
        sync + r#async
    ));
    print_text(&format!(
        "{} keeps the demo's settings and tasks; `omnidaemon config init` writes a file for your \
            own endpoint",
        dir.display()
    ));
}

/// The metrics of the demo's route.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct DemoCounts {
    /// The running weight in percent; none until the controller has published one.
    weight: Option<f64>,
    sync: u64,
    r#async: u64,
    /// Requests that were answered with 202.
    deferred: u64,
    /// Requests that were answered with a 5xx.
    failed: u64,
    /// Tasks that wait in the queue.
    queued_tasks: u64,
    reload_ok: bool,
}

// === impl DemoCounts ===

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
        let is_of_route = |labels: &SampleLabels| {
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
                scrape
                    .sum_where(names::REQUESTS, |labels| is_of_route(labels) && is_failure(labels)),
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

/// The status line below all other output.
struct TerminalStatusLine {
    in_place: bool,
}

// === impl TerminalStatusLine ===

impl TerminalStatusLine {
    /// Writes the line; on a terminal over the previous one, cut at the terminal's width.
    fn update(&mut self, text: &str) {
        if self.in_place {
            write_stdout(&format!("\x1b[?7l\x1b[2K{text}\x1b[?7h\r"));
        } else {
            print_text(text);
        }
    }

    /// Writes a line that is not overwritten, above the status line.
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

/// Writes to stdout. Errors are ignored, so that the demo goes on when the reader of a pipe has
/// closed it.
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
    fn the_status_line_has_rates_totals_and_failures() {
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
    fn a_changed_weight_and_a_refused_edit_are_reported_and_the_first_weight_is_not() {
        let at = |weight, reload_ok| DemoCounts { weight, reload_ok, ..DemoCounts::default() };
        let (ten, file) = (at(Some(10.0), true), File::new("f.yaml"));
        assert_eq!(describe_change(&at(None, true), &ten, file), None);
        assert_eq!(describe_change(&ten, &ten, file), None);
        assert!(
            describe_change(&ten, &at(Some(25.0), true), file)
                .is_some_and(|change| change.contains("weight 10 % -> 25 %"))
        );
        assert!(
            describe_change(&ten, &at(Some(0.0), true), file)
                .is_some_and(|change| change.contains("sync path again"))
        );
        assert!(
            describe_change(&ten, &at(Some(10.0), false), file)
                .is_some_and(|change| change.contains("config check f.yaml"))
        );
    }
}
