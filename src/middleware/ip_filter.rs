//! `allow_ips` and `deny_ips`: who may come here at all.

use crate::http::Cidrs;

/// `routes[].allow_ips` and `deny_ips`; a denial wins.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Only these; empty is everybody.
    pub allow: Cidrs,
    /// Not these.
    pub deny: Cidrs,
}
