//! Query parameters.

use super::{endpoint::decoded, problem::Problem, view};
use crate::events::{
    event::timestamp,
    facade::{DeadLetterFilter, Reason},
};

/// Default and maximum number of dead letters in a page.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// The dead letters to list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) after: Option<u64>,
    pub(super) limit: usize,
    pub(super) filter: DeadLetterFilter,
}

/// The dead letters to remove.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Purge {
    pub(super) confirm: u64,
    pub(super) filter: DeadLetterFilter,
}

pub(super) fn page(query: Option<&str>) -> Result<Page, Problem> {
    let mut page = Page { after: None, limit: PAGE, filter: DeadLetterFilter::default() };
    for (name, value) in pairs(query)? {
        match name.as_str() {
            "after" => page.after = Some(number(&name, &value)?),
            "limit" => match number(&name, &value)? {
                0 => return Err(wrong(&name, &value).help("at least 1")),
                limit => page.limit = usize::try_from(limit).unwrap_or(MAX_PAGE).min(MAX_PAGE),
            },
            _ => filter(&mut page.filter, &name, value)?,
        }
    }
    Ok(page)
}

pub(super) fn purge(query: Option<&str>) -> Result<Purge, Problem> {
    let (mut confirm, mut kept) = (None, DeadLetterFilter::default());
    for (name, value) in pairs(query)? {
        match name.as_str() {
            "confirm" => confirm = Some(number(&name, &value)?),
            _ => filter(&mut kept, &name, value)?,
        }
    }
    let confirm = confirm.ok_or_else(|| {
        Problem::bad_request("`confirm` is missing")
            .help("`?confirm=<count>`: how many dead letters are meant to go")
    })?;
    Ok(Purge { confirm, filter: kept })
}

/// The start of a live tail: `from=earliest`, `latest` or an offset.
pub(super) fn stream_from(query: Option<&str>) -> Result<Option<u64>, Problem> {
    let mut from = None;
    for (name, value) in pairs(query)? {
        from = match (name.as_str(), value.as_str()) {
            ("from", "earliest") => Some(0),
            ("from", "latest") => None,
            ("from", _) => Some(number(&name, &value)?),
            _ => return Err(unknown(&name, "from")),
        };
    }
    Ok(from)
}

/// `state=uncertain`, the only one there is.
pub(super) fn state_uncertain(query: Option<&str>) -> Result<(), Problem> {
    for (name, value) in pairs(query)? {
        match (name.as_str(), value.as_str()) {
            ("state", "uncertain") => {}
            ("state", _) => return Err(wrong(&name, &value).help("`uncertain`")),
            _ => return Err(unknown(&name, "state")),
        }
    }
    Ok(())
}

/// Refuses a query where none is expected.
pub(super) fn none(query: Option<&str>) -> Result<(), Problem> {
    match pairs(query)?.first() {
        Some((name, _)) => Err(Problem::bad_request(format!("`{name}` is not a parameter here"))),
        None => Ok(()),
    }
}

fn filter(filter: &mut DeadLetterFilter, name: &str, value: String) -> Result<(), Problem> {
    match name {
        "reason" => filter.reason = Some(reason(&value)?),
        "since" => filter.since = Some(moment(name, &value)?),
        "until" => filter.until = Some(moment(name, &value)?),
        "key" => filter.key = Some(value.into()),
        "type" => filter.kind = Some(value),
        _ => return Err(unknown(name, "after, limit, confirm, reason, since, until, key, type")),
    }
    Ok(())
}

pub(super) fn reason(word: &str) -> Result<Reason, Problem> {
    Reason::from_word(word).ok_or_else(|| {
        let known: Vec<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        wrong("reason", word).help(format!("one of {}", known.join(", ")))
    })
}

/// RFC 3339, as milliseconds since 1970.
pub(super) fn moment(name: &str, text: &str) -> Result<u64, Problem> {
    let millis = timestamp::parse(text).and_then(|millis| u64::try_from(millis).ok());
    millis.ok_or_else(|| wrong(name, text).help("a time such as `2027-01-31T12:00:00Z`"))
}

fn number(name: &str, text: &str) -> Result<u64, Problem> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain);
    number.ok_or_else(|| wrong(name, text).help("a whole number"))
}

fn wrong(name: &str, text: &str) -> Problem {
    Problem::bad_request(format!("`{name}`: `{}` is not good for it", view::shortened(text)))
}

fn unknown(name: &str, known: &str) -> Problem {
    let name = view::shortened(name);
    Problem::bad_request(format!("`{name}` is not a parameter here"))
        .help(format!("known: {known}"))
}

/// Decoded names and values.
fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>, Problem> {
    let undecodable = || Problem::bad_request("the query is not percent-encoded UTF-8");
    let mut pairs = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).take(32) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |text: &str| decoded(&text.replace('+', " ")).map(std::borrow::Cow::into_owned);
        pairs.push((text(name), text(value)));
    }
    pairs
        .into_iter()
        .map(|(name, value)| Some((name?, value?)))
        .collect::<Option<_>>()
        .ok_or_else(undecodable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_dead_letters_is_asked_for_by_what_they_are() {
        let page = page(Some(
            "after=7&limit=5000&reason=rejected&since=2026-11-26T10:00:00Z&key=a%20b+c&type=made",
        ))
        .unwrap();
        assert_eq!((page.after, page.limit), (Some(7), MAX_PAGE));
        assert_eq!(
            page.filter,
            DeadLetterFilter {
                reason: Some(Reason::Rejected),
                since: Some(1_795_687_200_000),
                until: None,
                key: Some("a b c".into()),
                kind: Some("made".to_owned()),
            }
        );
        for query in
            ["limit=0", "limit=x", "limit=+1", "reason=tired", "since=1", "color=red", "key=%"]
        {
            assert!(super::page(Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn a_purge_says_how_many() {
        assert_eq!(purge(Some("confirm=3&type=t")).unwrap().confirm, 3);
        assert!(purge(None).is_err() && purge(Some("type=t")).is_err());
        assert!(none(Some("a=1")).is_err() && none(Some("")).is_ok() && none(None).is_ok());
        assert_eq!(stream_from(Some("from=earliest")), Ok(Some(0)));
        assert_eq!(stream_from(Some("from=12")), Ok(Some(12)));
        assert!(stream_from(Some("from=later")).is_err());
    }
}
