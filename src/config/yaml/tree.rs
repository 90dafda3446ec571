//! The tree of a YAML document: each key and value with its line and column.

use saphyr_parser::Marker;

use crate::config::diagnostics::ValueOrigin;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct YamlNode {
    pub(crate) origin: ValueOrigin,
    pub(crate) value: YamlValue,
}

/// A scalar, a list or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum YamlValue {
    /// `~`, `null`, or nothing at all.
    Null,
    /// What has no meaning, which was reported already.
    Invalid,
    Text(String),
    List(Vec<YamlNode>),
    Map(Vec<YamlEntry>),
}

/// One key of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct YamlEntry {
    pub(crate) key: String,
    pub(crate) origin: ValueOrigin,
    pub(crate) node: YamlNode,
}

impl YamlNode {
    /// The node under `key`; none when this is no map or has no such key.
    pub(crate) fn get(&self, key: &str) -> Option<&YamlNode> {
        let YamlValue::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The node at the end of `path`.
    pub(crate) fn find_path(&self, path: &[&str]) -> Option<&YamlNode> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }
}

/// The place that a marker of the parser names.
pub(super) fn origin_of_marker(marker: Marker) -> ValueOrigin {
    ValueOrigin::InFile { line: marker.line(), column: marker.col() + 1 }
}
