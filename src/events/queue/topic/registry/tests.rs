//! What was reported is on disk, and an invalid configuration changes nothing.

use std::sync::Arc;

use super::*;
use crate::events::queue::codec::Generation;
use crate::events::queue::storage::model::{Crash, Model, campaign};

fn open(model: &Model) -> Result<Registry, RegistryError> {
    Registry::open(Arc::new(model.clone()), Duration::ZERO)
}

fn topic(name: &str, partitions: u16) -> TopicSpec<'_> {
    TopicSpec { name, partitions, renamed_from: None }
}

fn reads<'a>(name: &'a str, topic: &'a str) -> SubscriptionSpec<'a> {
    SubscriptionSpec { name, topic }
}

fn refused(result: Result<(), RegistryError>) -> String {
    match result {
        Err(RegistryError::Config(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_configured_keeps_its_id() {
    let model = Model::new();
    let mut registry = open(&model).unwrap();
    registry.configure(&[topic("orders", 16)], &[reads("billing", "orders")]).unwrap();
    let (store, key) = (registry.store(), registry.hash_key());
    let (orders, billing) = (registry.topics()[0].clone(), registry.subscriptions()[0].clone());
    drop(registry);
    let mut registry = open(&model.restart()).unwrap();
    assert_eq!((registry.store(), registry.hash_key()), (store, key));
    registry.configure(&[topic("orders", 16)], &[reads("billing", "orders")]).unwrap();
    assert_eq!(registry.topics(), [orders]);
    assert_eq!(registry.subscriptions(), [billing]);
    assert_ne!(open(&Model::new()).unwrap().hash_key(), key, "each store has a secret of its own");
}

/// Queue 7.13, for the registry.
#[test]
fn a_second_process_is_kept_out() {
    let model = Model::new();
    let registry = open(&model).unwrap();
    assert!(matches!(open(&model), Err(RegistryError::Locked)));
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let waiting = thread::spawn(move || Registry::open(storage, Duration::from_secs(20)));
    thread::sleep(Duration::from_millis(20));
    drop(registry);
    waiting.join().unwrap().unwrap();
}

#[test]
fn what_is_not_configured_any_more_is_an_orphan_until_it_is_dropped() {
    let model = Model::new();
    let mut registry = open(&model).unwrap();
    let both = [topic("orders", 4), topic("refunds", 4)];
    registry.configure(&both, &[reads("billing", "refunds")]).unwrap();
    let refunds = registry.topic("refunds").unwrap().id;
    assert!(registry.drop_topic("refunds").is_err(), "it is configured");
    registry.configure(&both[..1], &[]).unwrap();
    assert!(registry.topic("refunds").unwrap().is_orphaned);
    assert!(registry.subscription("billing").unwrap().is_orphaned);
    let message = refused(registry.drop_topic("refunds").map(drop));
    assert_eq!(message, "subscription `billing` reads topic `refunds`: drop it first");
    registry.configure(&both, &[]).unwrap();
    let again = registry.topic("refunds").unwrap();
    assert!((again.id, again.is_orphaned) == (refunds, false), "it is back, with what it has");
    registry.configure(&both[..1], &[]).unwrap();
    registry.drop_subscription("billing").unwrap();
    assert_eq!(registry.droppable_topic("refunds").unwrap(), refunds);
    registry.drop_topic("refunds").unwrap();
    assert!(registry.topic("refunds").is_none());
    assert!(registry.drop_topic("refunds").is_err());
    registry.configure(&both, &[]).unwrap();
    assert_ne!(registry.topic("refunds").unwrap().id, refunds, "a new one of the same name");
}

#[test]
fn a_topic_is_adopted_under_another_name() {
    let model = Model::new();
    let mut registry = open(&model).unwrap();
    registry.configure(&[topic("orders", 4)], &[reads("billing", "orders")]).unwrap();
    let id = registry.topics()[0].id;
    let renamed = TopicSpec { renamed_from: Some("orders"), ..topic("purchases", 4) };
    registry.configure(&[renamed], &[reads("billing", "purchases")]).unwrap();
    assert_eq!(registry.topics().len(), 1);
    assert_eq!(registry.topic("purchases").unwrap().id, id);
    // The line stays in the configuration for good.
    registry.configure(&[renamed], &[reads("billing", "purchases")]).unwrap();
    let message = refused(registry.configure(&[renamed, topic("orders", 4)], &[]));
    assert_eq!(message, "topic `purchases` is renamed from `orders`, which is configured too");
    registry.configure(&[topic("purchases", 4), topic("orders", 4)], &[]).unwrap();
    let message = refused(registry.configure(&[renamed], &[]));
    assert!(message.contains("both have events"), "{message}");
}

#[test]
fn what_cannot_be_followed_is_refused_whole() {
    let model = Model::new();
    let mut registry = open(&model).unwrap();
    let topics = [topic("orders", 16), topic("refunds", 1)];
    registry.configure(&topics, &[reads("billing", "orders")]).unwrap();
    let before = registry.meta.clone();
    let files = model.files();
    let message = refused(registry.configure(&[topic("new", 1), topic("orders", 8)], &[]));
    assert_eq!(message, "topic `orders` has 16 partitions and cannot have 8: they never get fewer");
    let message = refused(registry.configure(&topics, &[reads("billing", "refunds")]));
    assert_eq!(
        message,
        "subscription `billing` reads topic `orders` and cannot read `refunds`: give it another name"
    );
    assert_eq!(registry.meta, before);
    assert_eq!(model.files(), files);
    registry.check(&topics, &[]).unwrap();
    assert!(registry.check(&[topic("orders", 8)], &[]).is_err());
    assert_eq!(registry.meta, before);
}

#[test]
fn growth_opens_a_generation() {
    let model = Model::new();
    let mut registry = open(&model).unwrap();
    registry.configure(&[topic("orders", 4)], &[]).unwrap();
    registry.configure(&[topic("orders", 8)], &[]).unwrap();
    registry.configure(&[topic("orders", 8)], &[]).unwrap();
    let id = registry.topics()[0].id;
    registry.generation_opened(id, 1, Offset(77)).unwrap();
    drop(registry);
    let registry = open(&model).unwrap();
    let expected = [
        Generation { number: 0, partitions: 4, opened: Offset::ZERO },
        Generation { number: 1, partitions: 8, opened: Offset(77) },
    ];
    assert_eq!(registry.topics()[0].generations, expected);
}

#[test]
fn a_newer_store_and_a_damaged_one_are_refused_and_left_alone() {
    let model = Model::new();
    let mut registry = open(&model).unwrap();
    registry.configure(&[topic("orders", 4)], &[]).unwrap();
    let mut meta = registry.meta.clone();
    drop(registry);
    let path = Path::new(META);
    let good = model.bytes(path);

    meta.format = 2;
    model.overwrite(path, &meta.encode());
    let refused = open(&model).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "META: the store has format 2, and this program knows up to 1: use a newer one"
    );

    meta.format = 0;
    model.overwrite(path, &meta.encode());
    assert!(matches!(open(&model), Err(RegistryError::Damaged(FileError::Contradiction))));

    model.overwrite(path, &good);
    model.flip(path, 40, 1);
    assert!(matches!(open(&model), Err(RegistryError::Damaged(FileError::Checksum))));

    Storage::remove(&model, path).unwrap();
    assert!(matches!(open(&model), Err(RegistryError::Missing)));
}

#[test]
fn a_torn_registry_is_never_taken_for_none_and_a_copy_of_it_is_all_that_is_needed() {
    let model = Model::new();
    let mut registry = open(&model).unwrap();
    registry.configure(&[topic("orders", 4)], &[reads("billing", "orders")]).unwrap();
    let before = registry.meta.clone();
    drop(registry);
    let path = Path::new(META);
    let good = model.bytes(path);
    for cut in 0..good.len() {
        // Shorter, or with its length but not all of its bytes on disk.
        let mut zeroed = good.clone();
        zeroed[cut..].fill(0);
        for torn in [good[..cut].to_vec(), zeroed] {
            if torn == good {
                continue;
            }
            model.overwrite(path, &torn);
            let refused = open(&model).unwrap_err();
            assert!(matches!(refused, RegistryError::Damaged(_)), "at {cut}: {refused}");
            assert!(refused.to_string().contains("put back a copy"), "{refused}");
            assert_eq!(model.bytes(path), torn, "it is left as it is");
        }
    }
    model.overwrite(path, &good);
    assert_eq!(open(&model).unwrap().meta, before);
}

/// Queue 7.1 for the registry: after a crash in any operation it has what was reported, or what was
/// about to be.
#[test]
fn what_was_told_survives_a_crash_at_every_operation() {
    let work = |model: &Model| -> Vec<Meta> {
        let mut told = Vec::new();
        let mut run = || -> Result<(), RegistryError> {
            let mut registry = open(model)?;
            told.push(registry.meta.clone());
            registry.configure(&[topic("orders", 4)], &[reads("billing", "orders")])?;
            told.push(registry.meta.clone());
            registry.configure(&[topic("orders", 8), topic("refunds", 1)], &[])?;
            told.push(registry.meta.clone());
            registry.drop_subscription("billing")?;
            told.push(registry.meta.clone());
            Ok(())
        };
        drop(run());
        told
    };
    let model = Model::new();
    work(&model);
    let operations = model.operations();
    assert!(operations > 15);
    for stop in 0..operations {
        for seed in 0..campaign(8) {
            let model = Model::new();
            model.stop_at(stop);
            let told = work(&model);
            let after = model.crash(Crash::any(seed));
            let mut registry = open(&after).unwrap_or_else(|why| panic!("at {stop}: {why}"));
            if let Some(last) = told.last() {
                let is_same = |it: &TopicMeta| registry.topics().iter().any(|is| is.id == it.id);
                assert_eq!(registry.store(), last.store, "at {stop}");
                assert!(last.topics.iter().all(is_same), "at {stop}");
                assert!(registry.meta.topics.len() <= last.topics.len() + 1);
                for it in &last.topics {
                    assert!(
                        Storage::list(&after, &Registry::topic_dir(it.id)).is_ok(),
                        "at {stop}"
                    );
                }
            }
            registry.configure(&[topic("orders", 8)], &[]).unwrap();
        }
    }
}
