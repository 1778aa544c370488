//! Explains what would be stored of a request.

use super::{Told, step};
use crate::{
    events::enqueue::{Settings, settings::When},
    http::selector::Part,
    routing::explain::Step,
};

impl Told<'_> {
    /// `true`: it is stored, and nothing else happens to it.
    pub(super) fn enqueue(&self, steps: &mut Vec<Step>) -> bool {
        let Some(settings) = &self.route.enqueue else { return false };
        let topic = &settings.topic;
        let key = self.order(settings);
        match settings.when {
            When::Always { may_wait } => {
                let wait = if may_wait { ", or the answer within `Prefer: wait`" } else { "" };
                steps.push(step("enqueue", "store", format!("in `{topic}`, {key}; 202{wait}")));
                true
            }
            When::Unsent if self.asked.method.is_safe() => {
                let method = &self.asked.method;
                steps.push(step("spill", "pass", format!("a {method} is not done later")));
                false
            }
            When::Unsent => {
                let detail = format!("in `{topic}` if nothing of it can be sent, {key}; then 202");
                steps.push(step("spill", "depends", detail));
                false
            }
        }
    }

    fn order(&self, settings: &Settings) -> String {
        let Some(selector) = &settings.key else { return "no key, so no order".to_owned() };
        if let Some(key) = selector.extract(&self.input()) {
            return format!("key `{key}`");
        }
        let is_in_body = selector.parts().iter().any(|part| matches!(part, Part::Json(_)));
        let told = if is_in_body { "its key is in its body" } else { "no key, so no order" };
        told.to_owned()
    }
}
