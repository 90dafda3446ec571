//! The tree of a YAML document: each key and value with its position.

use saphyr_parser::Marker;

use crate::config::diagnostics::ValueOrigin;

/// A value with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct YamlNode {
    pub(crate) origin: ValueOrigin,
    pub(crate) value: YamlValue,
}

/// A scalar, a list or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum YamlValue {
    /// `~`, `null`, or no value.
    Null,
    /// A value with a problem that has been reported already.
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
    /// The node at `key`; none when this node is no map or has no such key.
    pub(crate) fn get(&self, key: &str) -> Option<&YamlNode> {
        let YamlValue::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The node at the end of a path of keys.
    pub(crate) fn find_path(&self, path: &[&str]) -> Option<&YamlNode> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }
}

/// The position of a marker of the YAML parser.
pub(super) fn origin_of_marker(marker: Marker) -> ValueOrigin {
    ValueOrigin::InFile { line: marker.line(), column: marker.col() + 1 }
}
