//! The file as YAML sees it: every node with its place, before anything is asked of it.
//!
//! It turns the place of a problem into a path (`routes[2].upstream`), finds keys that have nothing under
//! them, and is what is shown of the configuration.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};

use super::written::{Place, Placed};

/// A node and everything below it.
#[derive(Clone)]
pub struct Tree {
    /// What it is.
    pub node: Node,
    /// Where it starts.
    pub place: Place,
}

/// What a node is.
#[derive(Clone)]
pub enum Node {
    /// Null, a boolean, a number or a text.
    Scalar(Value),
    /// A list.
    List(Vec<Tree>),
    /// A map, in the order of the file.
    Map(Vec<(Placed<String>, Tree)>),
}

// === impl Tree ===

impl Tree {
    /// The path of the value at `place`. Of several (an alias gives all below it one place), the
    /// outermost.
    pub fn path_of(&self, place: Place) -> Option<String> {
        self.search("", &|_, tree| tree.place == place)
    }

    /// The path of the value whose key stands at `place`.
    pub fn path_of_key(&self, place: Place) -> Option<String> {
        self.search("", &|key, _| key == Some(place))
    }

    /// Of the maps around `place`, the innermost that lacks the key `missing`: its place and path.
    pub fn map_without(&self, missing: &str, place: Place) -> Option<(Place, String)> {
        let (mut at, mut path, mut found) = (self, String::new(), None);
        loop {
            let next = match &at.node {
                Node::Scalar(_) => None,
                Node::List(list) => list
                    .iter()
                    .enumerate()
                    .rfind(|(_, tree)| tree.place <= place)
                    .map(|(index, tree)| (tree, format!("{path}[{index}]"))),
                Node::Map(map) => {
                    if map.iter().all(|(key, _)| key.value != missing) {
                        found = Some((at.place, path.clone()));
                    }
                    map.iter()
                        .rfind(|(key, _)| key.place <= place)
                        .filter(|(_, tree)| tree.place <= place)
                        .map(|(key, tree)| (tree, join(&path, &key.value)))
                }
            };
            let Some((tree, below)) = next else { return found };
            (at, path) = (tree, below);
        }
    }

    /// Puts into `found` the places of all keys with one of these names, at any depth, that have
    /// nothing under them.
    pub fn keys_of_nothing(&self, names: &[&str], found: &mut Vec<Place>) {
        match &self.node {
            Node::Scalar(_) => {}
            Node::List(list) => list.iter().for_each(|tree| tree.keys_of_nothing(names, found)),
            Node::Map(map) => {
                for (key, tree) in map {
                    let is_nothing = matches!(tree.node, Node::Scalar(Value::Null));
                    if is_nothing && names.contains(&key.value.as_str()) {
                        found.push(key.place);
                    }
                    tree.keys_of_nothing(names, found);
                }
            }
        }
    }

    /// The same without places.
    pub fn to_json(&self) -> Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::List(list) => list.iter().map(Self::to_json).collect(),
            Node::Map(map) => {
                map.iter().map(|(key, tree)| (key.value.clone(), tree.to_json())).collect()
            }
        }
    }

    /// The path of the first node that `is` picks, given the place of its key.
    fn search(&self, path: &str, is: &dyn Fn(Option<Place>, &Self) -> bool) -> Option<String> {
        match &self.node {
            Node::Scalar(_) => None,
            Node::List(list) => list.iter().enumerate().find_map(|(index, tree)| {
                let path = format!("{path}[{index}]");
                if is(None, tree) { Some(path) } else { tree.search(&path, is) }
            }),
            Node::Map(map) => map.iter().find_map(|(key, tree)| {
                let path = join(path, &key.value);
                if is(Some(key.place), tree) { Some(path) } else { tree.search(&path, is) }
            }),
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value, place } = Placed::<Node>::deserialize(deserializer)?;
        Ok(Self { node: value, place })
    }
}

// === impl Node ===

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, is: bool) -> Result<Node, E> {
        Ok(Node::Scalar(is.into()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Scalar(number.into()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Scalar(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Scalar(Number::from_f64(number).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Scalar(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}
