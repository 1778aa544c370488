//! Keys that guard something, with nothing under them: `auth:` reads like a guard and would be an open
//! door. Refused where they are written.

use super::{Found, Resolver};
use crate::config::{problem::Severity, tree::Tree, value::Fault};

/// Keys without which more is let through, wherever they are. `allow_ips` and `deny_ips` are not
/// among them: these must be lists, and nothing is none.
const GUARDS: [&str; 6] = ["auth", "claims", "client_auth", "rate_limit", "scopes", "tls"];

impl Resolver<'_> {
    pub(super) fn refuse_nothing(&mut self, tree: &Tree) {
        let mut places = Vec::new();
        tree.keys_of_nothing(&GUARDS, &mut places);
        // An alias shows a place again.
        places.sort();
        places.dedup();
        for place in places {
            let fault = Fault::new("this key has no value").help("write one, or remove the key");
            let path = tree.path_of_key(place);
            self.found.push(Found { severity: Severity::Error, place, path, fault });
        }
    }
}
