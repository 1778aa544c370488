//! Applies changed settings while everything runs.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Reading, Store, opening};
use crate::events::{
    facade::Refusal,
    queue::topic::registry::{Registry, RegistryError, SubscriptionSpec, TopicSpec},
    settings::{Settings, Subscription as SubscriptionSettings},
};

// === impl Store ===

impl Store {
    /// Applies changed settings. Additions are on disk when this returns; what is no longer
    /// configured is kept as an orphan. On a refusal nothing has changed.
    pub async fn reload(&self, settings: Settings) -> Result<(), Refusal> {
        let _one_at_a_time = self.0.reloading.lock().await;
        if self.0.ending.is_draining.load(Relaxed) {
            return Err(Refusal::Draining);
        }
        self.check_restart(&settings)?;
        let (store, asked) = (self.clone(), settings.clone());
        let followed = self.block(move || {
            let mut registry = store.0.registry.lock();
            configure(&mut registry, &asked)?;
            Ok((registry.topics().to_vec(), registry.subscriptions().to_vec()))
        });
        let (topics, subscriptions) = followed.await?.map_err(|error| follow(&error))?;
        *self.0.settings.write() = settings.clone();
        for meta in topics {
            let known = self.all_topics().into_iter().find(|topic| topic.id() == meta.id);
            if let Some(topic) = known {
                let old = topic.name();
                topic.set(&meta, opening::topic_settings(&meta, &settings), &settings);
                let mut map = self.0.topics.0.write();
                map.remove(&old);
                map.insert(topic.name(), topic);
            } else {
                let (store, all) = (self.clone(), settings.clone());
                let started = self.block(move || store.start_topic(&meta, &all)).await?;
                let topic = started.map_err(|error| Refusal::internal(error.to_string()))?;
                self.move_delayed(&topic);
                self.0.topics.0.write().insert(topic.name(), topic);
            }
        }
        let mut is_more = false;
        for meta in subscriptions {
            let known = self.0.subscriptions.read().get(&*meta.name).cloned();
            if let Some(reading) = known {
                self.change(reading, meta.is_orphaned, &settings).await?;
            } else {
                let started = self.start(&meta, None).await;
                started.map_err(|error| Refusal::internal(error.to_string()))?;
                is_more = true;
            }
        }
        match if is_more { self.snapshot().await } else { Ok(()) } {
            Ok(()) => self.note_begun().await,
            // The next snapshot will contain it.
            Err(error) => tracing::warn!(%error, "no snapshot of the delivery state was taken"),
        }
        Ok(())
    }

    async fn change(
        &self,
        reading: Reading,
        is_orphaned: bool,
        all: &Settings,
    ) -> Result<(), Refusal> {
        let name = reading.settings.name.clone();
        let known = all.subscriptions.iter().find(|it| it.name == name).cloned();
        let settings = known.unwrap_or_else(|| SubscriptionSettings {
            topic: reading.topic.name(),
            ..(*reading.settings).clone()
        });
        if settings != *reading.settings {
            reading.subscription.configure(settings.clone()).await?;
        }
        let reading = Reading { settings: Arc::new(settings), is_orphaned, ..reading };
        self.0.subscriptions.write().insert(name, reading);
        Ok(())
    }

    fn check_restart(&self, new: &Settings) -> Result<(), Refusal> {
        let old = self.0.settings.read();
        let durability = |settings: &Settings, name: &str| {
            settings.topics.iter().find(|it| *it.name == *name).map(|it| it.durability)
        };
        let changed = old.topics.iter().find(|topic| {
            durability(new, &topic.name).is_some_and(|durability| durability != topic.durability)
        });
        let what = if old.dir != new.dir {
            "`queue.dir`".to_owned()
        } else if old.durability != new.durability {
            "`queue.durability`".to_owned()
        } else if let Some(topic) = changed {
            format!("`durability` of topic `{}`", topic.name)
        } else {
            return Ok(());
        };
        Err(Refusal::NeedsRestart { detail: format!("a change of {what} needs a restart") })
    }
}

/// Applies the settings to the registry.
pub(super) fn configure(registry: &mut Registry, settings: &Settings) -> Result<(), RegistryError> {
    let topics: Vec<TopicSpec<'_>> = settings
        .topics
        .iter()
        .map(|topic| TopicSpec {
            name: &topic.name,
            partitions: u16::try_from(topic.partitions).unwrap_or(u16::MAX),
            renamed_from: topic.renamed_from.as_deref(),
        })
        .collect();
    let subscriptions: Vec<SubscriptionSpec<'_>> = settings
        .subscriptions
        .iter()
        .map(|it| SubscriptionSpec { name: &it.name, topic: &it.topic })
        .collect();
    registry.configure(&topics, &subscriptions)
}

fn follow(error: &RegistryError) -> Refusal {
    match error {
        RegistryError::Config(detail) => Refusal::ConfigInvalid { detail: detail.clone() },
        other => Refusal::unavailable(other.to_string()),
    }
}
