//! A section of the file: reads fields by key, each with the parser of its type.
//!
//! An absent field has its default. An invalid field is reported and has its default too, so that
//! parsing goes on and finds further problems. The section records which keys were requested and,
//! when it is dropped, reports all other keys as unknown, so that no parser has to check for them.

use std::cell::RefCell;

use crate::config::diagnostics::{
    ConfigDiagnostics, ConfigProblem, ValueOrigin, quote_for_message,
};
use crate::config::parse::field_error::{FieldError, suggest};
use crate::config::yaml::{YamlEntry, YamlNode, YamlValue};

/// A section, possibly absent from the file.
pub(crate) struct ConfigSection<'a> {
    /// The path of the section's key; empty for the whole file.
    field_path: String,
    origin: Option<&'a ValueOrigin>,
    entries: &'a [YamlEntry],
    /// Keys that a parser has requested, present or not.
    requested_keys: Vec<&'static str>,
    /// Keys that `refuse_keys` has reported; they are not reported again as unknown.
    refused_keys: Vec<&'static str>,
    report: &'a RefCell<ConfigDiagnostics>,
}

impl<'a> ConfigSection<'a> {
    /// The section that is the whole file.
    pub(crate) fn from_root(node: &'a YamlNode, report: &'a RefCell<ConfigDiagnostics>) -> Self {
        Self::from_node(String::new(), None, Some(node), report)
    }

    fn from_node(
        field: String,
        origin: Option<&'a ValueOrigin>,
        node: Option<&'a YamlNode>,
        report: &'a RefCell<ConfigDiagnostics>,
    ) -> Self {
        let mut section = Self {
            field_path: field,
            origin,
            entries: &[],
            requested_keys: Vec::new(),
            refused_keys: Vec::new(),
            report,
        };
        match node.map(|node| (&node.value, &node.origin)) {
            None | Some((YamlValue::Null | YamlValue::Invalid, _)) => {}
            Some((YamlValue::Map(entries), _)) => section.entries = entries,
            Some((value, origin)) => {
                let wrong = FieldError::new(
                    format!("is {}, not a section", describe_value(value)),
                    "write `key: value` lines below it",
                );
                section.push_problem(Some(origin), None, wrong);
            }
        }
        section
    }

    /// The section at `key`; an empty one when the file does not have it.
    pub(crate) fn subsection(&mut self, key: &'static str) -> ConfigSection<'a> {
        let entry = self.find_entry(key);
        ConfigSection::from_node(
            self.path_of_key(key),
            entry.map(|entry| &entry.origin),
            entry.map(|entry| &entry.node),
            self.report,
        )
    }

    /// The entries of a map whose keys the operator chooses, such as `routes`: each key with its
    /// section.
    pub(crate) fn keyed_sections(
        &mut self,
        key: &'static str,
    ) -> Vec<(&'a str, ConfigSection<'a>)> {
        let mut all = self.subsection(key);
        let entries = std::mem::take(&mut all.entries);
        let keyed_section = |entry: &'a YamlEntry| {
            let field = all.path_of_key(&entry.key);
            (
                entry.key.as_str(),
                ConfigSection::from_node(
                    field,
                    Some(&entry.origin),
                    Some(&entry.node),
                    self.report,
                ),
            )
        };
        entries.iter().map(keyed_section).collect()
    }

    /// The field, or `default` when it is absent or invalid.
    pub(crate) fn read_or_default<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl Fn(&str) -> Result<T, FieldError>,
    ) -> T {
        self.read_optional(key, parse).unwrap_or(default)
    }

    /// The field; none when it is absent or invalid.
    pub(crate) fn read_optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        let node = self.find_node(key)?;
        self.parse_scalar(key, node, parse)
    }

    /// The field; none when it is absent or invalid. An absent field is a problem with this `hint`.
    pub(crate) fn read_required<T>(
        &mut self,
        key: &'static str,
        hint: &str,
        parse: impl Fn(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        if self.find_node(key).is_none() {
            self.push_problem(self.origin, Some(key), FieldError::new("is missing", hint));
        }
        self.read_optional(key, parse)
    }

    /// A list of scalars, or `default` when it is absent or no list. The text of an environment
    /// variable, which cannot hold a list, is split at commas.
    pub(crate) fn read_list<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        parse: impl Fn(&str) -> Result<T, FieldError>,
    ) -> Vec<T> {
        let Some(node) = self.find_node(key) else { return default };
        match (&node.value, &node.origin) {
            (YamlValue::Null, _) => Vec::new(),
            (YamlValue::Invalid, _) => default,
            (YamlValue::List(items), _) => {
                items.iter().filter_map(|item| self.parse_scalar(key, item, &parse)).collect()
            }
            (YamlValue::Text(text), ValueOrigin::FromVariable(_)) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.filter_map(|item| self.value_or_report(key, node, parse(item))).collect()
            }
            (value, _) => {
                let words = if let YamlValue::Text(text) = value {
                    text.split_whitespace().collect()
                } else {
                    vec!["…"]
                };
                let hint =
                    format!("write {}", quote_for_message(&format!("[{}]", words.join(", "))));
                let wrong =
                    FieldError::new(format!("is {}, not a list", describe_value(value)), hint);
                self.push_problem(Some(&node.origin), Some(key), wrong);
                default
            }
        }
    }

    /// A list of scalars or sections, or `default` when it is absent or no list.
    pub(crate) fn read_mixed_list<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        parse: impl Fn(&str) -> Result<T, FieldError>,
        read: impl Fn(ConfigSection<'a>) -> Option<T>,
    ) -> Vec<T> {
        let Some(YamlNode { value: YamlValue::List(items), .. }) = self.find_node(key) else {
            return self.read_list(key, default, parse);
        };
        let item = |(at, item): (usize, &'a YamlNode)| match item.value {
            YamlValue::Map(_) => read(self.item_section(key, at, item)),
            _ => self.parse_scalar(key, item, &parse),
        };
        items.iter().enumerate().filter_map(item).collect()
    }

    /// The sections of a list; empty when it is absent or no list. An item that is no section is
    /// reported and left out.
    pub(crate) fn read_sections(&mut self, key: &'static str) -> Vec<ConfigSection<'a>> {
        let Some(node) = self.find_node(key) else { return Vec::new() };
        let items = match &node.value {
            YamlValue::Null | YamlValue::Invalid => return Vec::new(),
            YamlValue::List(items) => items,
            value => {
                let hint = "write one `- {key: value}` line below it for each";
                self.push_problem(
                    Some(&node.origin),
                    Some(key),
                    FieldError::new(format!("is {}, not a list", describe_value(value)), hint),
                );
                return Vec::new();
            }
        };
        let section = |(at, item): (usize, &'a YamlNode)| {
            if !matches!(item.value, YamlValue::Map(_) | YamlValue::Invalid) {
                let wrong = FieldError::new(
                    format!("has {}, not a section", describe_value(&item.value)),
                    "write `{key: value}`",
                );
                self.push_problem(Some(&item.origin), Some(key), wrong);
            }
            matches!(item.value, YamlValue::Map(_)).then(|| self.item_section(key, at, item))
        };
        items.iter().enumerate().filter_map(section).collect()
    }

    /// The section that is item `at` of a list, counted from 0.
    fn item_section(&self, key: &str, at: usize, item: &'a YamlNode) -> ConfigSection<'a> {
        ConfigSection::from_node(
            format!("{}[{at}]", self.path_of_key(key)),
            Some(&item.origin),
            Some(item),
            self.report,
        )
    }

    /// Reports each of `keys` that the section has, with `message` instead of the message for
    /// unknown keys.
    pub(crate) fn refuse_keys(&mut self, keys: &[&'static str], message: &str, hint: &str) {
        for key in keys {
            if let Some(entry) = self.entries.iter().find(|entry| entry.key == *key) {
                self.refused_keys.push(key);
                self.push_problem(Some(&entry.origin), Some(key), FieldError::new(message, hint));
            }
        }
    }

    /// The node at `key`; records the key as requested.
    pub(crate) fn find_node(&mut self, key: &'static str) -> Option<&'a YamlNode> {
        self.find_entry(key).map(|entry| &entry.node)
    }

    /// Whether the section has the key; does not record it as requested.
    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Whether the section has the key with an empty list or without a value.
    pub(crate) fn is_empty_list(&self, key: &str) -> bool {
        let value =
            self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node.value);
        matches!(value, Some(YamlValue::Null))
            || matches!(value, Some(YamlValue::List(items)) if items.is_empty())
    }

    /// Parses a node that must be a single value; none when it is invalid, which is reported.
    pub(crate) fn parse_scalar<T>(
        &self,
        key: &str,
        node: &YamlNode,
        parse: impl Fn(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        let message = match &node.value {
            YamlValue::Text(text) => return self.value_or_report(key, node, parse(text)),
            YamlValue::Invalid => return None,
            YamlValue::Null => "is empty".to_owned(),
            value => format!("is {}, not one value", describe_value(value)),
        };
        // A parser's hint for an empty text describes the values that it accepts.
        match parse("") {
            Ok(empty) if node.value == YamlValue::Null => Some(empty),
            Ok(_) => {
                self.value_or_report(key, node, Err(FieldError::new(message, "write one value")))
            }
            Err(FieldError { hint, .. }) => {
                self.value_or_report(key, node, Err(FieldError::new(message, hint)))
            }
        }
    }

    /// Adds a problem of a field, at the position of its value, or of the section when the field is
    /// absent.
    pub(crate) fn add_problem(
        &self,
        key: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push_problem(self.find_origin(key), Some(key), FieldError::new(message, hint));
    }

    /// Adds a warning of a field, at the same position as [`Self::add_problem`].
    pub(crate) fn add_warning(
        &self,
        key: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let problem = ConfigProblem::new(message, hint)
            .with_field(self.path_of_key(key))
            .with_origin(self.find_origin(key));
        self.report.borrow_mut().warnings.push(problem);
    }

    /// Adds a problem of the section itself.
    pub(crate) fn add_section_problem(&self, wrong: FieldError) {
        self.push_problem(self.origin, None, wrong);
    }

    fn find_origin(&self, key: &str) -> Option<&'a ValueOrigin> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node.origin)
            .or(self.origin)
    }

    fn value_or_report<T>(
        &self,
        key: &str,
        node: &YamlNode,
        result: Result<T, FieldError>,
    ) -> Option<T> {
        result.map_err(|wrong| self.push_problem(Some(&node.origin), Some(key), wrong)).ok()
    }

    fn find_entry(&mut self, key: &'static str) -> Option<&'a YamlEntry> {
        if !self.requested_keys.contains(&key) {
            self.requested_keys.push(key);
        }
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn path_of_key(&self, key: &str) -> String {
        let key = key.escape_debug();
        if self.field_path.is_empty() {
            key.to_string()
        } else {
            format!("{}.{key}", self.field_path)
        }
    }

    fn push_problem(&self, origin: Option<&ValueOrigin>, key: Option<&str>, wrong: FieldError) {
        let field = key.map_or_else(|| self.field_path.clone(), |key| self.path_of_key(key));
        let problem =
            ConfigProblem::new(wrong.message, wrong.hint).with_field(field).with_origin(origin);
        self.report.borrow_mut().problems.push(problem);
    }
}

impl Drop for ConfigSection<'_> {
    fn drop(&mut self) {
        let is_known =
            |key: &str| self.requested_keys.contains(&key) || self.refused_keys.contains(&key);
        for entry in self.entries.iter().filter(|entry| !is_known(&entry.key)) {
            let hint = suggest(&entry.key, &self.requested_keys);
            self.push_problem(
                Some(&entry.origin),
                Some(&entry.key),
                FieldError::new("is not a known key", hint),
            );
        }
    }
}

/// The kind of a value for a message, such as `a list`.
pub(crate) fn describe_value(value: &YamlValue) -> String {
    match value {
        YamlValue::Null | YamlValue::Invalid => "nothing".into(),
        YamlValue::Text(text) => format!("the value {}", quote_for_message(text)),
        YamlValue::List(_) => "a list".into(),
        YamlValue::Map(_) => "a section".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::parse::scalars::{count_between, duration_between};
    use crate::config::yaml::parse_document;

    fn collect_problems(yaml: &str, read: impl FnOnce(&mut ConfigSection<'_>)) -> Vec<String> {
        let node = parse_document(yaml.as_bytes(), &mut Vec::new()).expect("yaml");
        let report = RefCell::new(ConfigDiagnostics::default());
        read(&mut ConfigSection::from_root(&node, &report));
        report.into_inner().problems.iter().map(|problem| problem.render_line("f")).collect()
    }

    #[test]
    fn unknown_keys_are_reported_with_a_suggestion() {
        let read = |section: &mut ConfigSection<'_>| {
            let mut workers = section.subsection("workers");
            assert_eq!(workers.read_or_default("count", 5, count_between(0, 9)), 5);
            workers.read_or_default("concurrency", 1, count_between(0, 9));
        };
        assert_eq!(
            collect_problems("workers: {cuont: 3, colour: red}\nother: 1\n", read),
            [
                "f:1:11: workers.cuont: is not a known key: did you mean `count`?",
                "f:1:21: workers.colour: is not a known key: known are `count`, `concurrency`",
                "f:2:1: other: is not a known key: known are `workers`",
            ]
        );
    }

    #[test]
    fn a_value_of_the_wrong_kind_has_a_hint() {
        let read = |section: &mut ConfigSection<'_>| {
            section.read_or_default("a", Duration::ZERO, duration_between(0, 60));
            section.read_or_default("b", Duration::ZERO, duration_between(0, 60));
            section.read_list("c", vec![], count_between(0, 9));
            section.subsection("d");
        };
        assert_eq!(
            collect_problems("a: [1s]\nb:\nc: 5\nd: 5\n", read),
            [
                "f:1:4: a: is a list, not one value: write a duration such as `10s`, `1h30m` or \
                    `500ms`",
                "f:2:2: b: is empty: write a duration such as `10s`, `1h30m` or `500ms`",
                "f:3:4: c: is the value `5`, not a list: write `[5]`",
                "f:4:4: d: is the value `5`, not a section: write `key: value` lines below it",
            ]
        );
    }

    #[test]
    fn lists_of_sections_name_the_item() {
        let read = |section: &mut ConfigSection<'_>| {
            for mut item in section.read_sections("a") {
                assert_eq!(item.read_or_default("n", 0, count_between(1, 9)), 7);
            }
            assert!(
                section.read_sections("b").is_empty() && section.read_sections("absent").is_empty()
            );
            let item = |mut item: ConfigSection<'_>| {
                item.read_required("n", "write one", count_between(1, 9))
            };
            assert_eq!(section.read_mixed_list("c", vec![], count_between(1, 9), item), [1, 2]);
            assert_eq!(section.read_mixed_list("d", vec![4], count_between(1, 9), item), [4]);
        };
        assert_eq!(
            collect_problems(
                "a: [{n: 7, m: 1}, 5]\nb: {n: 1}\nc: [1, {n: 2}, {}, [3]]\nd: 5\n",
                read
            ),
            [
                "f:1:19: a: has the value `5`, not a section: write `{key: value}`",
                "f:1:12: a[0].m: is not a known key: did you mean `n`?",
                "f:2:4: b: is a section, not a list: write one `- {key: value}` line below it for \
                    each",
                "f:3:16: c[2].n: is missing: write one",
                "f:3:20: c: is a list, not one value: write a whole number from 1 to 9",
                "f:4:4: d: is the value `5`, not a list: write `[5]`",
            ]
        );
    }
}
