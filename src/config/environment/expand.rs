//! Replaces `${VAR}`, `${VAR:-default}` and `${file:/path}` in values; `$$` is a dollar sign.
//!
//! A replacement is text and is not parsed as YAML: a variable cannot add keys. As in a shell, the
//! default after `:-` also replaces an empty variable. `${file:…}` is for mounted secrets: a file
//! has at most 64 KiB, and newlines at its end are dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use crate::config::diagnostics::{ConfigProblem, quote_for_message};
use crate::config::yaml::{YamlNode, YamlValue};

/// The values of environment variables by name.
pub type EnvVars = BTreeMap<String, String>;

/// The largest file that `${file:…}` reads, bytes.
const MAX_SECRET_FILE_BYTES: u64 = 64 << 10;

/// Replaces the references in every value below `root`; keys are not changed. A value with a
/// problem becomes [`YamlValue::Invalid`].
pub(crate) fn expand_references(
    root: &mut YamlNode,
    env: &EnvVars,
    problems: &mut Vec<ConfigProblem>,
) {
    expand_node(root, "", env, problems);
}

fn expand_node(node: &mut YamlNode, field: &str, env: &EnvVars, problems: &mut Vec<ConfigProblem>) {
    match &mut node.value {
        YamlValue::Null | YamlValue::Invalid => {}
        YamlValue::Text(text) => match expand_text(text, env) {
            Ok(Some(new)) => *text = new,
            Ok(None) => {}
            Err((message, hint)) => {
                problems.push(
                    ConfigProblem::new(message, hint)
                        .with_field(field)
                        .with_origin(Some(&node.origin)),
                );
                node.value = YamlValue::Invalid;
            }
        },
        YamlValue::List(nodes) => {
            for node in nodes.iter_mut() {
                expand_node(node, field, env, problems);
            }
        }
        YamlValue::Map(entries) => {
            for entry in entries {
                let key = entry.key.escape_debug();
                let field =
                    if field.is_empty() { key.to_string() } else { format!("{field}.{key}") };
                expand_node(&mut entry.node, &field, env, problems);
            }
        }
    }
}

/// The text with variables replaced and `${file:…}` references kept, as a template for
/// [`expand_file_references`]; none when the text has no reference to a file.
pub(crate) fn expand_variables_only(text: &str, env: &EnvVars) -> Option<String> {
    let escape_dollars = |value: String| value.replace('$', "$$");
    let replace_variable = |reference: &str| {
        if reference.starts_with("file:") {
            Ok(format!("${{{reference}}}"))
        } else {
            resolve_reference(reference, env).map(escape_dollars)
        }
    };
    let has_file = text.contains("${file:");
    has_file.then(|| replace_references(text, "$$", replace_variable).ok()).flatten()
}

/// Reads the files of a template that [`expand_variables_only`] made, and returns the full text. An
/// error names the file and why it cannot be read.
pub(crate) fn expand_file_references(template: &str) -> Result<String, String> {
    replace_references(template, "$", |reference| resolve_reference(reference, &EnvVars::new()))
        .map_err(|(message, _)| message)
}

/// The text with its references replaced; none when it has no dollar sign. An error is a message
/// and a hint.
fn expand_text(text: &str, env: &EnvVars) -> Result<Option<String>, (String, String)> {
    if !text.contains('$') {
        return Ok(None);
    }
    replace_references(text, "$", |reference| resolve_reference(reference, env)).map(Some)
}

/// The text with each reference replaced by its `value`, and `$$` and lone dollar signs by
/// `dollar`.
fn replace_references(
    text: &str,
    dollar: &str,
    value: impl Fn(&str) -> Result<String, (String, String)>,
) -> Result<String, (String, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push_str(dollar);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some((reference, after)) = after.split_once('}') else {
                return Err((
                    "has a `${` without its `}`".into(),
                    "close it, or write `$$` for a dollar sign".into(),
                ));
            };
            out.push_str(&value(reference)?);
            rest = after;
        } else {
            out.push_str(dollar);
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of a reference without its `${` and `}`. An error is a message and a hint.
fn resolve_reference(reference: &str, env: &EnvVars) -> Result<String, (String, String)> {
    if let Some(path) = reference.strip_prefix("file:") {
        return read_secret_file(path).map_err(|reason| {
            let message = format!("{} cannot be read: {reason}", quote_for_message(path));
            (message, "check the path".into())
        });
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let is_variable_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    let is_nested = default.is_some_and(|default| default.contains("${"));
    if name.is_empty() || !is_variable_name || is_nested {
        let hint = "write `${VAR}`, `${VAR:-default}`, `${file:/path}`, or `$$` for a dollar sign";
        return Err((
            format!(
                "has {}, which is no reference",
                quote_for_message(&format!("${{{reference}}}"))
            ),
            hint.into(),
        ));
    }
    match (env.get(name), default) {
        (Some(value), None) => Ok(value.clone()),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value.clone()),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            Err((format!("{name} is not set"), format!("set it, or write `${{{name}:-default}}`")))
        }
    }
}

/// The text of a file without the newlines at its end. An error says why it cannot be read.
fn read_secret_file(path: &str) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err("it is not a file".into());
    }
    let mut text = String::new();
    let read = file
        .take(MAX_SECRET_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if read as u64 > MAX_SECRET_FILE_BYTES {
        return Err("it is over 64 KiB".into());
    }
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_env() -> EnvVars {
        [("A", "1"), ("EMPTY", ""), ("INNER", "${A}: {x}")]
            .map(|(k, v)| (k.into(), v.into()))
            .into()
    }

    #[test]
    fn references_are_replaced_by_their_values() {
        let cases = [
            ("x${A}y${A}", "x1y1"),
            ("${A:-2}", "1"),
            ("${EMPTY}", ""),
            ("${EMPTY:-2}", "2"),
            ("${NONE:-redis://h:1,i:2}", "redis://h:1,i:2"),
            ("${NONE:-}", ""),
            ("$${A} costs $5 or $$5", "${A} costs $5 or $5"),
            ("${INNER}", "${A}: {x}"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand_text(text, &test_env()), Ok(Some(expected.into())), "{text}");
        }
        assert_eq!(expand_text("plain", &test_env()), Ok(None));
    }

    #[test]
    fn files_are_read_again_and_variables_are_not() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display();
        std::fs::write(file.path(), "one\n").expect("written");
        let source =
            expand_variables_only(&format!("${{INNER}}:$5:$$:${{file:{path}}}"), &test_env())
                .expect("has a file");
        assert_eq!(expand_file_references(&source), Ok("${A}: {x}:$5:$:one".into()));
        std::fs::write(file.path(), "two").expect("written");
        assert_eq!(expand_file_references(&source), Ok("${A}: {x}:$5:$:two".into()));
        drop(file);
        assert!(expand_file_references(&source).is_err());
        assert_eq!(expand_variables_only("${A}", &test_env()), None);
    }

    #[test]
    fn a_reference_that_cannot_be_replaced_is_a_problem_with_its_position() {
        for (text, part) in [
            ("${NONE}", "NONE is not set: set it, or write `${NONE:-default}`"),
            ("${A", "has a `${` without its `}`"),
            ("${}", "which is no reference"),
            ("${A B}", "which is no reference"),
            ("${A:-${B}}", "which is no reference"),
            ("${file:/nowhere/x}", "`/nowhere/x` cannot be read"),
            ("${file:/}", "it is not a file"),
        ] {
            let yaml = format!("a:\n  b: '{text}'\n");
            let mut problems = Vec::new();
            let mut node =
                crate::config::yaml::parse_document(yaml.as_bytes(), &mut problems).expect("yaml");
            expand_references(&mut node, &test_env(), &mut problems);
            let shown = problems.iter().map(|problem| problem.render_line("f")).collect::<String>();
            assert!(shown.starts_with("f:2:6: a.b: ") && shown.contains(part), "{text}: {shown}");
        }
    }

    #[test]
    fn a_secret_file_is_read_without_its_last_newline() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret\n").expect("a file");
        assert_eq!(
            expand_text(&format!("${{file:{}}}", path.display()), &test_env()),
            Ok(Some("s3cret".into()))
        );
        std::fs::write(&path, "x".repeat(70_000)).expect("a file");
        assert!(
            expand_text(&format!("${{file:{}}}", path.display()), &test_env())
                .is_err_and(|(message, _)| message.contains("64 KiB"))
        );
    }
}
