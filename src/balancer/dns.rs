//! Names to addresses.

use std::{future::Future, net::IpAddr, pin::Pin, time::Duration};

/// A resolver. A trait, so that tests can script one.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, of both families.
    fn addresses<'a>(&'a self, host: &'a str) -> Lookup<'a, IpAddr>;

    /// The records of the SRV name `name`.
    fn services<'a>(&'a self, name: &'a str) -> Lookup<'a, Service>;
}

/// A lookup under way.
pub type Lookup<'a, T> = Pin<Box<dyn Future<Output = Result<Answer<T>, ResolveError>> + Send + 'a>>;

/// What a name resolves to, and for how long. An empty list is an answer: there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The records.
    pub records: Vec<T>,
    /// How long they hold.
    pub ttl: Duration,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name it is at.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// 0 goes first.
    pub priority: u16,
    /// Its share within its priority.
    pub weight: u16,
}

/// The resolver gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ResolveError(pub String);

/// The system's name servers, asked by hickory.
#[derive(Debug)]
pub struct Hickory {}
