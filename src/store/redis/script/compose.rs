//! Composes the source of a script from its file, its header and the shared prelude.
//!
//! A script file begins with a header that names its keys and arguments in the order of the call.
//! A `per` line is a group: its names are repeated for each item, from item 1 on. A line without
//! a word behind `--@` continues the one before.
//!
//! ```text
//! --@keys results_index outbox
//! --@keys per queue: stream dead_letters retry_counts
//! --@args channel_prefix queue_count
//! --@args per queue: group
//! --@  max_backlog
//! ```
//!
//! The body never reads `KEYS` or `ARGV`. Composing puts these definitions in front of it:
//! - each name outside a group as a local variable;
//! - `<group>_count`: the argument of that name as a number, else computed from the list's length.
//!
//! and it replaces these two forms, at no cost when the script runs:
//! - `local group, stream = queue_args(q)` and `…_keys(q)` on a line of their own: the values of
//!   item `q` **by the names on the left**, in any order;
//! - `all_keys(stream, dead_letters)` and `all_args(…)`: the values of all items of a group line.

use crate::store::redis::script::parameters::{ListKind, ParameterList, render_counts};

const SCRIPT_PRELUDE: &str = include_str!("../scripts/prelude.lua");

/// The source of a script as it is sent, and the names of its parameters.
pub(crate) struct ComposedSource {
    /// The Lua source.
    pub(crate) lua: String,
    /// The names of the keys.
    pub(crate) keys: ParameterList,
    /// The names of the arguments.
    pub(crate) args: ParameterList,
}

// === impl ComposedSource ===

impl ComposedSource {
    /// Composes `script` with what it uses of `constants` and of the prelude.
    ///
    /// # Errors
    /// A name that the header does not declare, as text.
    pub(crate) fn compose(constants: &str, script: &'static str) -> Result<Self, String> {
        let keys = ParameterList::parse(ListKind::Keys, script);
        let args = ParameterList::parse(ListKind::Args, script);
        let body = expand_body(script, &keys, &args)?;
        let fixed = keys.render_fixed_locals() + &args.render_fixed_locals();
        let computed = render_counts(&keys, &args)? + &keys.render_bases() + &args.render_bases();
        let body = fixed + &prepend_used_definitions(&computed, &body);
        let lua = prepend_used_definitions(&(constants.to_owned() + SCRIPT_PRELUDE), &body);
        Ok(Self { lua, keys, args })
    }
}

/// The lines of `text` that are not comments.
fn strip_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    lines.fold(String::new(), |code, line| code + line + "\n")
}

/// The body of a script with the forms of the module head replaced.
fn expand_body(script: &str, keys: &ParameterList, args: &ParameterList) -> Result<String, String> {
    let mut body = String::new();
    for line in strip_comments(script).lines() {
        let mut line = line.to_owned();
        for list in [keys, args] {
            line = expand_item(&line, list)?.unwrap_or(line);
            line = expand_all(&line, list)?.unwrap_or(line);
        }
        body.push_str(&line);
        body.push('\n');
    }
    Ok(body)
}

/// `local <names> = <group>_<kind>(<item>)`, replaced.
fn expand_item(line: &str, list: &ParameterList) -> Result<Option<String>, String> {
    let form = line.split_once(" = ").and_then(|(left, right)| {
        let names = left.trim_start().strip_prefix("local ")?;
        let (function, item) = right.strip_suffix(')')?.split_once('(')?;
        let group = function.strip_suffix(list.kind.word())?.strip_suffix('_')?;
        let is_identifier = item.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (is_identifier && group != "all").then_some((left, names, group, item))
    });
    let Some((left, names, group, item)) = form else { return Ok(None) };
    let names: Vec<&str> = names.split(", ").collect();
    Ok(Some(format!("{left} = {}", list.render_item(group, &names, item)?)))
}

/// `all_<kind>(<names>)`, replaced.
fn expand_all(line: &str, list: &ParameterList) -> Result<Option<String>, String> {
    let form = line.split_once(&format!("all_{}(", list.kind.word()));
    let Some((before, rest)) = form else { return Ok(None) };
    let (names, after) = rest.split_once(')').unwrap_or((rest, ""));
    let names: Vec<&str> = names.split(", ").collect();
    Ok(Some(format!("{before}{}{after}", list.render_all(&names)?)))
}

/// `code` after those `definitions` that it needs. A definition begins with `local` at the start of
/// a line and uses earlier ones only.
fn prepend_used_definitions(definitions: &str, code: &str) -> String {
    let mut parts: Vec<String> = vec![String::new()];
    for line in strip_comments(definitions).lines() {
        if line.starts_with("local ") {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let mut composed = code.to_owned();
    for part in parts.iter().rev() {
        let declared = part.strip_prefix("local function ").or_else(|| part.strip_prefix("local "));
        if declared.is_some_and(|rest| {
            uses_identifier(&composed, split_identifiers(rest).next().unwrap_or_default())
        }) {
            composed.insert_str(0, part);
        }
    }
    composed
}

fn uses_identifier(code: &str, name: &str) -> bool {
    split_identifiers(code).any(|word| word == name)
}

fn split_identifiers(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "-- describes itself
--@keys index
--@keys per queue: stream dead
--@keys per task: record
--@keys per task: result
--@args prefix queue_count
--@args per queue: group
--@args per task: entry attempt
--@  state
for i = 1, task_count do
  local dead = queue_keys(i)
  local state, entry = task_args(i)
  local result, record = task_keys(i)
  local entry, attempt, state = task_args(i)
  local group = queue_args(3)
  use(all_keys(record), index)
  use(all_args(entry, attempt, state))
end
";

    #[test]
    fn names_of_the_header_become_positions() {
        let lua = ComposedSource::compose("", SCRIPT).expect("all names are declared").lua;
        let expected = "local index = KEYS[1]
local prefix, queue_count = ARGV[1], ARGV[2]
local queue_count = tonumber(queue_count)
local task_count = (#KEYS - 1 - 2 * queue_count) / 2
local record_base = 1 + 2 * queue_count
local result_base = 1 + 2 * queue_count + task_count
local entry_base = 2 + queue_count
for i = 1, task_count do
  local dead = KEYS[2 * i + 1]
  local state, entry = ARGV[3 * i + entry_base], ARGV[3 * i + entry_base - 2]
  local result, record = KEYS[i + result_base], KEYS[i + record_base]
  local entry, attempt, state = unpack(ARGV, 3 * i + entry_base - 2, 3 * i + entry_base)
  local group = ARGV[5]
  use(unpack(KEYS, record_base + 1, task_count + record_base), index)
  use(unpack(ARGV, entry_base + 1, #ARGV))
end
";
        assert_eq!(lua, expected);
    }

    #[test]
    fn a_name_that_is_not_declared_is_refused() {
        let refused = |script| ComposedSource::compose("", script).err();
        let misspelt = refused("--@args per task: entry\nlocal entri = task_args(i)\n");
        assert_eq!(misspelt.as_deref(), Some("args of a task have no entri"));
        assert!(refused("--@keys per task: record\nuse(all_keys(result))\n").is_some());
    }

    #[test]
    fn definitions_are_put_before_a_script_only_if_it_uses_them() {
        let prelude = concat!(
            "-- heads\n\nlocal A = 1\n\n",
            "local function f()\n  return A\n\nend\n\n",
            "local function g()\nend\n"
        );
        assert_eq!(
            prepend_used_definitions(prelude, "return f()\n"),
            "local A = 1\n\nlocal function f()\n  return A\n\nend\n\nreturn f()\n"
        );
        assert_eq!(prepend_used_definitions(prelude, "return x.ff\n"), "return x.ff\n");
    }
}
