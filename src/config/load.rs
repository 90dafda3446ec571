//! Loads a checked configuration from a file, or from the arguments of `serve`, and the
//! environment.
//!
//! The stages run one after the other and share one [`ConfigDiagnostics`], so that one load finds
//! every problem. Loading has no side effects: when a reload is refused, the caller still has the
//! configuration that was in use.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Config, yaml};
use crate::config::diagnostics::{ConfigDiagnostics, ConfigProblem, ConfigProblems};
use crate::config::environment::expand::{EnvVars, expand_references, expand_variables_only};
use crate::config::environment::overrides;
use crate::config::parse::parse_config;

/// The configuration file of the repository; its handlers name programs of the repository.
const SHIPPED_CONFIG: &str = include_str!("../../config/omnidaemon.yaml");

/// A configuration without problems, with its warnings.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedConfig {
    /// The checked configuration.
    pub config: Config,
    /// Likely mistakes, such as an environment variable that overrides a key of the file.
    pub warnings: Vec<ConfigProblem>,
    /// The first 16 hexadecimal digits of the SHA-256 of the text that was loaded.
    pub content_digest: String,
}

/// Loads a configuration file.
///
/// # Errors
/// All problems of the file, or one problem that says why it cannot be read.
pub fn load_file(path: &Path, env: &EnvVars) -> Result<LoadedConfig, ConfigProblems> {
    let file = path.display().to_string();
    let bytes = read_bounded(path).map_err(|error| {
        let problem = match error.kind() {
            io::ErrorKind::NotFound => ConfigProblem::new(
                "no such file",
                "write one with `omnidaemon config init`, or do without: `omnidaemon serve \
                    --upstream URL`",
            ),
            _ => ConfigProblem::new(
                format!("cannot be read: {error}"),
                "check the path and its \
                permissions",
            ),
        };
        ConfigProblems { file: file.clone(), problems: vec![problem] }
    })?;
    let (loaded, mut report) = run_stages(&bytes, env);
    report.sort_by_position();
    loaded.ok_or(ConfigProblems { file, problems: report.problems })
}

/// Builds the configuration of `serve --upstream URL [--path PATH] [--percent N]`, without a file.
///
/// # Errors
/// As [`load_file`].
pub fn load_for_upstream(
    url: &str,
    path: Option<&str>,
    percent: Option<&str>,
    env: &EnvVars,
) -> Result<LoadedConfig, ConfigProblems> {
    let text = format!(
        "upstream: {{url: {url}}}\n\
         routes: {{invoke: {{path: {path}, topic: invoke, rollout: {{percent: {percent}, mode: \
         manual}}}}}}\n\
         topics: {{invoke: {{handler: upstream}}}}\n",
        url = quote_yaml_scalar(url),
        path = quote_yaml_scalar(path.unwrap_or("/invoke")),
        percent = quote_yaml_scalar(percent.unwrap_or("0")),
    );
    let (loaded, mut report) = run_stages(text.as_bytes(), env);
    report.sort_by_position();
    // The text is generated: its line numbers mean nothing to the operator.
    let without_line = |problem| ConfigProblem { line: None, column: None, ..problem };
    let loaded = loaded.map(|loaded| LoadedConfig {
        warnings: loaded.warnings.into_iter().map(without_line).collect(),
        ..loaded
    });
    let list = report.problems.into_iter().map(without_line).collect();
    loaded.ok_or(ConfigProblems { file: "arguments".into(), problems: list })
}

/// `text` as a quoted YAML scalar, with `$` doubled so that no reference in it is expanded.
fn quote_yaml_scalar(text: &str) -> String {
    let text = text.replace('$', "$$");
    serde_json::Value::String(text).to_string()
}

/// The file that `config init` writes: the shipped file, with the parts that need the repository's
/// example programs as comments.
#[must_use]
pub fn render_init_file() -> String {
    let mut in_examples = false;
    let mut out = String::with_capacity(SHIPPED_CONFIG.len());
    for line in SHIPPED_CONFIG.lines() {
        match line.trim_start() {
            mark if mark.starts_with("# <examples>") => {
                in_examples = true;
                out.push_str(
                    "  # Programs take a task on stdin and write its result to stdout, such as:\n",
                );
            }
            "# </examples>" => in_examples = false,
            _ if in_examples => {
                let _ = writeln!(out, "  # {}", line.strip_prefix("  ").unwrap_or(line));
            }
            _ => {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    out
}

/// Runs the stages over the text of a configuration; no configuration when there are problems.
fn run_stages(bytes: &[u8], env: &EnvVars) -> (Option<LoadedConfig>, ConfigDiagnostics) {
    let mut report = ConfigDiagnostics::default();
    let Some(mut root) = yaml::parse_document(bytes, &mut report.problems) else {
        return (None, report);
    };
    let url_template = find_store_url(&root).and_then(|text| expand_variables_only(text, env));
    expand_references(&mut root, env, &mut report.problems);
    let expanded_url = find_store_url(&root).map(str::to_owned);
    overrides::apply_overrides(&mut root, env, &mut report);
    let mut config = parse_config(&root, &mut report);
    // A URL that an environment variable has replaced is not the one of the file.
    let is_from_file = find_store_url(&root) == expanded_url.as_deref();
    if let Some(template) = url_template.filter(|_| is_from_file) {
        config.store.url.set_file_template(template);
    }
    report.sort_by_position();
    let loaded = LoadedConfig {
        config,
        warnings: report.warnings.clone(),
        content_digest: content_digest(bytes),
    };
    (report.problems.is_empty().then_some(loaded), report)
}

/// The text at `store.url`; none when it is absent or no text.
fn find_store_url(root: &yaml::YamlNode) -> Option<&str> {
    match &root.find_path(&["store", "url"])?.value {
        yaml::YamlValue::Text(text) => Some(text),
        _ => None,
    }
}

/// The bytes of a file, at most one more than the limit: enough to see that it is too large.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(yaml::MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first 16 hex digits of the SHA-256 of a file's bytes.
pub(super) fn content_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The fields that differ between two configurations and that only a restart can change. A reload
/// that changes one of them is refused.
#[must_use]
pub fn find_restart_only_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let fields = [
        ("proxy.listen", old.proxy.listen != new.proxy.listen),
        ("proxy.threads", old.proxy.threads != new.proxy.threads),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("store.url", old.store.url != new.store.url),
        ("store.timeout", old.store.timeout != new.store.timeout),
        ("store.durability", old.store.durability != new.store.durability),
        ("store.partitions", old.store.partitions != new.store.partitions),
    ];
    fields.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;
    use crate::cohort_hash::Weight;
    use crate::config::{
        BaselineMode, HandlerConfig, PinConfig, RolloutConfig, RolloutMode, StoreUrl,
    };

    fn env_from(variables: &[(&str, &str)]) -> EnvVars {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn load_shipped(variables: &[(&str, &str)]) -> LoadedConfig {
        load_file(Path::new("config/omnidaemon.yaml"), &env_from(variables))
            .expect("the shipped file is right")
    }

    #[test]
    fn the_shipped_file_loads_without_and_with_the_variables_of_the_playbook() {
        let plain = load_shipped(&[]);
        assert_eq!(plain.warnings, []);
        assert_eq!((plain.config.workers.count, plain.config.results.ttl.as_secs()), (5, 86_400));
        assert!(matches!(plain.config.store.url, StoreUrl::Sqlite(_)));
        let topics: Vec<_> = plain.config.topics.keys().map(ToString::to_string).collect();
        assert_eq!(
            topics,
            ["genesis.build", "genesis.deploy", "genesis.meta.orchestrate", "genesis.qa"]
        );

        let set = load_shipped(&[
            ("REDIS_URL", "redis://user:canary@redis:6379/0"),
            ("WORKER_COUNT", "10"),
            ("OMNIDAEMON_RESULT_TTL", "3600"),
            ("OMNIDAEMON_MAX_RETRIES", "7"),
            ("OMNIDAEMON_RETRY_DELAY", "2"),
            ("OMNIDAEMON_ADMIN_TOKEN", "canary"),
            ("LOG_LEVEL", "debug"),
        ]);
        assert_eq!((set.config.workers.count, set.config.results.ttl.as_secs()), (10, 3600));
        assert!(
            matches!(set.config.store.url, StoreUrl::Redis(_)) && set.config.admin.token.is_some()
        );
        assert!(
            set.config
                .topics
                .values()
                .all(|topic| topic.retries == 7 && topic.retry_delay.as_secs() == 2)
        );
        let shadowed: Vec<_> = set.warnings.iter().map(|warning| warning.field.as_str()).collect();
        let orchestrate = "topics.genesis.meta.orchestrate";
        let expected = [
            format!("{orchestrate}.retries"),
            format!("{orchestrate}.retry_delay"),
            "workers.count".into(),
        ];
        assert_eq!(shadowed, [&expected[0], &expected[1], &expected[2], "results.ttl"]);
        assert!(!format!("{set:?}").contains("canary"));
        assert_eq!(plain.content_digest, set.content_digest);
    }

    #[test]
    fn the_commented_rollout_of_the_shipped_file_is_valid_and_has_the_defaults() {
        let rollout = |loaded: LoadedConfig| {
            loaded.config.routes.into_iter().next().expect("a route").rollout
        };
        let plain = rollout(load_shipped(&[]));
        assert_eq!((plain.mode, plain.percent.basis_points()), (RolloutMode::Gated, 1_000));
        // Commented keys begin in lower case, and prose does not.
        let uncomment = |line: &str| match line.strip_prefix("      # ") {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '-') => {
                format!("      {key}\n")
            }
            _ => format!("{line}\n"),
        };
        let (loaded, report) = run_stages(
            SHIPPED_CONFIG.lines().map(uncomment).collect::<String>().as_bytes(),
            &EnvVars::new(),
        );
        assert_eq!((&report.problems, &report.warnings), (&vec![], &vec![]));
        let uncommented = rollout(loaded.expect("no problems"));
        assert_eq!((uncommented.sticky_keys.len(), uncommented.pin.async_key_values.len()), (1, 1));
        assert_eq!((uncommented.promotion_windows.len(), uncommented.notifications.len()), (1, 1));
        let (sticky, pin, windows, notify) = (vec![], PinConfig::default(), vec![], vec![]);
        assert_eq!(
            RolloutConfig {
                sticky_keys: sticky,
                pin,
                promotion_windows: windows,
                notifications: notify,
                ..uncommented
            },
            plain
        );
    }

    #[test]
    fn the_playbooks_rollout_takes_four_days() {
        let loaded = load_file(Path::new("config/rollout-playbook.yaml"), &EnvVars::new())
            .expect("the file is right");
        assert_eq!(loaded.warnings, []);
        let rollout = &loaded.config.routes[0].rollout;
        let mut days = vec![];
        let mut weight = Weight::ZERO;
        while let Some(next) = rollout.next_weight_after(weight) {
            days.push((
                next.percent().to_string(),
                rollout.soak_at(next).as_secs() / 86_400,
                rollout.baseline_at(next),
            ));
            weight = next;
        }
        let day = |weight: &str, baseline| (weight.to_owned(), 1, baseline);
        let live = ["10", "25", "50"].map(|weight| day(weight, BaselineMode::Live));
        assert_eq!(days, [&live[..], &[day("100", BaselineMode::Frozen)]].concat());
        assert_eq!(loaded.config.topics, load_shipped(&[]).config.topics);
    }

    #[test]
    fn the_shipped_programs_run() {
        let payload =
            r#"{"payload": {"repo_url": "https://github.com/user/business", "tests": ["unit"]}}"#;
        let handlers = load_shipped(&[]).config.topics.into_values().map(|topic| topic.handler);
        let commands = handlers.filter_map(|handler| match handler {
            HandlerConfig::Command(words) => Some(words),
            _ => None,
        });
        for words in commands {
            let mut command = Command::new(&words[0]);
            command
                .args(&words[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.spawn().expect("a program that is there");
            let mut stdin = child.stdin.take().expect("its stdin");
            io::Write::write_all(&mut stdin, payload.as_bytes()).expect("it reads its task");
            drop(stdin);
            let output = child.wait_with_output().expect("it ends");
            assert!(output.status.success() && !output.stderr.is_empty(), "{words:?}");
            let result: serde_json::Value =
                serde_json::from_slice(&output.stdout).expect("its result is JSON");
            assert!(result["status"].is_string(), "{words:?}");
        }
    }

    #[test]
    fn a_variable_with_a_wrong_value_or_key_is_named() {
        for (name, value, expected) in [
            ("WORKER_COUNT", "many", "WORKER_COUNT: workers.count: `many` is not a whole number"),
            ("OMNIDAEMON_RESULT_TTL", "0", "OMNIDAEMON_RESULT_TTL: results.ttl: `0s` is too short"),
            (
                "OMNIDAEMON__WORKERS__CUONT",
                "1",
                "OMNIDAEMON__WORKERS__CUONT: workers.cuont: is not a known key: did",
            ),
            (
                "OMNIDAEMON__ROUTES__INVOKE__ROLLOUT__PERCENT",
                "110",
                "routes.invoke.rollout.percent: 110 is over 100",
            ),
            ("REDIS_URL", "canary", "REDIS_URL: store.url: is not a store's URL"),
        ] {
            let refused =
                load_file(Path::new("config/omnidaemon.yaml"), &env_from(&[(name, value)]));
            let report = refused.expect_err("a wrong variable").to_string();
            assert!(report.contains(expected) && report.ends_with("\n1 problem"), "{report}");
            assert!(!report.contains("canary"));
        }
        let loaded = load_shipped(&[("OMNIDAEMON__PROXY__TRUSTED", "10.0.0.0/8, ::1")]);
        assert_eq!(loaded.config.proxy.trusted_networks.len(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_problem_with_a_hint() {
        let missing =
            load_file(Path::new("nowhere.yaml"), &EnvVars::new()).expect_err("no file").to_string();
        assert_eq!(
            missing.lines().next(),
            Some(
                "nowhere.yaml: no such file: write one with `omnidaemon config init`, or do \
                    without: \
                 `omnidaemon serve --upstream URL`"
            )
        );
        let directory =
            load_file(Path::new("src"), &EnvVars::new()).expect_err("a directory").to_string();
        assert!(directory.starts_with("src: cannot be read: "), "{directory}");
    }

    #[test]
    fn no_file_is_needed_for_one_upstream() {
        let none = EnvVars::new();
        let loaded =
            load_for_upstream("http://127.0.0.1:9000", None, None, &none).expect("an upstream");
        let route = &loaded.config.routes[0];
        assert_eq!(
            (route.path.source_text.as_str(), route.rollout.percent.basis_points()),
            ("/invoke", 0)
        );
        assert_eq!(
            route.rollout.mode,
            RolloutMode::Manual,
            "a share on the command line is in force at once"
        );
        let loaded = load_for_upstream(
            "https://api",
            Some("/v1/{a}"),
            Some("12.5%"),
            &env_from(&[("WORKER_COUNT", "2")]),
        );
        let config = loaded.expect("a path and a share").config;
        assert_eq!(
            (config.routes[0].rollout.percent.basis_points(), config.workers.count),
            (1250, 2)
        );
        let invalid =
            load_for_upstream("http://a\"}, b: ${HOME} {\n", Some("x"), Some("110"), &none)
                .expect_err("invalid arguments");
        let fields: Vec<_> =
            invalid.problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["upstream.url", "routes.invoke.path", "routes.invoke.rollout.percent"]);
        assert!(
            invalid
                .to_string()
                .contains("arguments: routes.invoke.rollout.percent: 110 is over 100")
        );
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = load_shipped(&[]).config;
        assert_eq!(find_restart_only_changes(&old, &old), [""; 0]);
        let changed = load_shipped(&[
            ("REDIS_URL", "redis://h"),
            ("OMNIDAEMON__PROXY__THREADS", "3"),
            ("OMNIDAEMON__PROXY__LISTEN", "127.0.0.1:8010"),
            ("OMNIDAEMON__ADMIN__LISTEN", "127.0.0.1:8011"),
            ("OMNIDAEMON__STORE__TIMEOUT", "2s"),
            ("WORKER_COUNT", "1"),
        ]);
        assert_eq!(
            find_restart_only_changes(&old, &changed.config),
            ["proxy.listen", "proxy.threads", "admin.listen", "store.url", "store.timeout"]
        );
    }

    #[test]
    fn the_template_is_the_shipped_file_without_the_programs_of_the_repository() {
        let (mut expected, text) = (load_shipped(&[]).config, render_init_file());
        expected.topics.retain(|_, topic| !matches!(topic.handler, HandlerConfig::Command(_)));
        let (loaded, report) = run_stages(text.as_bytes(), &EnvVars::new());
        assert_eq!((loaded.map(|loaded| loaded.config), report.warnings), (Some(expected), vec![]));
        assert!(!text.contains("examples>"), "no mark is left: {text}");
        let uncommented = text.replace("  # genesis.", "  genesis.").replace("  #   ", "    ");
        let (loaded, _) = run_stages(uncommented.as_bytes(), &EnvVars::new());
        assert_eq!(loaded.map(|loaded| loaded.config), Some(load_shipped(&[]).config));
    }

    /// Lines of the shipped file in random order, cut short, or with unusual YAML values.
    fn mangled_config_text() -> impl Strategy<Value = String> {
        let lines: Vec<&str> = SHIPPED_CONFIG.lines().collect();
        let line = prop_oneof![
            8 => proptest::sample::select(lines),
            1 => Just("    x: [1, {y: ~}]"),
            1 => Just("  ? [a]"),
            1 => Just("topics: {a: *b}"),
        ];
        proptest::collection::vec((line, 0usize..80), 0..40).prop_map(|lines| {
            let cut = |(line, end): (&str, usize)| line.chars().take(end).collect::<String>();
            lines.into_iter().map(cut).collect::<Vec<_>>().join("\n")
        })
    }

    proptest! {
        #[test]
        fn any_text_is_loaded_or_refused_with_reasons(text in prop_oneof![mangled_config_text(),
        any::<String>()], value in any::<String>()) {
            let variables = env_from(&[("WORKER_COUNT", &value), ("OMNIDAEMON__TOPICS", &value),
            (&format!("OMNIDAEMON__{value}"), "x")]);
            for variables in [EnvVars::new(), variables] {
                let (loaded, report) = run_stages(text.as_bytes(), &variables);
                prop_assert_eq!(loaded.is_none(), !report.problems.is_empty());
            }
        }
    }
}
