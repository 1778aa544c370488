//! The scalars of gateway.yaml: `250ms`, `1MiB`, `100/s`, `20%`, addresses, patterns. Each is
//! parsed once and typed from then on. Pure: no lookup, no I/O.

mod address;
mod collector;
mod http;
mod location;
mod pattern;
mod reference;
mod retry;
mod time;
mod url;

use std::{ops::RangeInclusive, time::Duration};

use schemars::{Schema, json_schema};

pub use self::{
    address::{AdminAddress, Origin},
    collector::GRPC_PORT,
    http::StatusRange,
    location::location,
    pattern::{LogName, Name, ParamName, path_template, selector_part, template},
    reference::{Reference, SecretReference},
    retry::RetryOn,
    time::Timestamp,
    url::{DecisionUrl, HttpUrl, KeySetUrl, WebhookUrl},
};

/// What a scalar can be.
pub trait Value: Sized {
    /// How an editor is told about it.
    fn schema() -> Schema;

    /// The value of this text.
    fn parse(text: &str) -> Result<Self, Fault>;
}

/// Why a text is not a value: what is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `` `10` is not a duration ``
    pub message: String,
    /// `` write `10s` ``
    pub help: Option<String>,
}

/// A closed set of words.
pub trait Words: Copy + 'static {
    /// Each word and its meaning.
    const WORDS: &'static [(&'static str, Self)];
}

/// Bytes: `512B`, `16KiB`, `10MiB`, `5GiB`, `1TiB`, or a plain number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// So many in a span of time: `100/s`, `6000/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least one.
    pub count: u64,
    /// In how long.
    pub per: Duration,
}

/// A share, 0 to 1: `20%`, `0.5%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent(pub f64);

/// A text that can be anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

/// `auto`, or how many; 1 to 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(pub Option<usize>);

/// A century: beyond it clocks overflow, and nobody means it.
const LONGEST: Duration = Duration::from_hours(24 * 36_500);

/// Defines an enum and its words together.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($word:literal = $variant:ident),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $(#[doc = concat!("`", $word, "`")] $variant),* }

        impl $crate::config::value::Words for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),*];
        }
    )*};
}
pub(crate) use words;

// === impl Fault ===

impl Fault {
    /// Something is wrong.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    /// And this would be right.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// The nearest of `known` to a mistyped `word`, as a hint.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let word = word.to_lowercase();
    let distance = |name: &str| {
        let distance = strsim::damerau_levenshtein(&word, &name.to_lowercase());
        let is_longer = name.len() > 2 && word.starts_with(name);
        let is_shorter = word.len() > 2 && name.starts_with(&word);
        let is_near = distance <= 1 + name.len() / 4 && distance < name.len();
        (is_near || is_longer || is_shorter).then_some(distance)
    };
    known
        .into_iter()
        .filter_map(|name| Some((distance(name)?, name)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| format!("did you mean `{name}`?"))
}

// === impl Value for words ===

impl<T: Words> Value for T {
    fn schema() -> Schema {
        let words: Vec<_> = T::WORDS.iter().flat_map(|(word, _)| as_editors_see_it(word)).collect();
        json_schema!({ "enum": words })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let known = || T::WORDS.iter().map(|(word, _)| *word);
        if let Some((_, value)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let all = known().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let fault = Fault::new(format!("`{text}` is not one of {all}"));
        Err(Fault { help: did_you_mean(text, known()), ..fault })
    }
}

/// `true` is no text to an editor, and `1.3` may be one or a number.
fn as_editors_see_it(word: &str) -> Vec<serde_json::Value> {
    match serde_json::from_str(word) {
        Ok(boolean @ serde_json::Value::Bool(_)) => vec![boolean],
        Ok(number) => vec![word.into(), number],
        Err(_) => vec![word.into()],
    }
}

impl Words for bool {
    const WORDS: &'static [(&'static str, Self)] = &[("true", true), ("false", false)];
}

// === impl Value for Duration ===

impl Value for Duration {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("`{text}` is not a duration"));
        let example = "like `250ms`, `30s`, `5m`, `1h`, `7d`";
        let (digits, unit) = split_number(text);
        let number: u64 = digits.parse().map_err(|_| fault().help(example))?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(fault().help(format!("it needs a unit: `{number}s`"))),
            _ => return Err(fault().help(example)),
        };
        let too_long = || fault().help("at most 36500d");
        let duration = number.checked_mul(millis).map(Self::from_millis).ok_or_else(too_long)?;
        if duration > LONGEST { Err(too_long()) } else { Ok(duration) }
    }
}

// === impl ByteSize ===

impl Value for ByteSize {
    fn schema() -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)?$" },
            ]
        })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("`{text}` is not a size"));
        let example = "like `16KiB`, `10MiB`, `1GiB`";
        let (digits, unit) = split_number(text);
        let number: u64 = digits.parse().map_err(|_| fault().help(example))?;
        let shift = match unit {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            other => {
                let meant = ["KiB", "MiB", "GiB", "TiB"]
                    .into_iter()
                    .find(|unit| other.len() <= 3 && other.to_uppercase().starts_with(&unit[..1]));
                return Err(match meant {
                    Some(unit) => fault().help(format!("did you mean `{number}{unit}`?")),
                    None => fault().help(example),
                });
            }
        };
        number
            .checked_mul(1 << shift)
            .filter(|bytes| *bytes <= 1 << 50)
            .map(Self)
            .ok_or_else(|| fault().help("at most 1024TiB"))
    }
}

// === impl Rate ===

impl Value for Rate {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+/(s|m|h|d)$" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("`{text}` is not a rate")).help("like `100/s`, `6000/m`");
        let (count, unit) = text.split_once('/').ok_or_else(fault)?;
        let per = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            "d" => Duration::from_hours(24),
            _ => return Err(fault()),
        };
        let count = digits(count).filter(|count| *count > 0).ok_or_else(fault)?;
        Ok(Self { count, per })
    }
}

// === impl Percent ===

impl Value for Percent {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?%$" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("`{text}` is not a percentage"));
        let number = text.strip_suffix('%').ok_or_else(|| fault().help("like `20%`"))?;
        let is_plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let percent: f64 = number.parse().map_err(|_| fault().help("like `20%`"))?;
        if is_plain && percent <= 100.0 {
            Ok(Self(percent / 100.0))
        } else {
            Err(fault().help("`0%` to `100%`"))
        }
    }
}

// === impl Text ===

impl Value for Text {
    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        Ok(Self(text.to_owned()))
    }
}

// === impl Workers ===

impl Value for Workers {
    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": 1024 }] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        if text == "auto" {
            return Ok(Self(None));
        }
        number(text, 1_u16..=1024)
            .map(|n| Self(Some(usize::from(n))))
            .map_err(|fault| fault.help("`auto`, or a number from 1 to 1024"))
    }
}

// === impl Value for numbers ===

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Value for $type {
            fn schema() -> Schema {
                json_schema!({ "type": "integer", "minimum": <$type>::MIN, "maximum": <$type>::MAX })
            }

            fn parse(text: &str) -> Result<Self, Fault> {
                number(text, <$type>::MIN..=<$type>::MAX)
            }
        }
    )*};
}

numbers! { i32 u16 u32 u64 usize }

/// A decimal number in this range.
fn number<N>(text: &str, range: RangeInclusive<N>) -> Result<N, Fault>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::new(format!("`{text}` is not a whole number")));
    }
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = (range.start().to_string(), range.end().to_string());
        let fault = Fault::new(format!("`{text}` is out of range"));
        // The largest number of a type says nothing to a person.
        if most.len() > 9 {
            fault.help(format!("at least {least}"))
        } else {
            fault.help(format!("from {least} to {most}"))
        }
    })
}

/// Only digits, as a number.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Leading digits, and what follows them.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests;
