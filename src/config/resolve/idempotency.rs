//! `routes[].idempotency`.

use std::time::Duration;

use http::HeaderName;

use super::Resolver;
use crate::{
    config::file::{self, idempotency::OnUncertain},
    middleware::idempotency::Settings,
};

const DAY: Duration = Duration::from_hours(24);

impl Resolver<'_> {
    /// Whether requests with a key are done once.
    pub(super) fn idempotency(&mut self, route: &file::Route) -> Option<Settings> {
        let written = route.idempotency.as_ref()?;
        let name = HeaderName::from_static("idempotency-key");
        let on_uncertain = self.or(written.on_uncertain.as_ref(), OnUncertain::Hold);
        Some(Settings {
            header: written.header.as_ref().and_then(|it| self.field_name(it)).unwrap_or(name),
            is_required: self.or(written.required.as_ref(), false),
            ttl: self.in_range(
                written.ttl.as_ref(),
                DAY,
                Duration::from_secs(1)..=30 * DAY,
                |_| "from 1s to 30d".to_owned(),
            ),
            may_resend: on_uncertain == OnUncertain::Resend,
        })
    }
}
