//! Parser events → the tree, bounded in depth and in size.
//!
//! An alias is a copy of its anchor's node, paid for like any other: cost and height are known of every
//! anchored node before it is copied, so a bomb is refused without being built.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, ScalarStyle, ScanError, Tag};

use super::{Entry, Node, Value, origin, unmask};
use crate::config::problem::{Origin, Problem, shown};

/// The deepest nesting, aliases followed.
const MAX_DEPTH: usize = 64;
/// The most memory that a tree may take, roughly, in bytes.
const MAX_COST: usize = 16 << 20;
/// What a node costs beside its text.
const NODE_COST: usize = 64;

/// A list or map whose end has not come yet.
struct Open {
    origin: Origin,
    anchor: usize,
    /// Levels of nodes below it.
    height: usize,
    /// The cost of the tree when it began.
    cost_before: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        /// Where each key was written first.
        seen: HashMap<String, Origin>,
        key: Option<(String, Origin)>,
    },
}

/// What an alias copies.
struct Anchored {
    node: Node,
    height: usize,
    cost: usize,
}

/// Why the reading ends.
pub(super) struct Fault {
    marker: Marker,
    message: String,
    hint: &'static str,
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Problem::new(fault.message, fault.hint).at(Some(&origin(fault.marker)))
    }
}

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Self {
        let message = format!("is not readable as YAML: {}", error.info());
        let hint = match error.info() {
            info if info.contains("flow mapping") => {
                "mend it there or before; a value with braces needs quotes, such as `path: \"/echo/{x}\"`"
            }
            _ => "mend it there, or in the line before",
        };
        Fault { marker: *error.marker(), message, hint }
    }
}

/// The tree so far.
pub(super) struct Builder<'p> {
    pub(super) problems: &'p mut Vec<Problem>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    cost: usize,
    documents: usize,
    root: Option<Node>,
}

impl<'p> Builder<'p> {
    /// Nothing so far; keys that are refused go to `problems`.
    pub(super) fn new(problems: &'p mut Vec<Problem>) -> Self {
        Self { problems, stack: Vec::new(), anchors: HashMap::new(), cost: 0, documents: 0, root: None }
    }

    /// The document; none when there was nothing in it.
    pub(super) fn finish(self) -> Option<Node> {
        self.root
    }

    /// Takes one event; an error ends the reading.
    pub(super) fn step(&mut self, event: Event<'_>, marker: Marker) -> Result<(), Fault> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(fault(marker, "is a second document", "keep one: delete from `---` on"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), marker);
                let node = Node { origin: origin(marker), value: scalar(&text, style) };
                self.spend(NODE_COST + text.len(), marker)?;
                self.add(node, 0, anchor, NODE_COST + text.len(), marker)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), marker);
                self.open(Inside::List(Vec::new()), anchor, marker)
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), marker);
                self.open(Inside::Map { entries: Vec::new(), seen: HashMap::new(), key: None }, anchor, marker)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(marker),
            Event::Alias(anchor) => self.alias(anchor, marker),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, marker: Marker) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            let message = format!("has the tag {}", shown(&tag.to_string()));
            self.problems.push(fault(marker, &message, "delete the tag").into());
        }
    }

    fn open(&mut self, inside: Inside, anchor: usize, marker: Marker) -> Result<(), Fault> {
        check_depth(self.stack.len() + 1, marker)?;
        let cost_before = self.cost;
        self.spend(NODE_COST, marker)?;
        self.stack.push(Open { origin: origin(marker), anchor, height: 0, cost_before, inside });
        Ok(())
    }

    fn close(&mut self, marker: Marker) -> Result<(), Fault> {
        let Some(Open { origin, anchor, height, cost_before, inside }) = self.stack.pop() else { return Ok(()) };
        let value = match inside {
            Inside::List(nodes) => Value::List(nodes),
            Inside::Map { entries, .. } => Value::Map(entries),
        };
        self.add(Node { origin, value }, height, anchor, self.cost - cost_before, marker)
    }

    fn alias(&mut self, anchor: usize, marker: Marker) -> Result<(), Fault> {
        // An anchor is known once its node has ended.
        let Some(&Anchored { ref node, height, cost }) = self.anchors.get(&anchor) else {
            return Err(fault(marker, "is an alias inside its own anchor", "write the value out"));
        };
        check_depth(self.stack.len() + height, marker)?;
        check_cost(self.cost + cost, marker)?;
        let node = node.clone();
        self.cost += cost;
        self.add(node, height, 0, cost, marker)
    }

    fn spend(&mut self, cost: usize, marker: Marker) -> Result<(), Fault> {
        self.cost += cost;
        check_cost(self.cost, marker)
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, node: Node, height: usize, anchor: usize, cost: usize, marker: Marker) -> Result<(), Fault> {
        if anchor != 0 {
            self.spend(cost, marker)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), height, cost });
        }
        let Some(parent) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.height = parent.height.max(height + 1);
        match &mut parent.inside {
            Inside::List(nodes) => nodes.push(node),
            Inside::Map { entries, seen, key } => match key.take() {
                None => *key = Some(key_of(node, marker)?),
                Some((key, at)) => match refused(&key, &at, seen) {
                    None => entries.push(Entry { key, origin: at, node }),
                    Some(problem) => {
                        let field = self.path_to(&key);
                        self.problems.push(problem.of(field));
                    }
                },
            },
        }
        Ok(())
    }

    /// The path of `key` in the map that is being read.
    fn path_to(&self, key: &str) -> String {
        let parents = self.stack.iter().filter_map(|open| match &open.inside {
            Inside::Map { key: Some((key, _)), .. } => Some(key.as_str()),
            _ => None,
        });
        parents.chain([key]).map(|key| key.escape_debug().to_string()).collect::<Vec<_>>().join(".")
    }
}

fn fault(marker: Marker, message: &str, hint: &'static str) -> Fault {
    Fault { marker, message: message.into(), hint }
}

fn check_depth(depth: usize, marker: Marker) -> Result<(), Fault> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(fault(marker, &format!("is nested more than {MAX_DEPTH} deep"), "a configuration needs 6 levels"))
}

fn check_cost(cost: usize, marker: Marker) -> Result<(), Fault> {
    if cost <= MAX_COST {
        return Ok(());
    }
    Err(fault(marker, "makes the file grow beyond 16 MiB", "use fewer aliases"))
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Text(unmask(text))
}

fn key_of(node: Node, marker: Marker) -> Result<(String, Origin), Fault> {
    match node.value {
        Value::Text(key) => Ok((key, node.origin)),
        _ => Err(fault(marker, "is a key that is not a text", "put text that begins with `{` or `[` into quotes")),
    }
}

/// Why an entry is not kept; else remembers its key.
fn refused(key: &str, at: &Origin, seen: &mut HashMap<String, Origin>) -> Option<Problem> {
    if key == "<<" {
        return Some(Problem::new("merge keys are not read", "write the keys out").at(Some(at)));
    }
    let Some(first) = seen.get(key) else {
        seen.insert(key.to_owned(), at.clone());
        return None;
    };
    let line = |origin: &Origin| if let Origin::At { line, .. } = origin { *line } else { 0 };
    let message = format!("is set twice, in line {} and in line {}", line(first), line(at));
    Some(Problem::new(message, "keep one of them").at(Some(at)))
}
