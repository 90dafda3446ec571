//! Environment variables that override keys of the file.
//!
//! A variable such as `OMNIDAEMON__WORKERS__COUNT=10` wins over a short name (`REDIS_URL`,
//! `WORKER_COUNT`, …), and a short name wins over the file. An overridden value has its variable as
//! its [`ValueOrigin`], so that later stages can name the variable in a problem. Keys match without
//! regard to case, and `_` also matches characters that the name of a variable cannot have:
//! `OMNIDAEMON__TOPICS__GENESIS_QA__TIMEOUT` sets `topics.genesis.qa.timeout`.

use crate::config::diagnostics::{
    ConfigDiagnostics, ConfigProblem, ValueOrigin, quote_for_message,
};
use crate::config::environment::expand::EnvVars;
use crate::config::yaml::{YamlEntry, YamlNode, YamlValue};

/// The prefix of variables that can override any key.
const OVERRIDE_PREFIX: &str = "OMNIDAEMON__";

/// Applies the variables to the tree of the file.
pub(crate) fn apply_overrides(root: &mut YamlNode, env: &EnvVars, report: &mut ConfigDiagnostics) {
    // In order of precedence: `override_value` keeps a value that another variable has set.
    for (name, value) in env {
        if let Some(path) = name
            .get(..OVERRIDE_PREFIX.len())
            .filter(|start| start.eq_ignore_ascii_case(OVERRIDE_PREFIX))
        {
            let path: Vec<&str> = name[path.len()..].split("__").collect();
            override_value(
                root,
                &path,
                &VariableOverride { variable_name: name, value, raw_value: value },
                report,
            );
        }
    }
    let given = |name: &'static str| {
        env.get(name).filter(|value| !value.is_empty()).map(|value| (name, value))
    };
    for (name, path) in [("REDIS_URL", ["store", "url"]), ("WORKER_COUNT", ["workers", "count"])] {
        if let Some((name, value)) = given(name) {
            override_value(
                root,
                &path,
                &VariableOverride { variable_name: name, value, raw_value: value },
                report,
            );
        }
    }
    if let Some((name, value)) = given("OMNIDAEMON_RESULT_TTL") {
        override_value(
            root,
            &["results", "ttl"],
            &VariableOverride {
                variable_name: name,
                value: &append_seconds_unit(value),
                raw_value: value,
            },
            report,
        );
    }
    let topics: Vec<String> = match root.get("topics").map(|topics| &topics.value) {
        Some(YamlValue::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
        _ => Vec::new(),
    };
    for topic in &topics {
        if let Some((name, value)) = given("OMNIDAEMON_MAX_RETRIES") {
            override_value(
                root,
                &["topics", topic, "retries"],
                &VariableOverride { variable_name: name, value, raw_value: value },
                report,
            );
        }
        if let Some((name, value)) = given("OMNIDAEMON_RETRY_DELAY") {
            override_value(
                root,
                &["topics", topic, "retry_delay"],
                &VariableOverride {
                    variable_name: name,
                    value: &append_seconds_unit(value),
                    raw_value: value,
                },
                report,
            );
        }
    }
    if let Some((name, value)) =
        given("OMNIDAEMON_ADMIN_TOKEN").filter(|_| root.find_path(&["admin", "token"]).is_none())
    {
        override_value(
            root,
            &["admin", "token"],
            &VariableOverride { variable_name: name, value, raw_value: value },
            report,
        );
    }
}

/// The value of a variable in seconds: a plain number gets the unit `s`.
fn append_seconds_unit(value: &str) -> String {
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if plain { format!("{value}s") } else { value.to_owned() }
}

/// A variable and the value that it sets.
struct VariableOverride<'a> {
    variable_name: &'a str,
    /// The value for the key.
    value: &'a str,
    /// The value of the variable, without an added unit.
    raw_value: &'a str,
}

impl VariableOverride<'_> {
    fn origin(&self) -> ValueOrigin {
        ValueOrigin::FromVariable(self.variable_name.to_owned())
    }

    /// `NAME=value` for a message; only `NAME` where the value may hold a password.
    fn describe_for_field(&self, field: &str) -> String {
        let secret =
            matches!(field, "admin" | "admin.token" | "admin.read_token" | "store" | "store.url")
                || self.raw_value.contains("://");
        let text = if secret {
            self.variable_name.to_owned()
        } else {
            format!("{}={}", self.variable_name, self.raw_value)
        };
        quote_for_message(&text).trim_matches('`').to_owned()
    }
}

/// Sets the value at `path`, and adds sections that the file does not have. A value that another
/// variable has set is kept; one of the file that differs is reported as a warning.
fn override_value(
    root: &mut YamlNode,
    path: &[&str],
    setting: &VariableOverride<'_>,
    report: &mut ConfigDiagnostics,
) {
    let mut node = root;
    let mut field: Vec<String> = Vec::new();
    for key in path {
        if !matches!(node.value, YamlValue::Map(_)) {
            *node = YamlNode { origin: setting.origin(), value: YamlValue::Map(Vec::new()) };
        }
        let YamlValue::Map(entries) = &mut node.value else { return };
        let index = match find_or_add_key(entries, key, &field, setting) {
            Ok(index) => index,
            Err((message, hint)) => {
                report
                    .problems
                    .push(ConfigProblem::new(message, hint).with_origin(Some(&setting.origin())));
                return;
            }
        };
        field.push(entries[index].key.clone());
        node = &mut entries[index].node;
    }
    if matches!(node.origin, ValueOrigin::FromVariable(_)) && node.value != YamlValue::Null {
        return;
    }
    if differs_from_file(&node.value, setting.value) {
        let field = field.join(".");
        let message = format!("{} overrides this line", setting.describe_for_field(&field));
        let warning =
            ConfigProblem::new(message, "unset the variable to use the file").with_field(field);
        report.warnings.push(warning.with_origin(Some(&node.origin)));
    }
    *node = YamlNode { origin: setting.origin(), value: YamlValue::Text(setting.value.to_owned()) };
}

/// The index of `key` in `entries`, the section at `field`; an absent key is added, except below
/// `routes` and `topics`. An error is a message and a hint.
fn find_or_add_key(
    entries: &mut Vec<YamlEntry>,
    key: &str,
    field: &[String],
    setting: &VariableOverride<'_>,
) -> Result<usize, (String, String)> {
    let several = |keys| {
        (
            format!("{} can mean more than one key", quote_for_message(key)),
            format!("write one of {keys}"),
        )
    };
    if let Some(index) = find_key(entries, key).map_err(several)? {
        return Ok(index);
    }
    // Routes and topics are defined by the file: a variable can change one, but not add one.
    if let [section @ ("routes" | "topics")] =
        field.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        return Err((
            format!("{} is not under `{section}` in the file", quote_for_message(key)),
            render_known_keys(entries),
        ));
    }
    let node = YamlNode { origin: setting.origin(), value: YamlValue::Null };
    entries.push(YamlEntry { key: key.to_lowercase(), origin: setting.origin(), node });
    Ok(entries.len() - 1)
}

/// The index of the entry that `key` matches: exactly, else without regard to case, else with `_`
/// for each character that is no letter or digit. An error lists the keys when several match.
fn find_key(entries: &[YamlEntry], key: &str) -> Result<Option<usize>, String> {
    let exact = entries.iter().position(|entry| entry.key == key);
    if let Some(index) =
        exact.or_else(|| entries.iter().position(|entry| entry.key.eq_ignore_ascii_case(key)))
    {
        return Ok(Some(index));
    }
    let plain =
        |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_ascii_lowercase();
    let alike = |entry: &YamlEntry| plain(&entry.key) == plain(key);
    let found: Vec<usize> = (0..entries.len()).filter(|index| alike(&entries[*index])).collect();
    match found[..] {
        [] => Ok(None),
        [index] => Ok(Some(index)),
        _ => Err(found
            .iter()
            .map(|index| quote_for_message(&entries[*index].key))
            .collect::<Vec<_>>()
            .join(", ")),
    }
}

/// The hint of an unknown route or topic: the names that the file has.
fn render_known_keys(entries: &[YamlEntry]) -> String {
    if entries.is_empty() {
        return "add it to the file".into();
    }
    format!(
        "it has {}",
        entries.iter().map(|entry| quote_for_message(&entry.key)).collect::<Vec<_>>().join(", ")
    )
}

/// Whether the value of the file differs from `value`; equal durations in other units do not.
fn differs_from_file(old: &YamlValue, value: &str) -> bool {
    match old {
        YamlValue::Null | YamlValue::Invalid => false,
        YamlValue::Text(old) => {
            let duration = |text: &str| humantime::parse_duration(text).ok();
            old != value && (duration(old).is_none() || duration(old) != duration(value))
        }
        YamlValue::List(items) => {
            let text = |item: &YamlNode| {
                if let YamlValue::Text(text) = &item.value { text.clone() } else { String::new() }
            };
            items.iter().map(text).collect::<Vec<_>>()
                != value.split(',').map(str::trim).collect::<Vec<_>>()
        }
        YamlValue::Map(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::expand::expand_references;
    use crate::config::yaml::parse_document;

    const TEST_CONFIG: &str = "
workers: {count: 5}
store: {url: '${REDIS_URL:-sqlite:x}'}
results: {ttl: 1h}
topics:
  genesis.qa: {retries: 3, handler: upstream}
  a_b: {}
  a.b: {}
  a-b: {}
";

    fn apply_to_test_config(env: &[(&str, &str)]) -> (YamlNode, ConfigDiagnostics) {
        let env: EnvVars = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut report = ConfigDiagnostics::default();
        let mut node = parse_document(TEST_CONFIG.as_bytes(), &mut report.problems).expect("yaml");
        expand_references(&mut node, &env, &mut report.problems);
        apply_overrides(&mut node, &env, &mut report);
        (node, report)
    }

    fn text_at_path(node: &YamlNode, path: &[&str]) -> String {
        match node.find_path(path).map(|node| &node.value) {
            Some(YamlValue::Text(text)) => text.clone(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn overrides_win_over_short_names_and_short_names_win_over_the_file() {
        let (node, _) = apply_to_test_config(&[
            ("WORKER_COUNT", "7"),
            ("OMNIDAEMON_MAX_RETRIES", "9"),
            ("OMNIDAEMON_RETRY_DELAY", "2"),
        ]);
        assert_eq!(text_at_path(&node, &["workers", "count"]), "7");
        assert_eq!(text_at_path(&node, &["topics", "genesis.qa", "retries"]), "9");
        assert_eq!(text_at_path(&node, &["topics", "a.b", "retry_delay"]), "2s");
        let (node, _) = apply_to_test_config(&[
            ("WORKER_COUNT", "7"),
            ("OMNIDAEMON__workers__Count", "8"),
            ("OMNIDAEMON_MAX_RETRIES", "9"),
            ("OMNIDAEMON__TOPICS__GENESIS_QA__RETRIES", "1"),
        ]);
        assert_eq!(text_at_path(&node, &["workers", "count"]), "8");
        assert_eq!(text_at_path(&node, &["topics", "genesis.qa", "retries"]), "1");
        assert_eq!(text_at_path(&node, &["topics", "a.b", "retries"]), "9");
    }

    #[test]
    fn a_variable_may_set_an_absent_key_and_is_its_origin() {
        let (node, report) = apply_to_test_config(&[
            ("OMNIDAEMON__ADMIN__LISTEN", "127.0.0.1:1"),
            ("OMNIDAEMON_ADMIN_TOKEN", "t"),
        ]);
        assert_eq!(text_at_path(&node, &["admin", "listen"]), "127.0.0.1:1");
        assert_eq!(text_at_path(&node, &["admin", "token"]), "t");
        let origin = node.find_path(&["admin", "listen"]).map(|node| node.origin.clone());
        assert_eq!(origin, Some(ValueOrigin::FromVariable("OMNIDAEMON__ADMIN__LISTEN".into())));
        assert!(report.problems.is_empty() && report.warnings.is_empty());
    }

    #[test]
    fn shadowed_keys_are_warned_about_and_equal_ones_are_not() {
        let warnings = |env: &[(&str, &str)]| {
            apply_to_test_config(env)
                .1
                .warnings
                .iter()
                .map(|warning| warning.render_line("f"))
                .collect::<Vec<_>>()
        };
        assert_eq!(warnings(&[("REDIS_URL", "redis://h")]), [""; 0]);
        assert_eq!(warnings(&[("WORKER_COUNT", "5"), ("OMNIDAEMON_RESULT_TTL", "3600")]), [""; 0]);
        assert_eq!(warnings(&[("WORKER_COUNT", "")]), [""; 0]);
        assert_eq!(
            warnings(&[("OMNIDAEMON_RESULT_TTL", "60"), ("OMNIDAEMON_MAX_RETRIES", "4")]),
            [
                "f:4:16: results.ttl: OMNIDAEMON_RESULT_TTL=60 overrides this line: unset the \
                    variable to use the file",
                "f:6:25: topics.genesis.qa.retries: OMNIDAEMON_MAX_RETRIES=4 overrides this line: \
                 unset the variable to use the file"
            ]
        );
        let secret = warnings(&[("OMNIDAEMON__STORE__URL", "redis://:canary-secret@h")]);
        assert!(
            secret.len() == 1 && secret[0].contains("OMNIDAEMON__STORE__URL overrides this line"),
            "{secret:?}"
        );
    }

    #[test]
    fn a_variable_that_matches_no_topic_or_several_is_a_problem() {
        for (name, message) in [
            (
                "OMNIDAEMON__TOPICS__NONE__RETRIES",
                "`NONE` is not under `topics` in the file: it has `genesis.qa`, `a_b`",
            ),
            (
                "OMNIDAEMON__ROUTES__INVOKE__WAIT",
                "`INVOKE` is not under `routes` in the file: add it to the file",
            ),
            (
                "OMNIDAEMON__TOPICS__A+B__RETRIES",
                "can mean more than one key: write one of `a_b`, `a.b`, `a-b`",
            ),
        ] {
            let (_, report) = apply_to_test_config(&[(name, "1")]);
            let problem =
                report.problems.iter().map(|problem| problem.render_line("f")).collect::<String>();
            assert!(
                problem.starts_with(&format!("{name}: ")) && problem.contains(message),
                "{problem}"
            );
        }
    }
}
