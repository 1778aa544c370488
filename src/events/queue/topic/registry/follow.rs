//! Derives the registry that a configuration asks for: pure, but for the IDs that are drawn.

use super::{RegistryError, SubscriptionSpec, TopicSpec, new_uuid, unknown};
use crate::events::queue::{
    LogId, Offset,
    codec::{Generation, Meta, SubscriptionMeta, TopicMeta},
};

/// The registry as it would become.
pub(super) fn follow(
    meta: &Meta,
    topics: &[TopicSpec<'_>],
    subscriptions: &[SubscriptionSpec<'_>],
) -> Result<Meta, RegistryError> {
    let mut meta = meta.clone();
    adopt(&mut meta, topics)?;
    for topic in &mut meta.topics {
        topic.is_orphaned = !topics.iter().any(|it| it.name == topic.name);
    }
    for spec in topics {
        if let Some(topic) = meta.topics.iter_mut().find(|it| it.name == spec.name) {
            grow(topic, spec)?;
        } else {
            let id = LogId(new_uuid()?);
            meta.topics.push(TopicMeta::new(id, spec.name.into(), spec.partitions.max(1)));
        }
    }
    for subscription in &mut meta.subscriptions {
        subscription.is_orphaned = !subscriptions.iter().any(|it| it.name == subscription.name);
    }
    for spec in subscriptions {
        subscribe(&mut meta, spec)?;
    }
    Ok(meta)
}

/// Renames topics.
fn adopt(meta: &mut Meta, topics: &[TopicSpec<'_>]) -> Result<(), RegistryError> {
    for spec in topics {
        let Some(old) = spec.renamed_from.filter(|old| *old != spec.name) else { continue };
        if topics.iter().any(|it| it.name == old) {
            let message =
                format!("topic `{}` is renamed from `{old}`, which is configured too", spec.name);
            return Err(RegistryError::Config(message));
        }
        let is_there = meta.topics.iter().any(|it| it.name == spec.name);
        match meta.topics.iter_mut().find(|it| it.name == old) {
            Some(_) if is_there => {
                let message = format!(
                    "topic `{}` cannot be renamed from `{old}`: both have events; drop one of them",
                    spec.name
                );
                return Err(RegistryError::Config(message));
            }
            Some(topic) => topic.name = spec.name.into(),
            // It was renamed before, or never existed.
            None => {}
        }
    }
    Ok(())
}

/// Opens a new generation if the number of partitions has grown.
fn grow(topic: &mut TopicMeta, spec: &TopicSpec<'_>) -> Result<(), RegistryError> {
    let Generation { number, partitions, .. } = topic.generation();
    if spec.partitions < partitions {
        let message = format!(
            "topic `{}` has {partitions} partitions and cannot have {}: they never get fewer",
            spec.name, spec.partitions
        );
        return Err(RegistryError::Config(message));
    }
    if spec.partitions > partitions {
        let Some(number) = number.checked_add(1) else {
            let message = format!("topic `{}` has grown too often", spec.name);
            return Err(RegistryError::Config(message));
        };
        // Until `Registry::generation_opened` no bound is known.
        let opened = Offset(u64::MAX);
        topic.generations.push(Generation { number, partitions: spec.partitions, opened });
    }
    Ok(())
}

fn subscribe(meta: &mut Meta, spec: &SubscriptionSpec<'_>) -> Result<(), RegistryError> {
    let topic = meta.topics.iter().find(|it| it.name == spec.topic);
    let topic = topic.ok_or_else(|| unknown("topic", spec.topic))?.id;
    match meta.subscriptions.iter().find(|it| it.name == spec.name) {
        None => {
            let id = LogId(new_uuid()?);
            meta.subscriptions.push(SubscriptionMeta::new(id, spec.name.into(), topic));
            Ok(())
        }
        Some(found) if found.topic == topic => Ok(()),
        Some(found) => {
            let old = meta.topics.iter().find(|it| it.id == found.topic);
            let old = old.map_or_else(|| found.topic.to_string(), |it| it.name.clone());
            Err(RegistryError::Config(format!(
                "subscription `{}` reads topic `{old}` and cannot read `{}`: give it another name",
                spec.name, spec.topic
            )))
        }
    }
}
