//! `subscriptions[].push`

use std::time::Duration;

use super::{Resolver, upstreams::Upstreams};
use crate::{
    config::{
        file::events,
        value::{Fault, SecretReference},
        written::{Place, Placed, Written},
    },
    events::settings::{Format, Push, Target},
    http::webhook::SigningKey,
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
const LONGEST_TIMEOUT: Duration = Duration::from_mins(15);
/// Secrets that deliveries are signed with at a time: an old one, a new one, and room for mistakes.
const MAX_SECRETS: usize = 8;

impl Resolver<'_> {
    pub(super) fn push(
        &mut self,
        written: &Placed<events::Push>,
        upstreams: &mut Upstreams,
    ) -> Option<Push> {
        let Placed { value: written, place } = written;
        let format = self.or(written.format.as_ref(), events::PushFormat::Structured);
        let timeout = written.timeout.as_ref();
        let shortest = Duration::from_millis(1);
        let timeout = self.in_range(timeout, DEFAULT_TIMEOUT, shortest..=LONGEST_TIMEOUT, |_| {
            "from 1ms to 15m".to_owned()
        });
        let secrets = self.secrets(written.secrets.as_deref().unwrap_or_default());
        let target = self.push_target(written, *place, upstreams)?;
        let format = match format {
            events::PushFormat::Structured => Format::Structured,
            events::PushFormat::Binary => Format::Binary,
            events::PushFormat::Raw => Format::Raw,
        };
        Some(Push { target, format, timeout, secrets })
    }

    fn push_target(
        &mut self,
        written: &events::Push,
        place: Place,
        upstreams: &mut Upstreams,
    ) -> Option<Target> {
        match (&written.url, &written.upstream) {
            (Some(written_url), None) => {
                let url = self.value(written_url)?.0;
                self.warn_exposed(written_url.place, &url);
                if written.secrets.as_deref().unwrap_or_default().is_empty() && !url.is_loopback() {
                    let fault = Fault::new("deliveries to this URL are not signed")
                        .help("add `secrets: [env:NAME]`, so that the receiver can verify where they come from");
                    self.warn(written_url.place, fault);
                }
                let known = upstreams.webhook(&url, written_url.place);
                self.checked(written_url.place, known)?;
                Some(Target::Url(url.0))
            }
            (None, Some(name)) => {
                let known = upstreams.use_named(&name.text);
                self.checked(name.place, known)?;
                Some(Target::Upstream(name.text.as_str().into()))
            }
            (Some(_), Some(upstream)) => {
                let fault = Fault::new("`push` has either `url` or `upstream`");
                self.error(upstream.place, fault.help("remove one of them"));
                None
            }
            (None, None) => {
                let fault = Fault::new("`push` does not say where to send events");
                self.error(
                    place,
                    fault.help("add `url: \"https://..\"`, or `upstream` for stored requests"),
                );
                None
            }
        }
    }

    fn secrets(&mut self, written: &[Written<SecretReference>]) -> Vec<SigningKey> {
        if let Some(extra) = written.get(MAX_SECRETS) {
            let fault = Fault::new("there are too many secrets");
            self.error(extra.place, fault.help(format!("at most {MAX_SECRETS}")));
        }
        let mut keys = Vec::new();
        for written in written {
            let Some(secret) = self.secret(written) else { continue };
            // The text is the secret: it is not repeated.
            let key = SigningKey::parse(secret.expose()).map_err(|bad| {
                Fault::new(bad.to_string())
                    .help("make one with `echo whsec_$(openssl rand -base64 32)`")
            });
            keys.extend(self.checked(written.place, key));
        }
        keys
    }
}
