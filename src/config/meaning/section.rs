//! A map of the file that hands out its fields by key, each with the parser of its type.
//!
//! A field that is missing has its default; one that is wrong is reported and has its default too, so
//! that the reading goes on and finds the rest. When a section is dropped, keys that nobody asked for are
//! reported: a reader cannot forget to.

use std::cell::RefCell;

use super::values::Wrong;
use crate::config::problem::{Origin, Problem, Report, shown};
use crate::config::yaml::{Entry, Node, Value};

/// A section, possibly absent from the file.
pub(super) struct Section<'a> {
    /// The path of its key; empty for the file.
    field: String,
    origin: Option<&'a Origin>,
    entries: &'a [Entry],
    /// Keys that were asked for.
    known: Vec<&'static str>,
    /// Keys that have a meaning elsewhere, and were reported.
    refused: Vec<&'static str>,
    report: &'a RefCell<Report>,
}

impl<'a> Section<'a> {
    /// The file itself.
    pub(super) fn root(node: &'a Node, report: &'a RefCell<Report>) -> Self {
        Self::of(String::new(), None, Some(node), report)
    }

    fn of(field: String, origin: Option<&'a Origin>, node: Option<&'a Node>, report: &'a RefCell<Report>) -> Self {
        let mut section = Self { field, origin, entries: &[], known: Vec::new(), refused: Vec::new(), report };
        match node.map(|node| (&node.value, &node.origin)) {
            None | Some((Value::Null | Value::Unknown, _)) => {}
            Some((Value::Map(entries), _)) => section.entries = entries,
            Some((value, origin)) => {
                let wrong =
                    Wrong::new(format!("is {}, not a section", kind(value)), "write `key: value` lines below it");
                section.push(Some(origin), None, wrong);
            }
        }
        section
    }

    /// A section below this one.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let entry = self.entry(key);
        Section::of(self.path_to(key), entry.map(|entry| &entry.origin), entry.map(|entry| &entry.node), self.report)
    }

    /// The sections of a map whose keys the operator chooses, with these keys.
    pub(super) fn named(&mut self, key: &'static str) -> Vec<(&'a str, Section<'a>)> {
        let mut all = self.section(key);
        let entries = std::mem::take(&mut all.entries);
        let of = |entry: &'a Entry| {
            let field = all.path_to(&entry.key);
            (entry.key.as_str(), Section::of(field, Some(&entry.origin), Some(&entry.node), self.report))
        };
        entries.iter().map(of).collect()
    }

    /// The field, or `default` when it is absent or wrong.
    pub(super) fn read<T>(&mut self, key: &'static str, default: T, parse: impl Fn(&str) -> Result<T, Wrong>) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// The field; none when it is absent or wrong.
    pub(super) fn optional<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let node = self.node(key)?;
        self.scalar(key, node, parse)
    }

    /// The field; being absent is a problem, mended by `hint`.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        hint: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        if self.node(key).is_none() {
            self.push(self.origin, Some(key), Wrong::new("is missing", hint));
        }
        self.optional(key, parse)
    }

    /// A list of scalars, or `default` when it is absent. From a variable, which cannot hold a list, it may also
    /// be a text with commas.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let Some(node) = self.node(key) else { return default };
        match (&node.value, &node.origin) {
            (Value::Null, _) => Vec::new(),
            (Value::Unknown, _) => default,
            (Value::List(items), _) => items.iter().filter_map(|item| self.scalar(key, item, &parse)).collect(),
            (Value::Text(text), Origin::Variable(_)) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.filter_map(|item| self.ok(key, node, parse(item))).collect()
            }
            (value, _) => {
                let words = if let Value::Text(text) = value { text.split_whitespace().collect() } else { vec!["…"] };
                let hint = format!("write {}", shown(&format!("[{}]", words.join(", "))));
                let wrong = Wrong::new(format!("is {}, not a list", kind(value)), hint);
                self.push(Some(&node.origin), Some(key), wrong);
                default
            }
        }
    }

    /// A list of scalars or sections, or `default` when it is absent or no list.
    pub(super) fn mixed<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        parse: impl Fn(&str) -> Result<T, Wrong>,
        read: impl Fn(Section<'a>) -> Option<T>,
    ) -> Vec<T> {
        let Some(Node { value: Value::List(items), .. }) = self.node(key) else {
            return self.list(key, default, parse);
        };
        let item = |(at, item): (usize, &'a Node)| match item.value {
            Value::Map(_) => read(self.item(key, at, item)),
            _ => self.scalar(key, item, &parse),
        };
        items.iter().enumerate().filter_map(item).collect()
    }

    /// The sections of a list; none when it is absent or no list. An item that is no section is reported.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let items = match &node.value {
            Value::Null | Value::Unknown => return Vec::new(),
            Value::List(items) => items,
            value => {
                let hint = "write one `- {key: value}` line below it for each";
                self.push(Some(&node.origin), Some(key), Wrong::new(format!("is {}, not a list", kind(value)), hint));
                return Vec::new();
            }
        };
        let section = |(at, item): (usize, &'a Node)| {
            if !matches!(item.value, Value::Map(_) | Value::Unknown) {
                let wrong = Wrong::new(format!("has {}, not a section", kind(&item.value)), "write `{key: value}`");
                self.push(Some(&item.origin), Some(key), wrong);
            }
            matches!(item.value, Value::Map(_)).then(|| self.item(key, at, item))
        };
        items.iter().enumerate().filter_map(section).collect()
    }

    /// The section that is the item number `at` of a list, from 0.
    fn item(&self, key: &str, at: usize, item: &'a Node) -> Section<'a> {
        Section::of(format!("{}[{at}]", self.path_to(key)), Some(&item.origin), Some(item), self.report)
    }

    /// Reports keys that have no meaning here.
    pub(super) fn refuse(&mut self, keys: &[&'static str], message: &str, hint: &str) {
        for key in keys {
            if let Some(entry) = self.entries.iter().find(|entry| entry.key == *key) {
                self.refused.push(key);
                self.push(Some(&entry.origin), Some(key), Wrong::new(message, hint));
            }
        }
    }

    /// The node under `key`, which counts as asked for.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// Whether the file has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Whether the key is there as a list of nothing.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        let value = self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node.value);
        matches!(value, Some(Value::Null)) || matches!(value, Some(Value::List(items)) if items.is_empty())
    }

    /// What `parse` makes of a node that must be one value.
    pub(super) fn scalar<T>(&self, key: &str, node: &Node, parse: impl Fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let message = match &node.value {
            Value::Text(text) => return self.ok(key, node, parse(text)),
            Value::Unknown => return None,
            Value::Null => "is empty".to_owned(),
            value => format!("is {}, not one value", kind(value)),
        };
        // What a parser says of nothing is what it would like to have.
        match parse("") {
            Ok(nothing) if node.value == Value::Null => Some(nothing),
            Ok(_) => self.ok(key, node, Err(Wrong::new(message, "write one value"))),
            Err(Wrong { hint, .. }) => self.ok(key, node, Err(Wrong::new(message, hint))),
        }
    }

    /// Adds a problem of a field, at its value where it has one.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.push(self.place(key), Some(key), Wrong::new(message, hint));
    }

    /// Adds a warning of a field.
    pub(super) fn warning(&self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        let problem = Problem::new(message, hint).of(self.path_to(key)).at(self.place(key));
        self.report.borrow_mut().warnings.push(problem);
    }

    /// Adds a problem of the section itself.
    pub(super) fn fault(&self, wrong: Wrong) {
        self.push(self.origin, None, wrong);
    }

    fn place(&self, key: &str) -> Option<&'a Origin> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node.origin).or(self.origin)
    }

    fn ok<T>(&self, key: &str, node: &Node, result: Result<T, Wrong>) -> Option<T> {
        result.map_err(|wrong| self.push(Some(&node.origin), Some(key), wrong)).ok()
    }

    fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn path_to(&self, key: &str) -> String {
        let key = key.escape_debug();
        if self.field.is_empty() { key.to_string() } else { format!("{}.{key}", self.field) }
    }

    fn push(&self, origin: Option<&Origin>, key: Option<&str>, wrong: Wrong) {
        let field = key.map_or_else(|| self.field.clone(), |key| self.path_to(key));
        let problem = Problem::new(wrong.message, wrong.hint).of(field).at(origin);
        self.report.borrow_mut().problems.push(problem);
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let asked = |key: &str| self.known.contains(&key) || self.refused.contains(&key);
        for entry in self.entries.iter().filter(|entry| !asked(&entry.key)) {
            let hint = meant(&entry.key, &self.known);
            self.push(Some(&entry.origin), Some(&entry.key), Wrong::new("is not a known key", hint));
        }
    }
}

/// `did you mean …`, or all there is to choose from.
pub(super) fn meant(word: &str, known: &[&str]) -> String {
    let distance = |other: &str| strsim::damerau_levenshtein(&word.to_lowercase(), other);
    let nearest = known.iter().map(|other| (distance(other), other)).min();
    match nearest {
        Some((far, other)) if word.len() < 64 && far <= 1 + other.len() / 4 => format!("did you mean `{other}`?"),
        _ if known.is_empty() => "delete it".into(),
        _ => format!("known are {}", known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// What a value is, for a message.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null | Value::Unknown => "nothing".into(),
        Value::Text(text) => format!("the value {}", shown(text)),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a section".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::meaning::values::{count, duration};
    use crate::config::yaml::parse;
    use std::time::Duration;

    fn problems(yaml: &str, read: impl FnOnce(&mut Section<'_>)) -> Vec<String> {
        let node = parse(yaml.as_bytes(), &mut Vec::new()).expect("yaml");
        let report = RefCell::new(Report::default());
        read(&mut Section::root(&node, &report));
        report.into_inner().problems.iter().map(|problem| problem.in_file("f")).collect()
    }

    #[test]
    fn unknown_keys_are_reported_with_what_was_meant() {
        let read = |section: &mut Section<'_>| {
            let mut workers = section.section("workers");
            assert_eq!(workers.read("count", 5, count(0, 9)), 5);
            workers.read("concurrency", 1, count(0, 9));
        };
        assert_eq!(
            problems("workers: {cuont: 3, colour: red}\nother: 1\n", read),
            [
                "f:1:11: workers.cuont: is not a known key: did you mean `count`?",
                "f:1:21: workers.colour: is not a known key: known are `count`, `concurrency`",
                "f:2:1: other: is not a known key: known are `workers`",
            ]
        );
    }

    #[test]
    fn wrong_kinds_say_what_belongs_there() {
        let read = |section: &mut Section<'_>| {
            section.read("a", Duration::ZERO, duration(0, 60));
            section.read("b", Duration::ZERO, duration(0, 60));
            section.list("c", vec![], count(0, 9));
            section.section("d");
        };
        assert_eq!(
            problems("a: [1s]\nb:\nc: 5\nd: 5\n", read),
            [
                "f:1:4: a: is a list, not one value: write a duration such as `10s`, `1h30m` or `500ms`",
                "f:2:2: b: is empty: write a duration such as `10s`, `1h30m` or `500ms`",
                "f:3:4: c: is the value `5`, not a list: write `[5]`",
                "f:4:4: d: is the value `5`, not a section: write `key: value` lines below it",
            ]
        );
    }

    #[test]
    fn lists_of_sections_name_the_item() {
        let read = |section: &mut Section<'_>| {
            for mut item in section.sections("a") {
                assert_eq!(item.read("n", 0, count(1, 9)), 7);
            }
            assert!(section.sections("b").is_empty() && section.sections("absent").is_empty());
            let item = |mut item: Section<'_>| item.require("n", "write one", count(1, 9));
            assert_eq!(section.mixed("c", vec![], count(1, 9), item), [1, 2]);
            assert_eq!(section.mixed("d", vec![4], count(1, 9), item), [4]);
        };
        assert_eq!(
            problems("a: [{n: 7, m: 1}, 5]\nb: {n: 1}\nc: [1, {n: 2}, {}, [3]]\nd: 5\n", read),
            [
                "f:1:19: a: has the value `5`, not a section: write `{key: value}`",
                "f:1:12: a[0].m: is not a known key: did you mean `n`?",
                "f:2:4: b: is a section, not a list: write one `- {key: value}` line below it for each",
                "f:3:16: c[2].n: is missing: write one",
                "f:3:20: c: is a list, not one value: write a whole number from 1 to 9",
                "f:4:4: d: is the value `5`, not a list: write `[5]`",
            ]
        );
    }
}
