//! YAML text → a tree that knows the line and column of every key and value.
//!
//! Hardened against files that were not written by a friend: size, nesting and the work that aliases
//! cause are bounded, and nothing here recurses over input. Keys must be texts and must not repeat; merge
//! keys, tags and a second document are refused by name. Scalars stay text: what one means is decided
//! by who reads it, so `off` and `1.10` arrive as written.
//!
//! `${…}` may be written bare even inside `{…}` and `[…]`, where YAML would end the scalar at the brace:
//! its brackets are masked by private characters while YAML is read, one for one, so columns hold.

mod builder;

use std::borrow::Cow;

use saphyr_parser::{Marker, Parser};

use self::builder::{Builder, Fault};
use super::problem::{Origin, Problem};

/// The largest file, bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// A scalar, a list or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `~`, `null`, or nothing at all.
    Null,
    /// What has no meaning, which was reported already.
    Unknown,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) node: Node,
}

impl Node {
    /// The node under `key`; none when this is no map or has no such key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The node at the end of `path`.
    pub(super) fn find(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }
}

/// Reads one document. Problems go to `problems`; none when no tree came of it.
pub(super) fn parse(bytes: &[u8], problems: &mut Vec<Problem>) -> Option<Node> {
    if bytes.len() > MAX_BYTES {
        problems.push(Problem::new("is over 1 MiB", "a configuration is a few kilobytes: is this the right file?"));
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            problems.push(spoilt(bytes, error.valid_up_to(), "not UTF-8", "save the file as UTF-8"));
            return None;
        }
    };
    // The parser takes a NUL for the end, and a file cut by a crash is full of them.
    if let Some(at) = text.find(|c: char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r')) {
        problems.push(spoilt(text.as_bytes(), at, "a control character", "delete it"));
        return None;
    }
    let masked = mask(text);
    let mut builder = Builder::new(problems);
    let mut parser = Parser::new_from_str(&masked);
    while let Some(event) = parser.next_event() {
        let step = event.map_err(Fault::from).and_then(|(event, span)| builder.step(event, span.start));
        if let Err(fault) = step {
            builder.problems.push(fault.into());
            return None;
        }
    }
    Some(builder.finish().unwrap_or(Node { origin: Origin::At { line: 1, column: 1 }, value: Value::Null }))
}

fn spoilt(bytes: &[u8], at: usize, what: &str, hint: &str) -> Problem {
    let line = bytes[..at].split(|byte| *byte == b'\n').count();
    Problem { line: Some(line), ..Problem::new(format!("byte {} is {what}", at + 1), hint) }
}

fn origin(marker: Marker) -> Origin {
    Origin::At { line: marker.line(), column: marker.col() + 1 }
}

/// Characters that end a plain scalar in flow style, and what stands for them inside `${…}`.
const MASKED: [(char, char); 5] =
    [('{', '\u{e0d0}'), ('}', '\u{e0d1}'), ('[', '\u{e0d2}'), (']', '\u{e0d3}'), (',', '\u{e0d4}')];

/// `text` with the flow characters of each `${…}` masked; one that does not end on its line is left alone.
fn mask(text: &str) -> Cow<'_, str> {
    if !text.contains("${") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    // Where the brace of the open reference is.
    let mut open: Option<usize> = None;
    for c in text.chars() {
        match (open, c) {
            (None, '{') if out.ends_with('$') => open = Some(out.len()),
            (Some(from), '\n') => {
                leave_alone(&mut out, from);
                open = None;
            }
            _ => {}
        }
        out.push(if open.is_some() { swap(c, false) } else { c });
        open = open.filter(|_| c != '}');
    }
    if let Some(from) = open {
        leave_alone(&mut out, from);
    }
    Cow::Owned(out)
}

fn leave_alone(masked: &mut String, from: usize) {
    let plain = unmask(&masked[from..]);
    masked.truncate(from);
    masked.push_str(&plain);
}

fn unmask(text: &str) -> String {
    text.chars().map(|c| swap(c, true)).collect()
}

fn swap(c: char, back: bool) -> char {
    MASKED
        .iter()
        .find_map(|&(plain, mask)| if back { (c == mask).then_some(plain) } else { (c == plain).then_some(mask) })
        .unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let mut problems = Vec::new();
        let node = parse(text.as_bytes(), &mut problems);
        (node, problems.iter().map(|problem| problem.in_file("f")).collect())
    }

    fn refused_with(text: &str) -> String {
        let (_, problems) = read(text);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.into_iter().next().expect("one problem")
    }

    #[test]
    fn keys_and_values_know_their_place() {
        let (node, problems) = read("a:\n  b: [x, {c: 1.10}]\n  \"d\": off\n");
        let node = node.expect("a tree");
        assert!(problems.is_empty());
        let Value::List(items) = &node.find(&["a", "b"]).expect("a.b").value else { panic!("no list") };
        let c = items[1].get("c").expect("c");
        assert_eq!((&c.origin, &c.value), (&Origin::At { line: 2, column: 14 }, &Value::Text("1.10".into())));
        let Value::Map(entries) = &node.get("a").expect("a").value else { panic!("no map") };
        assert_eq!((entries[1].key.as_str(), &entries[1].origin), ("d", &Origin::At { line: 3, column: 3 }));
    }

    #[test]
    fn variables_may_stand_bare_in_flow_style_and_columns_hold() {
        let yaml = "{url: ${REDIS_URL:-redis://a:1,b:2/[x]}, token: ${T:-}, q: '${Q}', s: $${S}, after: 1}";
        let (node, problems) = read(yaml);
        assert!(problems.is_empty(), "{problems:?}");
        let node = node.expect("a tree");
        let text = |key| node.get(key).map(|node| node.value.clone());
        assert_eq!(text("url"), Some(Value::Text("${REDIS_URL:-redis://a:1,b:2/[x]}".into())));
        assert_eq!(text("token"), Some(Value::Text("${T:-}".into())));
        assert_eq!(text("q"), Some(Value::Text("${Q}".into())));
        assert_eq!(text("s"), Some(Value::Text("$${S}".into())));
        let column = yaml.find("1}").expect("the last value") + 1;
        assert_eq!(node.get("after").map(|node| &node.origin), Some(&Origin::At { line: 1, column }));
    }

    #[test]
    fn a_repeated_key_is_refused_with_both_lines_and_the_first_is_kept() {
        let (node, problems) = read("a:\n  b: 1\n  c: 2\n  b: 3\n");
        assert_eq!(problems, ["f:4:3: a.b: is set twice, in line 2 and in line 4: keep one of them"]);
        assert_eq!(node.expect("a tree").find(&["a", "b"]).map(|b| b.value.clone()), Some(Value::Text("1".into())));
    }

    #[test]
    fn aliases_are_followed_as_far_as_they_are_harmless() {
        let (node, problems) = read("a: &x {k: v}\nb: *x\n");
        assert!(problems.is_empty());
        assert_eq!(node.expect("a tree").find(&["b", "k"]).map(|k| k.value.clone()), Some(Value::Text("v".into())));

        let level = |n: usize| format!("a{n}: &a{n} [{}x]", format!("*a{}, ", n - 1).repeat(10));
        let levels: Vec<String> = (1..12).map(level).collect();
        let bomb = format!("a0: &a0 x\n{}\n", levels.join("\n"));
        assert!(refused_with(&bomb).contains("use fewer aliases"));
        let long_text = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a, ".repeat(1000));
        assert!(refused_with(&long_text).contains("use fewer aliases"));
        assert!(refused_with("a: &a [*a]\n").contains("inside its own anchor"));
        let ladder: Vec<String> = (1..100).map(|n| format!("a{n}: &a{n} [*a{}]", n - 1)).collect();
        assert!(refused_with(&format!("a0: &a0 [x]\n{}\n", ladder.join("\n"))).contains("nested more than 64 deep"));
    }

    #[test]
    fn what_is_no_configuration_is_refused_by_name() {
        let deep_block = (0..500).map(|n| " ".repeat(n) + "a:\n").collect::<String>();
        for (text, message) in [
            ("a: 1\n---\nb: 2\n", "f:2:1: is a second document"),
            ("a: [1\n", "is not readable as YAML"),
            ("a: {path: /echo/{x}, topic: t}\n", "needs quotes, such as `path: \"/echo/{x}\"`"),
            ("a: {{ .Values.x }}\n", "is a key that is not a text"),
            ("a: !secret x\n", "f:1:12: has the tag `!secret`"),
            ("a: &d {}\nb:\n  <<: *d\n", "f:3:3: b.<<: merge keys are not read"),
            (&"[".repeat(100), "nested more than 64 deep"),
            (&"[".repeat(100_000), "recursion limit exceeded"),
            ("a: 1\nb: \0\nc: [", "f:2: byte 9 is a control character: delete it"),
            (&deep_block, "nested more than 64 deep"),
            (&format!("a: [{}", "${".repeat(500_000)), "recursion limit exceeded"),
            (&format!("a: {}", "x".repeat(MAX_BYTES)), "f: is over 1 MiB"),
        ] {
            assert!(refused_with(text).contains(message), "{}", refused_with(text));
        }
        let mut problems = Vec::new();
        assert_eq!(parse(b"a: 1\nb: \xff\n", &mut problems), None);
        assert_eq!(problems[0].in_file("f"), "f:2: byte 9 is not UTF-8: save the file as UTF-8");
    }

    #[test]
    fn nothing_is_null_and_a_mark_or_an_empty_file_is_fine() {
        assert_eq!(
            read("\u{feff}a: 1\n").0.expect("a tree").get("a").map(|a| a.value.clone()),
            Some(Value::Text("1".into()))
        );
        for empty in ["", "# nothing\n", "---\n"] {
            assert_eq!(read(empty).0.map(|node| node.value), Some(Value::Null), "{empty:?}");
        }
        let (node, _) = read("a:\nb: ~\nc: ''\n");
        let node = node.expect("a tree");
        assert_eq!(
            ["a", "b", "c"].map(|key| node.get(key).map(|n| n.value == Value::Null)),
            [Some(true), Some(true), Some(false)]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut problems = Vec::new();
            prop_assert!(parse(&bytes, &mut problems).is_some() || !problems.is_empty());
        }

        #[test]
        fn any_yaml_like_text_is_read_or_refused(text in r"([a-c:\-?&*!{}\[\],'\x22|>%#$ \n]){0,80}") {
            let mut problems = Vec::new();
            prop_assert!(parse(text.as_bytes(), &mut problems).is_some() || !problems.is_empty());
        }
    }
}
