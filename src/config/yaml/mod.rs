//! Parses YAML text into a tree with the line and column of every key and value.
//!
//! Hostile files are harmless: size, nesting and the memory that aliases take are bounded, and
//! nothing here recurses over input. Keys must be texts and must not repeat; merge keys, tags and a
//! second document are refused. Scalars stay text, so that `off` and `1.10` reach the parsers of
//! fields as they were written.
//!
//! `${…}` may be written without quotes even inside `{…}` and `[…]`, where YAML would end the
//! scalar at the brace. For that, `mask.rs` replaces its brackets by private characters, one for
//! one, so that columns stay the same.

mod builder;
mod mask;
mod tree;

use saphyr_parser::Parser;

use self::builder::{YamlFault, YamlTreeBuilder};
use self::mask::mask_references;
pub(super) use self::tree::{YamlEntry, YamlNode, YamlValue};
use crate::config::diagnostics::{ConfigProblem, ValueOrigin};

/// The largest configuration file, in bytes.
pub(super) const MAX_FILE_BYTES: usize = 1 << 20;

/// Parses one document, and adds problems to `problems`. Returns no tree when the text cannot be
/// read as YAML.
pub(super) fn parse_document(bytes: &[u8], problems: &mut Vec<ConfigProblem>) -> Option<YamlNode> {
    if bytes.len() > MAX_FILE_BYTES {
        problems.push(ConfigProblem::new(
            "is over 1 MiB",
            "a configuration is a few kilobytes: is this the right file?",
        ));
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            problems.push(invalid_byte_problem(
                bytes,
                error.valid_up_to(),
                "not UTF-8",
                "save the file as UTF-8",
            ));
            return None;
        }
    };
    // The parser takes a NUL for the end of the text, and would accept the first part of a file
    // that a crash has filled up with NULs.
    if let Some(at) = text.find(|c: char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r'))
    {
        problems.push(invalid_byte_problem(
            text.as_bytes(),
            at,
            "a control character",
            "delete it",
        ));
        return None;
    }
    let masked = mask_references(text);
    let mut builder = YamlTreeBuilder::new(problems);
    let mut parser = Parser::new_from_str(&masked);
    while let Some(event) = parser.next_event() {
        let step = event
            .map_err(YamlFault::from)
            .and_then(|(event, span)| builder.handle_event(event, span.start));
        if let Err(fault) = step {
            builder.problems.push(fault.into());
            return None;
        }
    }
    Some(builder.finish().unwrap_or(YamlNode {
        origin: ValueOrigin::InFile { line: 1, column: 1 },
        value: YamlValue::Null,
    }))
}

fn invalid_byte_problem(bytes: &[u8], at: usize, what: &str, hint: &str) -> ConfigProblem {
    let line = bytes[..at].split(|byte| *byte == b'\n').count();
    ConfigProblem {
        line: Some(line),
        ..ConfigProblem::new(format!("byte {} is {what}", at + 1), hint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse_text(text: &str) -> (Option<YamlNode>, Vec<String>) {
        let mut problems = Vec::new();
        let node = parse_document(text.as_bytes(), &mut problems);
        (node, problems.iter().map(|problem| problem.render_line("f")).collect())
    }

    fn expect_one_problem(text: &str) -> String {
        let (_, problems) = parse_text(text);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.into_iter().next().expect("one problem")
    }

    #[test]
    fn keys_and_values_have_their_position() {
        let (node, problems) = parse_text("a:\n  b: [x, {c: 1.10}]\n  \"d\": off\n");
        let node = node.expect("a tree");
        assert!(problems.is_empty());
        let YamlValue::List(items) = &node.find_path(&["a", "b"]).expect("a.b").value else {
            panic!("no list")
        };
        let c = items[1].get("c").expect("c");
        assert_eq!(
            (&c.origin, &c.value),
            (&ValueOrigin::InFile { line: 2, column: 14 }, &YamlValue::Text("1.10".into()))
        );
        let YamlValue::Map(entries) = &node.get("a").expect("a").value else { panic!("no map") };
        assert_eq!(
            (entries[1].key.as_str(), &entries[1].origin),
            ("d", &ValueOrigin::InFile { line: 3, column: 3 })
        );
    }

    #[test]
    fn variables_may_stand_bare_in_flow_style_and_columns_hold() {
        let yaml = "{url: ${REDIS_URL:-redis://a:1,b:2/[x]}, token: ${T:-}, q: '${Q}', s: $${S}, \
            after: 1}";
        let (node, problems) = parse_text(yaml);
        assert!(problems.is_empty(), "{problems:?}");
        let node = node.expect("a tree");
        let text = |key| node.get(key).map(|node| node.value.clone());
        assert_eq!(text("url"), Some(YamlValue::Text("${REDIS_URL:-redis://a:1,b:2/[x]}".into())));
        assert_eq!(text("token"), Some(YamlValue::Text("${T:-}".into())));
        assert_eq!(text("q"), Some(YamlValue::Text("${Q}".into())));
        assert_eq!(text("s"), Some(YamlValue::Text("$${S}".into())));
        let column = yaml.find("1}").expect("the last value") + 1;
        assert_eq!(
            node.get("after").map(|node| &node.origin),
            Some(&ValueOrigin::InFile { line: 1, column })
        );
    }

    #[test]
    fn a_repeated_key_is_refused_with_both_lines_and_the_first_is_kept() {
        let (node, problems) = parse_text("a:\n  b: 1\n  c: 2\n  b: 3\n");
        assert_eq!(
            problems,
            ["f:4:3: a.b: is set twice, in line 2 and in line 4: keep one of them"]
        );
        assert_eq!(
            node.expect("a tree").find_path(&["a", "b"]).map(|b| b.value.clone()),
            Some(YamlValue::Text("1".into()))
        );
    }

    #[test]
    fn aliases_are_followed_up_to_the_limits() {
        let (node, problems) = parse_text("a: &x {k: v}\nb: *x\n");
        assert!(problems.is_empty());
        assert_eq!(
            node.expect("a tree").find_path(&["b", "k"]).map(|k| k.value.clone()),
            Some(YamlValue::Text("v".into()))
        );

        let level = |n: usize| format!("a{n}: &a{n} [{}x]", format!("*a{}, ", n - 1).repeat(10));
        let levels: Vec<String> = (1..12).map(level).collect();
        let bomb = format!("a0: &a0 x\n{}\n", levels.join("\n"));
        assert!(expect_one_problem(&bomb).contains("use fewer aliases"));
        let long_text = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a, ".repeat(1000));
        assert!(expect_one_problem(&long_text).contains("use fewer aliases"));
        assert!(expect_one_problem("a: &a [*a]\n").contains("inside its own anchor"));
        let ladder: Vec<String> = (1..100).map(|n| format!("a{n}: &a{n} [*a{}]", n - 1)).collect();
        assert!(
            expect_one_problem(&format!("a0: &a0 [x]\n{}\n", ladder.join("\n")))
                .contains("nested more than 64 deep")
        );
    }

    #[test]
    fn a_text_that_is_no_configuration_is_refused_with_the_reason() {
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
            (&format!("a: {}", "x".repeat(MAX_FILE_BYTES)), "f: is over 1 MiB"),
        ] {
            assert!(expect_one_problem(text).contains(message), "{}", expect_one_problem(text));
        }
        let mut problems = Vec::new();
        assert_eq!(parse_document(b"a: 1\nb: \xff\n", &mut problems), None);
        assert_eq!(
            problems[0].render_line("f"),
            "f:2: byte 9 is not UTF-8: save the file as UTF-8"
        );
    }

    #[test]
    fn absent_values_are_null_and_byte_order_marks_and_empty_files_are_valid() {
        assert_eq!(
            parse_text("\u{feff}a: 1\n").0.expect("a tree").get("a").map(|a| a.value.clone()),
            Some(YamlValue::Text("1".into()))
        );
        for empty in ["", "# nothing\n", "---\n"] {
            assert_eq!(
                parse_text(empty).0.map(|node| node.value),
                Some(YamlValue::Null),
                "{empty:?}"
            );
        }
        let (node, _) = parse_text("a:\nb: ~\nc: ''\n");
        let node = node.expect("a tree");
        assert_eq!(
            ["a", "b", "c"].map(|key| node.get(key).map(|n| n.value == YamlValue::Null)),
            [Some(true), Some(true), Some(false)]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut problems = Vec::new();
            prop_assert!(parse_document(&bytes, &mut problems).is_some() || !problems.is_empty());
        }

        #[test]
        fn any_yaml_like_text_is_read_or_refused(
            text in r"([a-c:\-?&*!{}\[\],'\x22|>%#$ \n]){0,80}"
        ) {
            let mut problems = Vec::new();
            prop_assert!(parse_document(text.as_bytes(),
            &mut problems).is_some() || !problems.is_empty());
        }
    }
}
