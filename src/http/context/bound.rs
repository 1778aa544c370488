//! The values bound by a path template: kept as ranges of the path, since most are never read.

use std::{ops::Range, sync::Arc};

use smallvec::SmallVec;

/// Where in a path the template's values are. Costs a reference to the names.
#[derive(Clone, Debug)]
pub struct Bound {
    names: Arc<[Box<str>]>,
    places: SmallVec<[Range<usize>; 2]>,
}

/// The template's names and the parts of the path bound to them, decoded as in the normalised
/// target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Params<'a> {
    names: &'a [Box<str>],
    places: &'a [Range<usize>],
    path: &'a str,
}

// === impl Bound ===

impl Bound {
    /// `values` belong to `names`, in their order, and are parts of `path` itself.
    pub fn new(names: &Arc<[Box<str>]>, path: &str, values: &[&str]) -> Self {
        let place = |value: &&str| {
            let start = value.as_ptr().addr().wrapping_sub(path.as_ptr().addr());
            start..start.wrapping_add(value.len())
        };
        Self { names: names.clone(), places: values.iter().map(place).collect() }
    }

    /// Binds values that are not parts of one path; also returns the text they are parts of.
    pub fn joined<'a>(values: impl IntoIterator<Item = (&'a str, &'a str)>) -> (Self, String) {
        let mut text = String::new();
        let place = |(name, value)| {
            text.push_str(value);
            (Box::from(name), text.len() - value.len()..text.len())
        };
        let (names, places): (Vec<_>, _) = values.into_iter().map(place).unzip();
        (Self { names: names.into(), places }, text)
    }

    /// The values in `path`.
    pub fn of<'a>(&'a self, path: &'a str) -> Params<'a> {
        Params { names: &self.names, places: &self.places, path }
    }
}

// === impl Params ===

impl<'a> Params<'a> {
    /// The value with this name.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.iter().find(|(bound, _)| *bound == name).map(|(_, value)| value)
    }

    /// Each name with its value, in the order of the template.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let value = move |place: &Range<usize>| self.path.get(place.clone()).unwrap_or_default();
        self.names.iter().map(AsRef::as_ref).zip(self.places.iter().map(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_are_those_parts_of_the_path() {
        let path = "/orders/7/a/b";
        let names = ["id", "rest", "none"].map(Box::from).into();
        let bound = Bound::new(&names, path, &[&path[8..9], &path[10..], &path[path.len()..]]);
        let copy = path.to_owned();
        let values: Vec<_> = bound.of(&copy).iter().collect();
        assert_eq!(values, [("id", "7"), ("rest", "a/b"), ("none", "")]);
        assert_eq!(bound.of(&copy).get("rest"), Some("a/b"));
        assert_eq!(bound.of(&copy).get("other"), None);
    }

    #[test]
    fn what_is_no_part_of_the_path_is_empty() {
        let names = ["id"].map(Box::from).into();
        assert_eq!(Bound::new(&names, "/orders", &["7"]).of("/orders").get("id"), Some(""));
    }

    #[test]
    fn values_of_no_path_are_told_from_their_own_text() {
        let (bound, text) = Bound::joined([("id", "7"), ("rest", "a/b")]);
        let values: Vec<_> = bound.of(&text).iter().collect();
        assert_eq!(values, [("id", "7"), ("rest", "a/b")]);
    }
}
