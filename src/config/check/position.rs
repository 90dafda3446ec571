//! Positions in the file of the keys that a check reports.

use crate::config::diagnostics::{ConfigProblem, ValueOrigin};
use crate::config::yaml::YamlNode;

/// The position of a key, or of the nearest section above it that the file has.
pub(crate) fn find_origin<'n>(root: &'n YamlNode, path: &[&str]) -> Option<&'n ValueOrigin> {
    (1..=path.len())
        .rev()
        .find_map(|length| root.find_path(&path[..length]))
        .map(|node| &node.origin)
}

/// A problem of the key at `path`, with the position of the key.
pub(crate) fn problem_at_path(
    root: &YamlNode,
    path: &[&str],
    message: impl Into<String>,
    hint: &str,
) -> ConfigProblem {
    ConfigProblem::new(message, hint)
        .with_field(path.join("."))
        .with_origin(find_origin(root, path))
}
