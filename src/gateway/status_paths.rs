//! Which route answers for the status of a stored request: the one that took it.

use std::collections::HashMap;

use crate::{
    config::Route,
    error::{Error, Kind},
    events::{
        enqueue::status::not_an_id,
        request::{RequestIds, RouteTag},
    },
    http::names::STATUS_PATH,
    routing::OwnPaths,
};

/// The routes with `enqueue` or `spill`, by what stands for them in an ID.
#[derive(Clone, Debug)]
pub(super) struct StatusPaths {
    ids: RequestIds,
    routes: HashMap<RouteTag, usize>,
}

// === impl StatusPaths ===

impl StatusPaths {
    /// Of these routes, whose store makes `ids`.
    pub(super) fn new(ids: RequestIds, routes: &[Route]) -> Self {
        let storing = routes.iter().enumerate().filter(|(_, route)| route.enqueue.is_some());
        let tagged = storing.map(|(index, route)| (RouteTag::of(&route.rule.name), index));
        Self { ids, routes: tagged.collect() }
    }
}

impl OwnPaths for StatusPaths {
    fn route(&self, path: &str) -> Result<usize, Error> {
        let text = path.strip_prefix(STATUS_PATH).ok_or(Kind::RouteNotFound)?;
        let id = self.ids.read(text).map_err(not_an_id)?;
        Ok(self.routes.get(&id.route).copied().ok_or(Kind::RouteNotFound)?)
    }
}
