//! Builds the tree from the events of the YAML parser, with limits on depth and memory.
//!
//! An alias copies the node of its anchor, and the copy counts toward both limits. Height and cost
//! of every anchored node are stored, so that an alias that would exceed a limit is refused before
//! its node is copied.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, ScalarStyle, ScanError, Tag};

use super::mask::unmask_text;
use super::tree::{YamlEntry, YamlNode, YamlValue, origin_of_marker};
use crate::config::diagnostics::{ConfigProblem, ValueOrigin, quote_for_message};

/// The deepest nesting, with aliases replaced by their nodes.
const MAX_DEPTH: usize = 64;
/// The estimated memory that a tree may take, in bytes.
const MAX_TREE_COST: usize = 16 << 20;
/// The estimated memory of a node without its text, in bytes.
const NODE_COST: usize = 64;

/// A list or map whose end event has not been read yet.
struct OpenCollection {
    origin: ValueOrigin,
    anchor: usize,
    /// The number of levels of nodes below the collection.
    height: usize,
    /// The cost of the whole tree before the collection was opened.
    cost_before: usize,
    content: CollectionContent,
}

enum CollectionContent {
    List(Vec<YamlNode>),
    Map {
        entries: Vec<YamlEntry>,
        /// The position at which each key was first written.
        key_origins: HashMap<String, ValueOrigin>,
        pending_key: Option<(String, ValueOrigin)>,
    },
}

/// A node that aliases can copy.
struct AnchoredNode {
    node: YamlNode,
    height: usize,
    cost: usize,
}

/// A problem after which the document cannot be read further.
pub(super) struct YamlFault {
    marker: Marker,
    message: String,
    hint: &'static str,
}

impl From<YamlFault> for ConfigProblem {
    fn from(fault: YamlFault) -> Self {
        ConfigProblem::new(fault.message, fault.hint)
            .with_origin(Some(&origin_of_marker(fault.marker)))
    }
}

impl From<ScanError> for YamlFault {
    fn from(error: ScanError) -> Self {
        let message = format!("is not readable as YAML: {}", error.info());
        let hint = match error.info() {
            info if info.contains("flow mapping") => {
                "mend it there or before; a value with braces needs quotes, such as `path: \
                    \"/echo/{x}\"`"
            }
            _ => "mend it there, or in the line before",
        };
        YamlFault { marker: *error.marker(), message, hint }
    }
}

/// Builds the tree from one event after the other.
pub(super) struct YamlTreeBuilder<'p> {
    pub(super) problems: &'p mut Vec<ConfigProblem>,
    open_collections: Vec<OpenCollection>,
    anchors: HashMap<usize, AnchoredNode>,
    cost_so_far: usize,
    document_count: usize,
    root: Option<YamlNode>,
}

impl<'p> YamlTreeBuilder<'p> {
    /// A builder of an empty document; refused keys and tags are reported to `problems`.
    pub(super) fn new(problems: &'p mut Vec<ConfigProblem>) -> Self {
        Self {
            problems,
            open_collections: Vec::new(),
            anchors: HashMap::new(),
            cost_so_far: 0,
            document_count: 0,
            root: None,
        }
    }

    /// The root of the document; none for an empty document.
    pub(super) fn finish(self) -> Option<YamlNode> {
        self.root
    }

    /// Adds one event of the parser to the tree.
    pub(super) fn handle_event(
        &mut self,
        event: Event<'_>,
        marker: Marker,
    ) -> Result<(), YamlFault> {
        match event {
            Event::DocumentStart(_) => {
                self.document_count += 1;
                if self.document_count > 1 {
                    return Err(yaml_fault(
                        marker,
                        "is a second document",
                        "keep one: delete from `---` on",
                    ));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), marker);
                let node = YamlNode {
                    origin: origin_of_marker(marker),
                    value: parse_scalar(&text, style),
                };
                self.add_cost(NODE_COST + text.len(), marker)?;
                self.attach_node(node, 0, anchor, NODE_COST + text.len(), marker)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), marker);
                self.open_collection(CollectionContent::List(Vec::new()), anchor, marker)
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), marker);
                self.open_collection(
                    CollectionContent::Map {
                        entries: Vec::new(),
                        key_origins: HashMap::new(),
                        pending_key: None,
                    },
                    anchor,
                    marker,
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.close_collection(marker),
            Event::Alias(anchor) => self.copy_alias(anchor, marker),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, marker: Marker) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            let message = format!("has the tag {}", quote_for_message(&tag.to_string()));
            self.problems.push(yaml_fault(marker, &message, "delete the tag").into());
        }
    }

    fn open_collection(
        &mut self,
        content: CollectionContent,
        anchor: usize,
        marker: Marker,
    ) -> Result<(), YamlFault> {
        check_depth(self.open_collections.len() + 1, marker)?;
        let cost_before = self.cost_so_far;
        self.add_cost(NODE_COST, marker)?;
        self.open_collections.push(OpenCollection {
            origin: origin_of_marker(marker),
            anchor,
            height: 0,
            cost_before,
            content,
        });
        Ok(())
    }

    fn close_collection(&mut self, marker: Marker) -> Result<(), YamlFault> {
        let Some(OpenCollection { origin, anchor, height, cost_before, content }) =
            self.open_collections.pop()
        else {
            return Ok(());
        };
        let value = match content {
            CollectionContent::List(nodes) => YamlValue::List(nodes),
            CollectionContent::Map { entries, .. } => YamlValue::Map(entries),
        };
        self.attach_node(
            YamlNode { origin, value },
            height,
            anchor,
            self.cost_so_far - cost_before,
            marker,
        )
    }

    fn copy_alias(&mut self, anchor: usize, marker: Marker) -> Result<(), YamlFault> {
        // An anchor is registered when its node has ended, so that a node cannot contain itself.
        let Some(&AnchoredNode { ref node, height, cost }) = self.anchors.get(&anchor) else {
            return Err(yaml_fault(
                marker,
                "is an alias inside its own anchor",
                "write the value out",
            ));
        };
        check_depth(self.open_collections.len() + height, marker)?;
        check_cost(self.cost_so_far + cost, marker)?;
        let node = node.clone();
        self.cost_so_far += cost;
        self.attach_node(node, height, 0, cost, marker)
    }

    fn add_cost(&mut self, cost: usize, marker: Marker) -> Result<(), YamlFault> {
        self.cost_so_far += cost;
        check_cost(self.cost_so_far, marker)
    }

    /// Adds a finished node to the collection that is open, as an item, a key or a value; without
    /// an open collection the node is the root.
    fn attach_node(
        &mut self,
        node: YamlNode,
        height: usize,
        anchor: usize,
        cost: usize,
        marker: Marker,
    ) -> Result<(), YamlFault> {
        if anchor != 0 {
            self.add_cost(cost, marker)?;
            self.anchors.insert(anchor, AnchoredNode { node: node.clone(), height, cost });
        }
        let Some(parent) = self.open_collections.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.height = parent.height.max(height + 1);
        match &mut parent.content {
            CollectionContent::List(nodes) => nodes.push(node),
            CollectionContent::Map { entries, key_origins: seen, pending_key: key } => {
                match key.take() {
                    None => *key = Some(node_into_key(node, marker)?),
                    Some((key, at)) => match register_key(&key, &at, seen) {
                        None => entries.push(YamlEntry { key, origin: at, node }),
                        Some(problem) => {
                            let field = self.path_of_key(&key);
                            self.problems.push(problem.with_field(field));
                        }
                    },
                }
            }
        }
        Ok(())
    }

    /// The path of `key` in the map that is being read.
    fn path_of_key(&self, key: &str) -> String {
        let parents = self.open_collections.iter().filter_map(|open| match &open.content {
            CollectionContent::Map { pending_key: Some((key, _)), .. } => Some(key.as_str()),
            _ => None,
        });
        parents.chain([key]).map(|key| key.escape_debug().to_string()).collect::<Vec<_>>().join(".")
    }
}

fn yaml_fault(marker: Marker, message: &str, hint: &'static str) -> YamlFault {
    YamlFault { marker, message: message.into(), hint }
}

fn check_depth(depth: usize, marker: Marker) -> Result<(), YamlFault> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(yaml_fault(
        marker,
        &format!("is nested more than {MAX_DEPTH} deep"),
        "a configuration needs 6 levels",
    ))
}

fn check_cost(cost: usize, marker: Marker) -> Result<(), YamlFault> {
    if cost <= MAX_TREE_COST {
        return Ok(());
    }
    Err(yaml_fault(marker, "makes the file grow beyond 16 MiB", "use fewer aliases"))
}

fn parse_scalar(text: &str, style: ScalarStyle) -> YamlValue {
    if style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return YamlValue::Null;
    }
    YamlValue::Text(unmask_text(text))
}

fn node_into_key(node: YamlNode, marker: Marker) -> Result<(String, ValueOrigin), YamlFault> {
    match node.value {
        YamlValue::Text(key) => Ok((key, node.origin)),
        _ => Err(yaml_fault(
            marker,
            "is a key that is not a text",
            "put text that begins with `{` or `[` into quotes",
        )),
    }
}

/// Records the key of an entry. Returns a problem when the entry is refused: its key is a merge key
/// or has been written before.
fn register_key(
    key: &str,
    at: &ValueOrigin,
    seen: &mut HashMap<String, ValueOrigin>,
) -> Option<ConfigProblem> {
    if key == "<<" {
        return Some(
            ConfigProblem::new("merge keys are not read", "write the keys out")
                .with_origin(Some(at)),
        );
    }
    let Some(first) = seen.get(key) else {
        seen.insert(key.to_owned(), at.clone());
        return None;
    };
    let line = |origin: &ValueOrigin| {
        if let ValueOrigin::InFile { line, .. } = origin { *line } else { 0 }
    };
    let message = format!("is set twice, in line {} and in line {}", line(first), line(at));
    Some(ConfigProblem::new(message, "keep one of them").with_origin(Some(at)))
}
