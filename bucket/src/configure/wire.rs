//! Whether foreign lifecycle rules go out as they came in.
//!
//! The SDK drops what its types don't know (MinIO's `DelMarkerExpiration`, S3's next invention), and whoever
//! writes rules writes all of the bucket's. So the two texts are compared, rule by rule, before one is sent.

use roxmltree::{Document, Node};

/// An element with everything in it, in an order of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

/// The first thing of `received` (a lifecycle configuration) that is missing in `sent`, rules with one of the ids
/// in `ours` left out; `None`: nothing is lost.
///
/// # Errors
/// When one of the two can't be read.
pub(crate) fn lost(
    received: &[u8],
    sent: &[u8],
    ours: &dyn Fn(&str) -> bool,
) -> Result<Option<String>, String> {
    let mut sent = rules(sent)?;
    for rule in rules(received)?.into_iter().filter(|rule| !rule.id().is_some_and(ours)) {
        match sent.iter().position(|candidate| *candidate == rule) {
            Some(at) => drop(sent.swap_remove(at)),
            None => {
                let id = rule.id().unwrap_or("without an id").to_owned();
                let nearest = sent.iter().find(|candidate| candidate.id() == rule.id());
                let what = nearest.and_then(|nearest| missing_in(&rule, nearest));
                return Ok(Some(format!("{} of {id:?}", what.as_deref().unwrap_or("all"))));
            }
        }
    }
    Ok(None)
}

impl Element {
    fn id(&self) -> Option<&str> {
        self.children.iter().find(|child| child.name == "ID").map(|child| child.text.as_str())
    }
}

/// Name of the first element that `from` has and `other` has not, or has otherwise.
fn missing_in(from: &Element, other: &Element) -> Option<String> {
    from.children.iter().find(|child| !other.children.contains(child)).map(|child| {
        let same_name = other.children.iter().find(|candidate| candidate.name == child.name);
        match same_name.and_then(|same| missing_in(child, same)) {
            Some(inner) => format!("{}/{inner}", child.name),
            None => child.name.clone(),
        }
    })
}

fn rules(xml: &[u8]) -> Result<Vec<Element>, String> {
    let text = std::str::from_utf8(xml).map_err(|error| error.to_string())?;
    let document = Document::parse(text).map_err(|error| error.to_string())?;
    let root = document.root_element();
    Ok(root.children().filter(|node| node.tag_name().name() == "Rule").map(element).collect())
}

fn element(node: Node<'_, '_>) -> Element {
    let mut children: Vec<Element> = node.children().filter(Node::is_element).map(element).collect();
    children.sort();
    let text = if children.is_empty() { node.text().unwrap_or_default().trim() } else { "" };
    // Times at midnight, with or without their milliseconds.
    let text = text.strip_suffix(".000Z").map_or(text.to_owned(), |time| format!("{time}Z"));
    Element { name: node.tag_name().name().to_owned(), text, children }
}
