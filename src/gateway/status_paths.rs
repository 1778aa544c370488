//! Finds the route that answers for the status of a stored request: the one that took it.

use std::{collections::HashMap, time::Duration};

use crate::{
    error::{Error, Kind, QueueFault},
    events::{
        enqueue::status::not_an_id,
        request::{RequestIds, RouteTag},
    },
    http::names::STATUS_PATH,
    routing::OwnPaths,
};

/// When to retry while the store is not open.
const UNAVAILABLE: Duration = Duration::from_secs(30);

/// The routes with `enqueue` or `spill`, by their code in an ID.
#[derive(Clone, Debug)]
pub(super) struct StatusPaths {
    /// `None`: the store is not open.
    ids: Option<RequestIds>,
    routes: HashMap<RouteTag, usize>,
}

// === impl StatusPaths ===

impl StatusPaths {
    /// For these routes, by name and index; their store makes `ids`. `None`: there are none.
    pub(super) fn new<'a>(
        ids: Option<RequestIds>,
        routes: impl Iterator<Item = (&'a str, usize)>,
    ) -> Option<Self> {
        let routes: HashMap<_, _> =
            routes.map(|(name, index)| (RouteTag::of(name), index)).collect();
        (!routes.is_empty()).then_some(Self { ids, routes })
    }
}

impl OwnPaths for StatusPaths {
    fn route(&self, path: &str) -> Result<usize, Error> {
        let text = path.strip_prefix(STATUS_PATH).ok_or(Kind::RouteNotFound)?;
        let unavailable = Kind::Queue(QueueFault::Unavailable(UNAVAILABLE));
        let ids = self.ids.as_ref().ok_or(unavailable)?;
        let id = ids.read(text).map_err(not_an_id)?;
        Ok(self.routes.get(&id.route).copied().ok_or(Kind::RouteNotFound)?)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::events::{
        queue::{LogId, Offset, StoreId},
        request::{Place, RequestId},
    };

    #[test]
    fn a_status_is_the_business_of_the_route_that_took_the_request() {
        let ids = RequestIds::new(StoreId(Uuid::from_u128(1)), b"secret");
        let place = Place { topic: LogId(Uuid::from_u128(2)), offset: Offset(3) };
        let path = |route| {
            let id = RequestId::new(place, 0, RouteTag::of(route), (1, [7; 12]));
            format!("{STATUS_PATH}{}", ids.text(&id))
        };
        let routes = || [("orders", 4), ("imports", 6)].into_iter();
        let paths = StatusPaths::new(Some(ids.clone()), routes()).unwrap();
        assert_eq!(paths.route(&path("imports")).unwrap(), 6);
        let reason = |paths: &StatusPaths, path: &str| {
            paths.route(path).map_err(|error| error.kind().reason()).unwrap_err()
        };
        assert_eq!(reason(&paths, &path("gone")), "route-none");
        assert_eq!(reason(&paths, &format!("{}a", path("orders"))), "route-none");
        assert_eq!(reason(&paths, "/.sluice/else"), "route-none");
        let closed = StatusPaths::new(None, routes()).unwrap();
        assert_eq!(reason(&closed, &path("orders")), "queue-unavailable", "not: unknown");
        assert!(StatusPaths::new(Some(ids), [].into_iter()).is_none());
    }
}
