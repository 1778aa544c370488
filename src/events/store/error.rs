//! Errors of opening a store, and what to do about them.

use std::io;

use super::state::Forgotten;
use crate::events::{
    delivery::snapshot::SnapshotError,
    facade::Refusal,
    ingress::IngressError,
    queue::{log::OpenError, topic::registry::RegistryError},
};

/// What to do about lost delivery state.
const MEND: &str = "`sluice queue verify` says what is lost; with --repair it goes on from what is known, and \
                    events that were settled since are delivered again";

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The delivery state.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The journal of the delivery state, or the records of requests.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The records of requests cannot be read.
    #[error(transparent)]
    Ingress(#[from] IngressError),
    /// The journal cannot be read.
    #[error("the journal of the delivery state: {0}")]
    Journal(String),
    /// Bytes of the journal have changed.
    #[error("the journal of the delivery state is damaged: {0}: {MEND}")]
    Damaged(String),
    /// It is no longer known what was settled.
    #[error("{0}: {MEND}")]
    Forgotten(Forgotten),
    /// The disk failed, or a thread could not be started.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The starting position of a subscription could not be set.
    #[error(transparent)]
    Refused(#[from] Refusal),
}
