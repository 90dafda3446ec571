//! No file imports another that leads back to it: the strongly connected components of the imports
//! are single files.

use std::collections::BTreeSet;

use super::source_tree::SourceTree;

#[test]
fn no_files_import_each_other_in_a_circle() {
    let tree = SourceTree::load();
    let edges: Vec<BTreeSet<usize>> =
        (0..tree.files.len()).map(|index| tree.used_by(index)).collect();
    assert!(edges.iter().map(BTreeSet::len).sum::<usize>() > 400, "the imports are not read");
    let circles: Vec<String> = strongly_connected(&edges)
        .into_iter()
        .filter(|component| component.len() > 1)
        .map(|component| {
            let names: Vec<&str> =
                component.iter().map(|index| tree.files[*index].path.as_str()).collect();
            format!("{} files in a circle: {}", names.len(), names.join(", "))
        })
        .collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn components_are_found() {
    let edges = [vec![1], vec![2], vec![0, 3], vec![4], vec![]];
    let edges: Vec<BTreeSet<usize>> = edges.into_iter().map(BTreeSet::from_iter).collect();
    let mut components = strongly_connected(&edges);
    components.sort();
    assert_eq!(components, [vec![0, 1, 2], vec![3], vec![4]]);
}

/// The strongly connected components of a graph, each sorted (Tarjan 1972).
fn strongly_connected(edges: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
    let mut search = Search {
        edges,
        order: vec![None; edges.len()],
        lowest: vec![0; edges.len()],
        stack: Vec::new(),
        next: 0,
        components: Vec::new(),
    };
    for node in 0..edges.len() {
        if search.order[node].is_none() {
            search.visit(node);
        }
    }
    search.components
}

struct Search<'a> {
    edges: &'a [BTreeSet<usize>],
    /// When a node was first visited.
    order: Vec<Option<usize>>,
    /// The earliest visit that is reachable from a node and still on the stack.
    lowest: Vec<usize>,
    stack: Vec<usize>,
    next: usize,
    components: Vec<Vec<usize>>,
}

impl Search<'_> {
    fn visit(&mut self, node: usize) {
        let order = self.next;
        (self.order[node], self.lowest[node], self.next) = (Some(order), order, order + 1);
        self.stack.push(node);
        for &next in &self.edges[node] {
            match self.order[next] {
                None => {
                    self.visit(next);
                    self.lowest[node] = self.lowest[node].min(self.lowest[next]);
                }
                Some(visited) if self.stack.contains(&next) => {
                    self.lowest[node] = self.lowest[node].min(visited);
                }
                Some(_) => {}
            }
        }
        if self.lowest[node] == order {
            let start = self.stack.iter().position(|&one| one == node).unwrap_or(0);
            let mut component = self.stack.split_off(start);
            component.sort_unstable();
            self.components.push(component);
        }
    }
}
