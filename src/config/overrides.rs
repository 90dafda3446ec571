//! What the environment sets over the file: `OMNIDAEMON__WORKERS__COUNT=10` first, then the short names
//! that operators know (`REDIS_URL`, `WORKER_COUNT`, …), then the file.
//!
//! A value from here keeps its variable's name as its origin, so that the stage that knows the keys can
//! say which variable has an unknown one. Keys are matched without regard to case, and `_` also stands for
//! the characters that a variable's name cannot have: `OMNIDAEMON__TOPICS__GENESIS_QA__TIMEOUT`.

use super::expand::Env;
use super::problem::{Origin, Problem, Report, shown};
use super::yaml::{Entry, Node, Value};

/// What overrides of any key begin with.
const PREFIX: &str = "OMNIDAEMON__";

/// Applies the environment to the tree of the file.
pub(super) fn apply(root: &mut Node, env: &Env, report: &mut Report) {
    // The strongest goes first: what a variable has set stays.
    for (name, value) in env {
        if let Some(path) = name.get(..PREFIX.len()).filter(|start| start.eq_ignore_ascii_case(PREFIX)) {
            let path: Vec<&str> = name[path.len()..].split("__").collect();
            set(root, &path, &Setting { name, value, written: value }, report);
        }
    }
    let given = |name: &'static str| env.get(name).filter(|value| !value.is_empty()).map(|value| (name, value));
    for (name, path) in [("REDIS_URL", ["store", "url"]), ("WORKER_COUNT", ["workers", "count"])] {
        if let Some((name, value)) = given(name) {
            set(root, &path, &Setting { name, value, written: value }, report);
        }
    }
    if let Some((name, value)) = given("OMNIDAEMON_RESULT_TTL") {
        set(root, &["results", "ttl"], &Setting { name, value: &seconds(value), written: value }, report);
    }
    let topics: Vec<String> = match root.get("topics").map(|topics| &topics.value) {
        Some(Value::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
        _ => Vec::new(),
    };
    for topic in &topics {
        if let Some((name, value)) = given("OMNIDAEMON_MAX_RETRIES") {
            set(root, &["topics", topic, "retries"], &Setting { name, value, written: value }, report);
        }
        if let Some((name, value)) = given("OMNIDAEMON_RETRY_DELAY") {
            set(
                root,
                &["topics", topic, "retry_delay"],
                &Setting { name, value: &seconds(value), written: value },
                report,
            );
        }
    }
    if let Some((name, value)) = given("OMNIDAEMON_ADMIN_TOKEN").filter(|_| root.find(&["admin", "token"]).is_none()) {
        set(root, &["admin", "token"], &Setting { name, value, written: value }, report);
    }
}

/// A plain number with the unit that these variables mean.
fn seconds(value: &str) -> String {
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if plain { format!("{value}s") } else { value.to_owned() }
}

struct Setting<'a> {
    name: &'a str,
    value: &'a str,
    /// The value as the variable has it.
    written: &'a str,
}

impl Setting<'_> {
    fn origin(&self) -> Origin {
        Origin::Variable(self.name.to_owned())
    }

    /// `NAME=value`; of what may hold a password, the name.
    fn said(&self, field: &str) -> String {
        let secret = matches!(field, "admin" | "admin.token" | "admin.read_token" | "store" | "store.url")
            || self.written.contains("://");
        let text = if secret { self.name.to_owned() } else { format!("{}={}", self.name, self.written) };
        shown(&text).trim_matches('`').to_owned()
    }
}

/// Sets the value at `path`, with the sections on the way that the file does not have.
fn set(root: &mut Node, path: &[&str], setting: &Setting<'_>, report: &mut Report) {
    let mut node = root;
    let mut field: Vec<String> = Vec::new();
    for key in path {
        if !matches!(node.value, Value::Map(_)) {
            *node = Node { origin: setting.origin(), value: Value::Map(Vec::new()) };
        }
        let Value::Map(entries) = &mut node.value else { return };
        let index = match child(entries, key, &field, setting) {
            Ok(index) => index,
            Err((message, hint)) => {
                report.problems.push(Problem::new(message, hint).at(Some(&setting.origin())));
                return;
            }
        };
        field.push(entries[index].key.clone());
        node = &mut entries[index].node;
    }
    if matches!(node.origin, Origin::Variable(_)) && node.value != Value::Null {
        return;
    }
    if shadows(&node.value, setting.value) {
        let field = field.join(".");
        let message = format!("{} wins over this line", setting.said(&field));
        let warning = Problem::new(message, "unset it for the file to count").of(field);
        report.warnings.push(warning.at(Some(&node.origin)));
    }
    *node = Node { origin: setting.origin(), value: Value::Text(setting.value.to_owned()) };
}

/// The index of `key` in the section at `field`, where it may be new. An error is a message and a hint.
fn child(
    entries: &mut Vec<Entry>,
    key: &str,
    field: &[String],
    setting: &Setting<'_>,
) -> Result<usize, (String, String)> {
    let several = |keys| (format!("{} can mean more than one key", shown(key)), format!("write one of {keys}"));
    if let Some(index) = matching(entries, key).map_err(several)? {
        return Ok(index);
    }
    // Routes and topics are the file's: a variable changes one, it does not invent one.
    if let [section @ ("routes" | "topics")] = field.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return Err((format!("{} is not under `{section}` in the file", shown(key)), known(entries)));
    }
    let node = Node { origin: setting.origin(), value: Value::Null };
    entries.push(Entry { key: key.to_lowercase(), origin: setting.origin(), node });
    Ok(entries.len() - 1)
}

/// The key that is meant: as written, else without regard to case, else with `_` for what is not a letter or digit.
/// An error lists several.
fn matching(entries: &[Entry], key: &str) -> Result<Option<usize>, String> {
    let exact = entries.iter().position(|entry| entry.key == key);
    if let Some(index) = exact.or_else(|| entries.iter().position(|entry| entry.key.eq_ignore_ascii_case(key))) {
        return Ok(Some(index));
    }
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_ascii_lowercase();
    let alike = |entry: &Entry| plain(&entry.key) == plain(key);
    let found: Vec<usize> = (0..entries.len()).filter(|index| alike(&entries[*index])).collect();
    match found[..] {
        [] => Ok(None),
        [index] => Ok(Some(index)),
        _ => Err(found.iter().map(|index| shown(&entries[*index].key)).collect::<Vec<_>>().join(", ")),
    }
}

fn known(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "add it to the file".into();
    }
    format!("it has {}", entries.iter().map(|entry| shown(&entry.key)).collect::<Vec<_>>().join(", "))
}

/// Whether the file says something else than `value`.
fn shadows(old: &Value, value: &str) -> bool {
    match old {
        Value::Null | Value::Unknown => false,
        Value::Text(old) => {
            let duration = |text: &str| humantime::parse_duration(text).ok();
            old != value && (duration(old).is_none() || duration(old) != duration(value))
        }
        Value::List(items) => {
            let text = |item: &Node| if let Value::Text(text) = &item.value { text.clone() } else { String::new() };
            items.iter().map(text).collect::<Vec<_>>() != value.split(',').map(str::trim).collect::<Vec<_>>()
        }
        Value::Map(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::expand::expand;
    use super::super::yaml::parse;
    use super::*;

    const FILE: &str = "
workers: {count: 5}
store: {url: '${REDIS_URL:-sqlite:x}'}
results: {ttl: 1h}
topics:
  genesis.qa: {retries: 3, handler: upstream}
  a_b: {}
  a.b: {}
  a-b: {}
";

    fn applied(env: &[(&str, &str)]) -> (Node, Report) {
        let env: Env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut report = Report::default();
        let mut node = parse(FILE.as_bytes(), &mut report.problems).expect("yaml");
        expand(&mut node, &env, &mut report.problems);
        apply(&mut node, &env, &mut report);
        (node, report)
    }

    fn text(node: &Node, path: &[&str]) -> String {
        match node.find(path).map(|node| &node.value) {
            Some(Value::Text(text)) => text.clone(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn overrides_beat_the_short_names_and_these_beat_the_file() {
        let (node, _) =
            applied(&[("WORKER_COUNT", "7"), ("OMNIDAEMON_MAX_RETRIES", "9"), ("OMNIDAEMON_RETRY_DELAY", "2")]);
        assert_eq!(text(&node, &["workers", "count"]), "7");
        assert_eq!(text(&node, &["topics", "genesis.qa", "retries"]), "9");
        assert_eq!(text(&node, &["topics", "a.b", "retry_delay"]), "2s");
        let (node, _) = applied(&[
            ("WORKER_COUNT", "7"),
            ("OMNIDAEMON__workers__Count", "8"),
            ("OMNIDAEMON_MAX_RETRIES", "9"),
            ("OMNIDAEMON__TOPICS__GENESIS_QA__RETRIES", "1"),
        ]);
        assert_eq!(text(&node, &["workers", "count"]), "8");
        assert_eq!(text(&node, &["topics", "genesis.qa", "retries"]), "1");
        assert_eq!(text(&node, &["topics", "a.b", "retries"]), "9");
    }

    #[test]
    fn a_variable_may_set_what_the_file_leaves_out_and_is_its_origin() {
        let (node, report) = applied(&[("OMNIDAEMON__ADMIN__LISTEN", "127.0.0.1:1"), ("OMNIDAEMON_ADMIN_TOKEN", "t")]);
        assert_eq!(text(&node, &["admin", "listen"]), "127.0.0.1:1");
        assert_eq!(text(&node, &["admin", "token"]), "t");
        let origin = node.find(&["admin", "listen"]).map(|node| node.origin.clone());
        assert_eq!(origin, Some(Origin::Variable("OMNIDAEMON__ADMIN__LISTEN".into())));
        assert!(report.problems.is_empty() && report.warnings.is_empty());
    }

    #[test]
    fn shadowed_keys_are_warned_about_and_equal_ones_are_not() {
        let warnings = |env: &[(&str, &str)]| {
            applied(env).1.warnings.iter().map(|warning| warning.in_file("f")).collect::<Vec<_>>()
        };
        assert_eq!(warnings(&[("REDIS_URL", "redis://h")]), [""; 0]);
        assert_eq!(warnings(&[("WORKER_COUNT", "5"), ("OMNIDAEMON_RESULT_TTL", "3600")]), [""; 0]);
        assert_eq!(warnings(&[("WORKER_COUNT", "")]), [""; 0]);
        assert_eq!(
            warnings(&[("OMNIDAEMON_RESULT_TTL", "60"), ("OMNIDAEMON_MAX_RETRIES", "4")]),
            [
                "f:4:16: results.ttl: OMNIDAEMON_RESULT_TTL=60 wins over this line: unset it for the file to count",
                "f:6:25: topics.genesis.qa.retries: OMNIDAEMON_MAX_RETRIES=4 wins over this line: \
                 unset it for the file to count"
            ]
        );
        let secret = warnings(&[("OMNIDAEMON__STORE__URL", "redis://:canary-secret@h")]);
        assert!(secret.len() == 1 && secret[0].contains("OMNIDAEMON__STORE__URL wins over this line"), "{secret:?}");
    }

    #[test]
    fn a_variable_that_names_no_topic_or_several_is_a_problem_of_that_name() {
        for (name, message) in [
            (
                "OMNIDAEMON__TOPICS__NONE__RETRIES",
                "`NONE` is not under `topics` in the file: it has `genesis.qa`, `a_b`",
            ),
            ("OMNIDAEMON__ROUTES__INVOKE__WAIT", "`INVOKE` is not under `routes` in the file: add it to the file"),
            ("OMNIDAEMON__TOPICS__A+B__RETRIES", "can mean more than one key: write one of `a_b`, `a.b`, `a-b`"),
        ] {
            let (_, report) = applied(&[(name, "1")]);
            let problem = report.problems.iter().map(|problem| problem.in_file("f")).collect::<String>();
            assert!(problem.starts_with(&format!("{name}: ")) && problem.contains(message), "{problem}");
        }
    }
}
