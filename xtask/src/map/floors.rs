//! A graph of modules: its floors, and its circles.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Display, Formatter, Write as _};

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

/// What one module uses of another: the items, each with the line of its first use.
type Used = BTreeMap<String, usize>;

#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: BTreeMap<String, NodeIndex>,
    graph: DiGraph<String, Used>,
}

/// Modules that use each other, directly or through others.
#[derive(Debug)]
pub(super) struct Circle<'a> {
    /// From, to, and what of it.
    uses: Vec<(&'a str, &'a str, &'a Used)>,
}

impl Graph {
    pub(super) fn add_module(&mut self, name: &str) {
        self.node(name);
    }

    fn node(&mut self, name: &str) -> NodeIndex {
        let graph = &mut self.graph;
        *self
            .nodes
            .entry(name.to_owned())
            .or_insert_with(|| graph.add_node(name.to_owned()))
    }

    /// `from` uses `item` of `to`.
    pub(super) fn add_use(&mut self, from: &str, to: &str, item: &str, line: usize) {
        if from == to {
            return;
        }
        let (from, to) = (self.node(from), self.node(to));
        let edge = match self.graph.find_edge(from, to) {
            Some(edge) => edge,
            None => self.graph.add_edge(from, to, Used::new()),
        };
        if let Some(used) = self.graph.edge_weight_mut(edge) {
            used.entry(item.to_owned()).or_insert(line);
        }
    }

    pub(super) fn circles(&self) -> impl Iterator<Item = Circle<'_>> {
        let circles = tarjan_scc(&self.graph).into_iter();
        circles.filter(|circle| circle.len() > 1).map(|circle| {
            let mut uses: Vec<_> = self
                .graph
                .edge_indices()
                .filter_map(|edge| {
                    let (from, to) = self.graph.edge_endpoints(edge)?;
                    let is_within = circle.contains(&from) && circle.contains(&to);
                    let used = self.graph.edge_weight(edge)?;
                    is_within.then(|| (self.graph[from].as_str(), self.graph[to].as_str(), used))
                })
                .collect();
            uses.sort_unstable();
            Circle { uses }
        })
    }

    /// One floor a line, the highest first; modules of a circle share one.
    pub(super) fn floors(&self) -> String {
        let mut floor_of: HashMap<NodeIndex, usize> = HashMap::new();
        let mut floors: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
        // What is used comes before what uses it.
        for component in tarjan_scc(&self.graph) {
            let below = component
                .iter()
                .flat_map(|node| self.graph.neighbors(*node))
                .filter_map(|used| floor_of.get(&used));
            let floor = below.max().map_or(0, |below| below + 1);
            for node in component {
                floor_of.insert(node, floor);
                floors.entry(floor).or_default().insert(&self.graph[node]);
            }
        }
        let mut text = String::new();
        for (floor, modules) in floors.iter().rev() {
            let modules: Vec<&str> = modules.iter().copied().collect();
            let _ = writeln!(text, "{floor:4}  {}", modules.join(" · "));
        }
        text
    }
}

impl Display for Circle<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (from, to, used) in &self.uses {
            let items: Vec<String> = used
                .iter()
                .map(|(item, line)| format!("{item} (line {line})"))
                .collect();
            writeln!(f, "  {from} → {to}: {}", items.join(", "))?;
        }
        Ok(())
    }
}
