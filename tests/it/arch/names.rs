//! What is written about the program outside of it: every metric that a dashboard or a document
//! names exists, every test that the guarantees name too, and the configuration that the Kubernetes
//! manifest carries is a valid one.

use std::fs;
use std::path::{Path, PathBuf};

use omnidaemon::metrics::names::ALL_METRICS;
use serde_json::Value;

use crate::arch::source_tree::collect_sources;
use crate::support::cli_output::cli_command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn every_metric_that_a_dashboard_or_document_names_exists() {
    let mut files = vec![Path::new(ROOT).join("README.md")];
    for (dir, ending) in [("dashboards", "json"), ("docs", "md"), ("docs/adr", "md")] {
        files.extend(listed(dir, ending));
    }
    let mut seen = 0;
    for file in files {
        let text =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for name in names(&text) {
            assert!(
                is_metric(name),
                "{} names {name}, which is not in src/metrics/names.rs",
                file.display()
            );
            seen += 1;
        }
    }
    assert!(seen > 20, "the dashboard alone has more than {seen}");
}

#[test]
fn the_dashboard_asks_its_variable_for_the_data_and_shows_every_metric_of_the_two_paths() {
    let text = fs::read_to_string(Path::new(ROOT).join("dashboards/omnidaemon.json"))
        .expect("it is there");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        assert!(
            panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()),
            "{}",
            panel["title"]
        );
    }
    for name in ALL_METRICS.iter().filter(|name| !name.contains("deprecated")) {
        assert!(text.contains(name), "no panel shows {name}");
    }
}

#[test]
fn the_configuration_of_the_kubernetes_manifest_is_valid() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("deploy/k8s/omnidaemon-worker.yaml"))
        .expect("it is there");
    let (_, rest) =
        manifest.split_once("  omnidaemon.yaml: |\n").expect("it carries a configuration");
    let config: String = rest
        .lines()
        .map_while(|line| line.strip_prefix("    "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("o.yaml"), &config).expect("it can be written");
    let mut check = cli_command(dir.path(), &["config", "check", "o.yaml"]);
    let checked = check
        .env("REDIS_URL", "redis://h")
        .env("OMNIDAEMON_ADMIN_TOKEN", "t")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !said.contains("warning"), "{said}");
}

fn listed(dir: &str, ending: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(Path::new(ROOT).join(dir)).unwrap_or_else(|error| panic!("{dir}: {error}"));
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

/// All words that begin as a metric does.
fn names(text: &str) -> Vec<&str> {
    let starts = text.match_indices("omnidaemon_").map(|(at, _)| &text[at..]);
    let is_end = |c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_';
    starts.map(|rest| rest.split(is_end).next().unwrap_or_default()).collect()
}

/// Whether it is a metric, or a series of a histogram.
fn is_metric(name: &str) -> bool {
    let histogram =
        ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
    ALL_METRICS.contains(&name)
        || histogram.is_some_and(|base| ALL_METRICS.contains(&base) && base.ends_with("_seconds"))
}

#[test]
fn a_name_that_is_no_metric_is_found() {
    let found = names("rate(omnidaemon_requests_totals{a=\"b\"}[5m]) / omnidaemon_queue_depth");
    assert_eq!(found, ["omnidaemon_requests_totals", "omnidaemon_queue_depth"]);
    assert!(!is_metric(found[0]) && is_metric(found[1]));
    assert!(
        is_metric("omnidaemon_request_duration_seconds_bucket")
            && !is_metric("omnidaemon_queue_depth_sum")
    );
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/guarantees.md")).expect("it is there");
    let mut sources = Vec::new();
    collect_sources(&Path::new(ROOT).join("src"), &mut sources);
    collect_sources(&Path::new(ROOT).join("tests/it"), &mut sources);
    let code: String =
        sources.iter().map(|file| fs::read_to_string(file).expect("a readable source")).collect();
    let named = tests_of(&text);
    assert!(named.len() > 40, "only {} tests are named", named.len());
    for name in named {
        assert!(
            code.contains(&format!("fn {name}(")),
            "docs/guarantees.md names {name}, which is no test"
        );
    }
}

/// The quoted words that are names of tests: of several words, and no metric.
fn tests_of(text: &str) -> Vec<&str> {
    let is_name = |word: &&str| {
        let plain = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        plain && word.matches('_').count() > 2 && !word.starts_with("omnidaemon_")
    };
    text.split('`').skip(1).step_by(2).filter(is_name).collect()
}

#[test]
fn tests_are_told_from_other_quoted_words() {
    let text = "`a_task_ends_once`, `on_unknown: sync`, `max_backlog`, \
        `omnidaemon_unknown_enqueues_total`, not_a_quoted_word";
    assert_eq!(tests_of(text), ["a_task_ends_once"]);
}
