//! The one normalised request target: matched, authorised, limited, logged and forwarded.

use http::uri::PathAndQuery;

/// A normalised request target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    path: Box<str>,
    merged: Box<str>,
    query: Option<Box<str>>,
}

// === impl Target ===

impl Target {
    /// Of the text of a request line.
    pub fn parse_str(raw: &str) -> Result<Self, http::uri::InvalidUri> {
        let raw: PathAndQuery = raw.parse()?;
        let mut merged = raw.path().to_owned();
        while merged.contains("//") {
            merged = merged.replace("//", "/");
        }
        Ok(Self {
            path: raw.path().into(),
            merged: merged.into(),
            query: raw.query().map(Into::into),
        })
    }

    /// The normalised path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path with runs of `/` merged.
    pub fn merged(&self) -> &str {
        &self.merged
    }

    /// What follows the `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// As it goes into a request line.
    pub fn path_and_query(&self, merge: bool) -> PathAndQuery {
        let path = if merge { &self.merged } else { &self.path };
        let text = match &self.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_string(),
        };
        text.parse().unwrap_or_else(|_| PathAndQuery::from_static("/"))
    }
}
