//! What was written, and where: the pieces [`super::file`] is made of.
//!
//! A scalar is kept as text ([`Written`]) and becomes a value in [`super::resolve`], so that one run
//! finds every bad value of a file. Unions (a word or a map, one or a list) are visitors that keep
//! places: serde's own `untagged` and `flatten` buffer their content and lose them.

use std::{fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::value::Value;

/// A line and a column, both counted from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// 1 is the first; 0 is nowhere.
    pub line: usize,
    /// 1 is the first.
    pub column: usize,
}

/// A block, and where it starts.
#[derive(Clone)]
pub struct Placed<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// A scalar that is to become a `T`: its text, and where it stands.
pub struct Written<T> {
    /// As it was written, without quotes.
    pub text: String,
    /// Where.
    pub place: Place,
    kind: PhantomData<fn() -> T>,
}

/// A map whose keys the user chooses, in the order of the file.
pub struct Entries<K, V>(pub Vec<(Written<K>, V)>);

/// One, or a list of them.
pub struct OneOrMany<T>(pub Vec<T>);

/// What a union may look like. [`Nothing`] in a place says that this shape is refused.
pub enum Shape<L, M> {
    /// A word or a number.
    Scalar(String),
    /// A list.
    List(Vec<L>),
    /// A map.
    Map(M),
}

/// The shape that is refused.
pub enum Nothing {}

/// What can be made from a scalar alone.
pub trait FromScalar: Sized {
    /// What the user is told when it cannot.
    const EXPECTED: &'static str;

    /// The value for this text.
    fn from_scalar(text: String, place: Place) -> Option<Self>;
}

// === impl Place ===

impl From<serde_yaml::Location> for Place {
    fn from(location: serde_yaml::Location) -> Self {
        let at = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self { line: at(location.line()), column: at(location.column()) }
    }
}

// === impl Placed ===

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_yaml::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self { value: spanned.value, place: spanned.referenced.into() })
    }
}

impl<T: JsonSchema> JsonSchema for Placed<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

// === impl Written ===

impl<T> Written<T> {
    /// This text at this place.
    pub fn new(text: String, place: Place) -> Self {
        Self { text, place, kind: PhantomData }
    }
}

impl<T> FromScalar for Written<T> {
    const EXPECTED: &'static str = "a word or a list of them";

    fn from_scalar(text: String, place: Place) -> Option<Self> {
        Some(Self::new(text, place))
    }
}

impl<'de, T> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value, place } = Placed::<String>::deserialize(deserializer)?;
        Ok(Self::new(value, place))
    }
}

impl<T: Value> JsonSchema for Written<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        std::any::type_name::<T>().into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

// === impl Entries ===

impl<K, V> Entries<K, V> {
    /// Keys and values, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, (Written<K>, V)> {
        self.0.iter()
    }
}

impl<'a, K, V> IntoIterator for &'a Entries<K, V> {
    type Item = &'a (Written<K>, V);
    type IntoIter = std::slice::Iter<'a, (Written<K>, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, K, V: Deserialize<'de>> Deserialize<'de> for Entries<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<K, V>(PhantomData<(K, V)>);

        impl<'de, K, V: Deserialize<'de>> Visitor<'de> for EntriesVisitor<K, V> {
            type Value = Entries<K, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

impl<K, V: JsonSchema> JsonSchema for Entries<K, V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Entries_of_{}", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<V>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

// === impl OneOrMany ===

impl<T> OneOrMany<T> {
    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<'a, T> IntoIterator for &'a OneOrMany<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'de, T: FromScalar + Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value, place } = Placed::<Shape<T, T>>::deserialize(deserializer)?;
        match value {
            Shape::List(list) => Ok(Self(list)),
            Shape::Map(one) => Ok(Self(vec![one])),
            Shape::Scalar(text) => T::from_scalar(text, place)
                .map(|one| Self(vec![one]))
                .ok_or_else(|| de::Error::custom(expected(T::EXPECTED))),
        }
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

// === impl Shape ===

impl<'de, L: Deserialize<'de>, M: Deserialize<'de>> Deserialize<'de> for Shape<L, M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor(PhantomData))
    }
}

struct ShapeVisitor<L, M>(PhantomData<(L, M)>);

impl<'de, L: Deserialize<'de>, M: Deserialize<'de>> Visitor<'de> for ShapeVisitor<L, M> {
    type Value = Shape<L, M>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word, a list or a map")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Shape::Scalar(text.to_owned()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Shape::Scalar(number.to_string()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Shape::Scalar(number.to_string()))
    }

    fn visit_bool<E: de::Error>(self, is: bool) -> Result<Self::Value, E> {
        Ok(Shape::Scalar(is.to_string()))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        // Its spelling is gone by now, and `1.0` is not `1` in a header.
        Err(E::custom("a number with a point: put it in quotes"))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Shape::Scalar(String::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Shape::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        M::deserialize(MapAccessDeserializer::new(map)).map(Shape::Map)
    }
}

// === impl Nothing ===

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("a list or a map is not allowed here"))
    }
}

/// The message for a union of another shape.
pub fn expected(what: &str) -> String {
    format!("expected {what}")
}
