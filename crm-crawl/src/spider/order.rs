//! The nodes of a page in document order: what XPath's axes are ranges of.

use ego_tree::NodeId;
use ego_tree::iter::Edge;
use scraper::Node;

/// The node numbered 0 is the document; a subtree is the range from its root to its `end`.
#[derive(Debug)]
pub(crate) struct Order {
    entries: Vec<Entry>,
    /// By id, when the tree builder moved nodes about and their ids do not ascend.
    by_id: Vec<(NodeId, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: NodeId,
    parent: u32,
    end: u32,
}

impl Order {
    pub(crate) fn of(html: &scraper::Html) -> Self {
        let mut entries: Vec<Entry> = Vec::with_capacity(html.tree.values().len());
        let mut open: Vec<u32> = Vec::new();
        for edge in html.tree.root().traverse() {
            match edge {
                Edge::Open(node) if counts(node.value()) || open.is_empty() => {
                    let number = entries.len() as u32;
                    entries.push(Entry {
                        id: node.id(),
                        parent: open.last().copied().unwrap_or(0),
                        end: number + 1,
                    });
                    open.push(number);
                }
                Edge::Close(node) if counts(node.value()) || node.parent().is_none() => {
                    let end = entries.len() as u32;
                    if let Some(number) = open.pop()
                        && let Some(entry) = entries.get_mut(number as usize)
                    {
                        entry.end = end;
                    }
                }
                Edge::Open(_) | Edge::Close(_) => {}
            }
        }
        let mut by_id = Vec::new();
        if !entries.is_sorted_by_key(|entry| entry.id) {
            by_id = entries
                .iter()
                .zip(0..)
                .map(|(entry, number)| (entry.id, number))
                .collect();
            by_id.sort_unstable();
        }
        Self { entries, by_id }
    }

    pub(crate) fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    pub(crate) fn number(&self, id: NodeId) -> Option<u32> {
        if self.by_id.is_empty() {
            self.entries
                .binary_search_by_key(&id, |entry| entry.id)
                .ok()
                .map(|at| at as u32)
        } else {
            let at = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
            self.by_id.get(at).map(|(_, number)| *number)
        }
    }

    pub(crate) fn id(&self, number: u32) -> Option<NodeId> {
        self.entries.get(number as usize).map(|entry| entry.id)
    }

    /// `None` for the document.
    pub(crate) fn parent(&self, number: u32) -> Option<u32> {
        let entry = self.entries.get(number as usize)?;
        (number > 0).then_some(entry.parent)
    }

    /// The first number after the subtree.
    pub(crate) fn end(&self, number: u32) -> u32 {
        self.entries
            .get(number as usize)
            .map_or(number + 1, |entry| entry.end)
    }
}

/// The document type is no node to XPath (5.), and a template's content hangs on the template itself.
fn counts(node: &Node) -> bool {
    matches!(
        node,
        Node::Element(_) | Node::Text(_) | Node::Comment(_) | Node::ProcessingInstruction(_)
    )
}
