//! `config check`, which reports all problems of a file or summarizes it, and `config init`, which
//! writes a template.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::exit::{CliError, CliExit};
use super::global::{GlobalArgs, OutputFormat};
use super::output::{name_value_table, print_json, print_line, print_table, table_with_headings};
use crate::cohort_hash::Weight;
use crate::config::{
    self, Config, ConfigProblem, ConfigProblems, EnvVars, HandlerConfig, LoadedConfig,
    RolloutConfig, RolloutMode,
};

/// `omnidaemon config …`
#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Report all problems of a configuration, or summarize a valid one
    Check(ConfigCheckArgs),
    /// Write a commented configuration to start from
    Init(ConfigInitArgs),
}

/// `omnidaemon config check`
#[derive(Args)]
pub(super) struct ConfigCheckArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
}

/// `omnidaemon config init`
#[derive(Args)]
pub(super) struct ConfigInitArgs {
    /// The file; --config by default
    file: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
}

// Commands share one signature, also those that await nothing.
#[allow(clippy::unused_async)]
pub(super) async fn run(command: ConfigCommand, global: &GlobalArgs) -> Result<CliExit, CliError> {
    match command {
        ConfigCommand::Check(args) => {
            Ok(check_file(args.file.as_deref().unwrap_or(&global.config), global.format))
        }
        ConfigCommand::Init(args) => {
            write_template(args.file.as_deref().unwrap_or(&global.config), args.force)
        }
    }
}

/// Prints the summary or the problems of a file. Both are the result of the command, so both go to
/// stdout.
fn check_file(file: &Path, format: OutputFormat) -> CliExit {
    let env: EnvVars = std::env::vars().collect();
    let loaded = config::load_file(file, &env);
    let name = file.display().to_string();
    match (&loaded, format) {
        (Ok(loaded), OutputFormat::Table) => print_summary(&name, loaded),
        (Ok(loaded), OutputFormat::Json) => print_json(&summary_view(&name, loaded)),
        (Err(problems), OutputFormat::Table) => print_line(problems),
        (Err(problems), OutputFormat::Json) => print_json(&problems_view(problems)),
    }
    if loaded.is_ok() { CliExit::Ok } else { CliExit::Usage }
}

fn print_summary(file: &str, loaded: &LoadedConfig) {
    let config = &loaded.config;
    for warning in &loaded.warnings {
        print_line(format_args!("warning: {}", warning.render_line(file)));
    }
    let upstreams: Vec<String> = config.upstream.urls.iter().map(ToString::to_string).collect();
    print_table(&name_value_table([
        ("file", format!("{file} is valid")),
        ("proxy", format!("http://{}", config.proxy.listen)),
        (
            "admin",
            format!(
                "http://{}{}",
                config.admin.listen,
                if config.admin.token.is_some() { ", token" } else { "" }
            ),
        ),
        ("upstream", upstreams.join(", ")),
        ("store", config.store.url.to_string()),
        ("workers", format_workers(config)),
    ]));
    let mut routes = table_with_headings(&[
        "route",
        "path",
        "topic",
        ">percent",
        "mode",
        "steps",
        "deprecation",
    ]);
    for route in &config.routes {
        let (mode, deprecation) = (route.rollout.mode.as_str(), route.deprecation.mode.as_str());
        let (percent, steps) = (route.rollout.percent.to_string(), step_percents(&route.rollout));
        let steps = steps.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        routes.add_row([
            &route.name,
            &route.path.source_text,
            route.topic.as_str(),
            &percent,
            mode,
            &steps,
            deprecation,
        ]);
    }
    let mut topics =
        table_with_headings(&["topic", "handler", ">timeout", ">retries", ">concurrency"]);
    for (topic, config) in &config.topics {
        let timeout = humantime::format_duration(config.timeout).to_string();
        topics.add_row([
            topic.as_str(),
            &format_handler(&config.handler),
            &timeout,
            &config.retries.to_string(),
            &config.concurrency.to_string(),
        ]);
    }
    for table in [routes, topics] {
        print_line("");
        print_table(&table);
    }
}

fn summary_view(file: &str, LoadedConfig { config, warnings, .. }: &LoadedConfig) -> Value {
    let upstream_urls: Vec<String> = config.upstream.urls.iter().map(ToString::to_string).collect();
    json!({
        "file": file,
        "valid": true,
        "warnings": warnings.iter().map(problem_view).collect::<Vec<_>>(),
        "proxy": {"listen": config.proxy.listen},
        "admin": {"listen": config.admin.listen, "token": config.admin.token.is_some(),
                  "read_token": config.admin.read_token.is_some()},
        "upstream": {"urls": upstream_urls},
        "store": {"url": config.store.url.to_string()},
        "routes": routes_view(config),
        "topics": topics_view(config),
        "workers": {"count": config.workers.count, "concurrency": config.workers.concurrency},
    })
}

/// The number of workers, and the limit of each.
fn format_workers(config: &Config) -> String {
    match config.workers.concurrency {
        Some(limit) => format!("{}, up to {limit} tasks each", config.workers.count),
        None => config.workers.count.to_string(),
    }
}

fn routes_view(config: &Config) -> Value {
    let route = |route: &config::RouteConfig| {
        json!({
            "route": route.name,
            "path": route.path.source_text,
            "topic": route.topic.as_str(),
            "percent": route.rollout.percent.percent(),
            "mode": route.rollout.mode.as_str(),
            "steps": step_percents(&route.rollout),
            "gates": route.rollout.gates.iter().map(|gate| &gate.name).collect::<Vec<_>>(),
            "deprecation": route.deprecation.mode.as_str(),
        })
    };
    config.routes.iter().map(route).collect()
}

fn topics_view(config: &Config) -> Value {
    let topic = |(topic, config): (&crate::task::Topic, &config::TopicConfig)| {
        json!({
            "topic": topic.as_str(),
            "handler": format_handler(&config.handler),
            "timeout_seconds": config.timeout.as_secs_f64(),
            "retries": config.retries,
            "concurrency": config.concurrency,
        })
    };
    config.topics.iter().map(topic).collect()
}

fn problems_view(problems: &ConfigProblems) -> Value {
    json!({
        "file": problems.file,
        "valid": false,
        "problems": problems.problems.iter().map(problem_view).collect::<Vec<_>>(),
    })
}

fn problem_view(problem: &ConfigProblem) -> Value {
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
fn step_percents(rollout: &RolloutConfig) -> Vec<f64> {
    let next = |weight: Weight| match rollout.mode {
        RolloutMode::Gated => rollout.next_weight_after(weight),
        RolloutMode::Manual => Some(rollout.percent).filter(|percent| *percent > weight),
    };
    std::iter::successors(next(Weight::ZERO), |weight| next(*weight)).map(Weight::percent).collect()
}

fn format_handler(handler: &HandlerConfig) -> String {
    match handler {
        HandlerConfig::Upstream => "upstream".into(),
        HandlerConfig::Http(url) => format!("http {url}"),
        HandlerConfig::Command(words) => format!("command {}", words.join(" ")),
        HandlerConfig::External => "external".into(),
    }
}

fn write_template(file: &Path, force: bool) -> Result<CliExit, CliError> {
    let failed =
        |error| CliError::File { action: format!("cannot write {}", file.display()), error };
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    // `create_new` refuses an existing file without a check before, which another program could
    // outrun.
    let opened =
        OpenOptions::new().write(true).create(force).truncate(force).create_new(!force).open(file);
    match opened {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(CliError::Failed(
            format!("{} exists already: --force overwrites it", file.display()),
        )),
        opened => {
            opened
                .and_then(|mut opened| opened.write_all(config::render_init_file().as_bytes()))
                .map_err(failed)?;
            print_line(file.display());
            eprintln!(
                "written: set upstream.url to your endpoint's server, then run `omnidaemon serve`"
            );
            Ok(CliExit::Ok)
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
        assert!(matches!(write_template(&file, false), Ok(CliExit::Ok)));
        assert_eq!(fs::read_to_string(&file).expect("it is there"), config::render_init_file());
        fs::write(&file, "mine").expect("it can be edited");
        let error = write_template(&file, false).expect_err("it is refused");
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
        assert!(matches!(write_template(&file, true), Ok(CliExit::Ok)));
        assert_eq!(fs::read_to_string(&file).expect("it is there"), config::render_init_file());
    }

    #[test]
    fn a_summary_shows_the_steps_up_to_the_percentage_and_the_gates() {
        let file = Path::new("config/rollout-playbook.yaml");
        let route = |env: &EnvVars| {
            summary_view("f", &config::load_file(file, env).expect("a valid file"))["routes"][0]
                .clone()
        };
        let as_written = route(&EnvVars::new());
        assert_eq!(as_written["steps"], json!([10.0, 25.0, 50.0, 100.0]));
        assert_eq!(
            (&as_written["mode"], &as_written["gates"][0]),
            (&json!("gated"), &json!("errors"))
        );
        let set = |key: &str, value: &str| {
            (format!("OMNIDAEMON__ROUTES__INVOKE__ROLLOUT__{key}"), value.to_owned())
        };
        assert_eq!(
            route(&EnvVars::from([set("PERCENT", "30")]))["steps"],
            json!([10.0, 25.0, 30.0])
        );
        assert_eq!(route(&EnvVars::from([set("MODE", "manual")]))["steps"], json!([100.0]));
        assert_eq!(
            route(&EnvVars::from([set("STEPS", "20, 60")]))["steps"],
            json!([20.0, 60.0, 100.0])
        );
        assert_eq!(route(&EnvVars::from([set("PERCENT", "0")]))["steps"], json!([]));
    }

    #[test]
    fn a_summary_names_routes_and_topics_and_no_secret() {
        let mut env = EnvVars::new();
        env.insert("REDIS_URL".into(), "redis://:canary-secret@h:6379".into());
        let loaded =
            config::load_for_upstream("http://127.0.0.1:9000", Some("/invoke"), Some("12.5"), &env);
        let summary = summary_view("f", &loaded.expect("a valid configuration"));
        assert_eq!(
            (&summary["routes"][0]["percent"], &summary["topics"][0]["handler"]),
            (&json!(12.5), &json!("upstream"))
        );
        assert_eq!(summary["store"]["url"], "redis://***@h:6379");
        assert!(!summary.to_string().contains("canary-secret"));
    }
}
