//! `config check` and `config init`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::exit::{CliError, Exit};
use super::global::{Format, Global};
use super::output::{line, pairs, print, print_json, table};
use crate::cohort::Weight;
use crate::config::{self, Config, Env, HandlerConfig, Loaded, Problem, Problems, Rollout, RolloutMode};

/// `omnidaemon config …`
#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Say everything that is wrong with a configuration, or what it means
    Check(CheckArgs),
    /// Write a commented configuration to start from
    Init(InitArgs),
}

/// `omnidaemon config check`
#[derive(Args)]
pub(super) struct CheckArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
}

/// `omnidaemon config init`
#[derive(Args)]
pub(super) struct InitArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
}

// Every command is called alike, also one that waits for nothing.
#[allow(clippy::unused_async)]
pub(super) async fn run(command: ConfigCommand, global: &Global) -> Result<Exit, CliError> {
    match command {
        ConfigCommand::Check(args) => Ok(check(args.file.as_deref().unwrap_or(&global.config), global.format)),
        ConfigCommand::Init(args) => init(args.file.as_deref().unwrap_or(&global.config), args.force),
    }
}

/// The findings are what was asked for: they go to stdout.
fn check(file: &Path, format: Format) -> Exit {
    let env: Env = std::env::vars().collect();
    let loaded = config::load(file, &env);
    let name = file.display().to_string();
    match (&loaded, format) {
        (Ok(loaded), Format::Table) => print_summary(&name, loaded),
        (Ok(loaded), Format::Json) => print_json(&summary(&name, loaded)),
        (Err(problems), Format::Table) => line(problems),
        (Err(problems), Format::Json) => print_json(&refusal(problems)),
    }
    if loaded.is_ok() { Exit::Ok } else { Exit::Usage }
}

fn print_summary(file: &str, loaded: &Loaded) {
    let config = &loaded.config;
    for warning in &loaded.warnings {
        line(format_args!("warning: {}", warning.in_file(file)));
    }
    let upstreams: Vec<String> = config.upstream.urls.iter().map(ToString::to_string).collect();
    print(&pairs([
        ("file", format!("{file} is valid")),
        ("proxy", format!("http://{}", config.proxy.listen)),
        (
            "admin",
            format!("http://{}{}", config.admin.listen, if config.admin.token.is_some() { ", token" } else { "" }),
        ),
        ("upstream", upstreams.join(", ")),
        ("store", config.store.url.to_string()),
        ("workers", format!("{} x {}", config.workers.count, config.workers.concurrency)),
    ]));
    let mut routes = table(&["route", "path", "topic", ">percent", "mode", "steps", "deprecation"]);
    for route in &config.routes {
        let (mode, deprecation) = (route.rollout.mode.as_str(), route.deprecation.mode.as_str());
        let (percent, steps) = (route.rollout.percent.to_string(), steps(&route.rollout));
        let steps = steps.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        routes.add_row([&route.name, &route.path.text, route.topic.as_str(), &percent, mode, &steps, deprecation]);
    }
    let mut topics = table(&["topic", "handler", ">timeout", ">retries"]);
    for (topic, config) in &config.topics {
        let timeout = humantime::format_duration(config.timeout).to_string();
        topics.add_row([topic.as_str(), &handler(&config.handler), &timeout, &config.retries.to_string()]);
    }
    for table in [routes, topics] {
        line("");
        print(&table);
    }
}

fn summary(file: &str, Loaded { config, warnings, .. }: &Loaded) -> Value {
    json!({
        "file": file,
        "valid": true,
        "warnings": warnings.iter().map(view).collect::<Vec<_>>(),
        "proxy": {"listen": config.proxy.listen},
        "admin": {"listen": config.admin.listen, "token": config.admin.token.is_some(),
                  "read_token": config.admin.read_token.is_some()},
        "upstream": {"urls": config.upstream.urls.iter().map(ToString::to_string).collect::<Vec<_>>()},
        "store": {"url": config.store.url.to_string()},
        "routes": routes(config),
        "topics": topics(config),
        "workers": {"count": config.workers.count, "concurrency": config.workers.concurrency},
    })
}

fn routes(config: &Config) -> Value {
    let route = |route: &config::Route| {
        json!({
            "route": route.name,
            "path": route.path.text,
            "topic": route.topic.as_str(),
            "percent": route.rollout.percent.percent(),
            "mode": route.rollout.mode.as_str(),
            "steps": steps(&route.rollout),
            "gates": route.rollout.gates.iter().map(|gate| &gate.name).collect::<Vec<_>>(),
            "deprecation": route.deprecation.mode.as_str(),
        })
    };
    config.routes.iter().map(route).collect()
}

fn topics(config: &Config) -> Value {
    let topic = |(topic, config): (&crate::task::Topic, &config::TopicConfig)| {
        json!({
            "topic": topic.as_str(),
            "handler": handler(&config.handler),
            "timeout_seconds": config.timeout.as_secs_f64(),
            "retries": config.retries,
        })
    };
    config.topics.iter().map(topic).collect()
}

fn refusal(problems: &Problems) -> Value {
    json!({
        "file": problems.file,
        "valid": false,
        "problems": problems.list.iter().map(view).collect::<Vec<_>>(),
    })
}

fn view(problem: &Problem) -> Value {
    json!({
        "line": problem.line,
        "column": problem.column,
        "variable": problem.variable,
        "field": problem.field,
        "message": problem.message,
        "hint": problem.hint,
    })
}

/// The weights on the way to `percent`, in percent.
fn steps(rollout: &Rollout) -> Vec<f64> {
    let next = |weight: Weight| match rollout.mode {
        RolloutMode::Gated => rollout.next_after(weight),
        RolloutMode::Manual => Some(rollout.percent).filter(|percent| *percent > weight),
    };
    std::iter::successors(next(Weight::ZERO), |weight| next(*weight)).map(Weight::percent).collect()
}

fn handler(handler: &HandlerConfig) -> String {
    match handler {
        HandlerConfig::Upstream => "upstream".into(),
        HandlerConfig::Http(url) => format!("http {url}"),
        HandlerConfig::Command(words) => format!("command {}", words.join(" ")),
        HandlerConfig::External => "external".into(),
    }
}

fn init(file: &Path, force: bool) -> Result<Exit, CliError> {
    let failed = |error| CliError::File { what: format!("cannot write {}", file.display()), error };
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    // Looking first and writing then would race with an editor.
    let opened = OpenOptions::new().write(true).create(force).truncate(force).create_new(!force).open(file);
    match opened {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(CliError::Failed(format!("{} is there already: --force overwrites it", file.display())))
        }
        opened => {
            opened.and_then(|mut opened| opened.write_all(config::template().as_bytes())).map_err(failed)?;
            line(file.display());
            eprintln!("written: set upstream.url to your endpoint's server, then run `omnidaemon serve`");
            Ok(Exit::Ok)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_writes_the_template_and_overwrites_only_when_forced() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("new/omnidaemon.yaml");
        assert!(matches!(init(&file, false), Ok(Exit::Ok)));
        assert_eq!(fs::read_to_string(&file).expect("it is there"), config::template());
        fs::write(&file, "mine").expect("it can be edited");
        let error = init(&file, false).expect_err("it is refused");
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
        assert!(matches!(init(&file, true), Ok(Exit::Ok)));
        assert_eq!(fs::read_to_string(&file).expect("it is there"), config::template());
    }

    #[test]
    fn a_summary_shows_the_steps_up_to_the_percentage_and_the_gates() {
        let file = Path::new("config/rollout-playbook.yaml");
        let route = |env: &Env| summary("f", &config::load(file, env).expect("a valid file"))["routes"][0].clone();
        let as_written = route(&Env::new());
        assert_eq!(as_written["steps"], json!([10.0, 25.0, 50.0, 100.0]));
        assert_eq!((&as_written["mode"], &as_written["gates"][0]), (&json!("gated"), &json!("errors")));
        let set = |key: &str, value: &str| (format!("OMNIDAEMON__ROUTES__INVOKE__ROLLOUT__{key}"), value.to_owned());
        assert_eq!(route(&Env::from([set("PERCENT", "30")]))["steps"], json!([10.0, 25.0, 30.0]));
        assert_eq!(route(&Env::from([set("MODE", "manual")]))["steps"], json!([100.0]));
        assert_eq!(route(&Env::from([set("STEPS", "20, 60")]))["steps"], json!([20.0, 60.0, 100.0]));
        assert_eq!(route(&Env::from([set("PERCENT", "0")]))["steps"], json!([]));
    }

    #[test]
    fn a_summary_names_routes_and_topics_and_no_secret() {
        let mut env = Env::new();
        env.insert("REDIS_URL".into(), "redis://:canary-secret@h:6379".into());
        let loaded = config::from_upstream("http://127.0.0.1:9000", Some("/invoke"), Some("12.5"), &env);
        let summary = summary("f", &loaded.expect("a valid configuration"));
        assert_eq!(
            (&summary["routes"][0]["percent"], &summary["topics"][0]["handler"]),
            (&json!(12.5), &json!("upstream"))
        );
        assert_eq!(summary["store"]["url"], "redis://***@h:6379");
        assert!(!summary.to_string().contains("canary-secret"));
    }
}
