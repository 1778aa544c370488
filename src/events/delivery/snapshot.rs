//! Snapshots of delivery state: the state, and where to continue in the journal.
//!
//! One file holds all subscriptions, each at its own position of the journal, so that taking a
//! snapshot stops nobody. Two generations are kept: if the newer one is damaged, the older one and
//! more of the journal give the same state. A file appears under its name only when it is
//! completely on disk: new file, sync, rename, sync of the directory.
//!
//! `"SLSNAP"`, version u16, CRC32C u32 of everything that follows, length u64 of that, then store 16
//! bytes, number of sections u32, and each: subscription 16 bytes, position u64, length u64, bytes.
//! Little-endian.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use uuid::Uuid;

use super::encoding::{Malformed, split};
use crate::events::queue::{
    Offset, StoreId,
    mutation::{self, Mutation},
    storage::Storage,
};

const MAGIC: &[u8; 6] = b"SLSNAP";
const VERSION: u16 = 1;
const HEADER: usize = 20;
/// The name while it is written.
const NEW: &str = "snapshot.new";
const PREFIX: &str = "snapshot-";
/// Prefix of the name of a damaged one.
const ASIDE: &str = "damaged-";
/// Generations kept.
const GENERATIONS: usize = 2;

/// The state of all subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By subscription.
    pub sections: Vec<Section>,
}

/// The state of one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The subscription.
    pub subscription: Uuid,
    /// The journal offset up to which `state` contains its records; all of those are durable.
    pub position: Offset,
    /// As the subscription wrote it.
    pub state: Bytes,
}

/// The result of examining a snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Its name.
    pub name: String,
    /// How large it is.
    pub bytes: u64,
    /// Number of subscriptions in it.
    pub sections: usize,
    /// What is wrong with it, in words.
    pub error: Option<String>,
}

/// Why the snapshots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system has failed.
    #[error("reading delivery state: {0}")]
    Io(#[from] io::Error),
    /// A later version wrote it.
    #[error("{0} was written by a later version of this program: use that one")]
    Newer(String),
    /// It is another store's.
    #[error("{0} belongs to another store")]
    Foreign(String),
}

/// A loaded snapshot, and damaged newer ones.
#[derive(Debug)]
pub struct Loaded {
    /// The newest intact snapshot; empty if there is none.
    pub snapshot: Snapshot,
    /// Names of newer, damaged ones.
    pub damaged: Vec<String>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Where to start reading the journal.
    pub fn start(&self) -> Offset {
        self.sections.iter().map(|section| section.position).min().unwrap_or_default()
    }

    /// Up to where the journal is known to be durable.
    pub fn floor(&self) -> Offset {
        self.sections.iter().map(|section| section.position).max().unwrap_or_default()
    }

    /// The section of a subscription.
    pub fn section(&self, subscription: Uuid) -> Option<&Section> {
        self.sections.iter().find(|section| section.subscription == subscription)
    }

    /// The bytes of the file.
    pub fn encode(&self, store: StoreId) -> Vec<u8> {
        let states: usize = self.sections.iter().map(|section| section.state.len() + 32).sum();
        let mut out = Vec::with_capacity(HEADER + 20 + states);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.resize(HEADER, 0);
        out.extend_from_slice(store.0.as_bytes());
        let count = u32::try_from(self.sections.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        for section in &self.sections {
            out.extend_from_slice(section.subscription.as_bytes());
            out.extend_from_slice(&section.position.0.to_le_bytes());
            out.extend_from_slice(&(section.state.len() as u64).to_le_bytes());
            out.extend_from_slice(&section.state);
        }
        let length = (out.len() - HEADER) as u64;
        out[12..HEADER].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes a file: the store it belongs to, and its content.
    pub fn decode(file: &[u8]) -> Result<(StoreId, Self), Malformed> {
        let mut rest = file;
        if split(&mut rest, MAGIC.len())? != MAGIC {
            return Err(Malformed::Bytes);
        }
        match u16::from_le_bytes(array(&mut rest)?) {
            VERSION => {}
            0 => return Err(Malformed::Bytes),
            _ => return Err(Malformed::Newer),
        }
        let crc = u32::from_le_bytes(array(&mut rest)?);
        let is_whole = crc32c::crc32c(rest) == crc || mutation::is(Mutation::AcceptABadCrc);
        let length = u64::from_le_bytes(array(&mut rest)?);
        if !is_whole || length != rest.len() as u64 {
            return Err(Malformed::Bytes);
        }
        let store = StoreId(Uuid::from_bytes(array(&mut rest)?));
        let count = u32::from_le_bytes(array(&mut rest)?);
        let mut sections = Vec::new();
        for _ in 0..count {
            let subscription = Uuid::from_bytes(array(&mut rest)?);
            let position = Offset(u64::from_le_bytes(array(&mut rest)?));
            let length = u64::from_le_bytes(array(&mut rest)?);
            let length = usize::try_from(length).map_err(|_| Malformed::Bytes)?;
            let state = Bytes::copy_from_slice(split(&mut rest, length)?);
            sections.push(Section { subscription, position, state });
        }
        if rest.is_empty() { Ok((store, Self { sections })) } else { Err(Malformed::Bytes) }
    }

    /// Writes it into `dir` and deletes all but the newest two. On disk when this returns. Blocks.
    ///
    /// Returns where the older of the two begins: the journal below that is no longer needed.
    pub fn write(&self, storage: &dyn Storage, dir: &Path, store: StoreId) -> io::Result<Offset> {
        let new = dir.join(NEW);
        match storage.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = storage.create(&new)?;
        file.write_at(&self.encode(store), 0)?;
        file.sync()?;
        drop(file);
        storage.rename(&new, &path(dir, self.start()))?;
        storage.sync_dir(dir)?;
        let kept = offsets(storage, dir)?;
        for gone in kept.iter().rev().skip(GENERATIONS) {
            storage.remove(&path(dir, *gone))?;
        }
        let older = kept.iter().rev().nth(1);
        Ok(older.copied().unwrap_or_default())
    }

    /// The newest intact snapshot in `dir`. Changes nothing. Blocks.
    pub fn load(
        storage: &dyn Storage,
        dir: &Path,
        store: StoreId,
    ) -> Result<Loaded, SnapshotError> {
        let mut damaged = Vec::new();
        for offset in offsets(storage, dir)?.into_iter().rev() {
            let path = path(dir, offset);
            let name = format!("{PREFIX}{:020}", offset.0);
            match Self::decode(&read(storage, &path)?) {
                Ok((owner, _)) if owner != store => return Err(SnapshotError::Foreign(name)),
                Ok((_, snapshot)) => return Ok(Loaded { snapshot, damaged }),
                Err(Malformed::Newer) => return Err(SnapshotError::Newer(name)),
                Err(Malformed::Bytes) => damaged.push(name),
            }
        }
        Ok(Loaded { snapshot: Self::default(), damaged })
    }
}

impl Snapshot {
    /// Examines every snapshot in `dir`. Changes nothing. Blocks.
    pub fn examine(storage: &dyn Storage, dir: &Path, store: StoreId) -> io::Result<Vec<Examined>> {
        let mut examined = Vec::new();
        for offset in offsets(storage, dir)? {
            let bytes = read(storage, &path(dir, offset))?;
            let (sections, error) = match Self::decode(&bytes) {
                Ok((owner, _)) if owner != store => (0, Some("it belongs to another store")),
                Ok((_, snapshot)) => (snapshot.sections.len(), None),
                Err(Malformed::Newer) => (0, Some("a later version of this program wrote it")),
                Err(Malformed::Bytes) => (0, Some("its bytes have changed")),
            };
            examined.push(Examined {
                name: format!("{PREFIX}{:020}", offset.0),
                bytes: bytes.len() as u64,
                sections,
                error: error.map(str::to_owned),
            });
        }
        Ok(examined)
    }
}

// === impl Loaded ===

impl Loaded {
    /// The snapshot. Damaged files are renamed, so that they never count as generations. Blocks.
    pub fn settle(self, storage: &dyn Storage, dir: &Path) -> io::Result<Snapshot> {
        set_aside(storage, dir, self.damaged.iter().map(String::as_str))?;
        Ok(self.snapshot)
    }
}

/// Renames damaged snapshots, so that they never count as generations. Blocks.
pub fn set_aside<'a>(
    storage: &dyn Storage,
    dir: &Path,
    names: impl IntoIterator<Item = &'a str>,
) -> io::Result<()> {
    let mut is_any = false;
    for name in names {
        storage.rename(&dir.join(name), &dir.join(format!("{ASIDE}{name}")))?;
        is_any = true;
    }
    if is_any { storage.sync_dir(dir) } else { Ok(()) }
}

fn path(dir: &Path, start: Offset) -> PathBuf {
    dir.join(format!("{PREFIX}{:020}", start.0))
}

/// The offsets at which the snapshots in `dir` begin, ascending; empty if the directory does not
/// exist.
fn offsets(storage: &dyn Storage, dir: &Path) -> io::Result<Vec<Offset>> {
    let names = match storage.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    let mut offsets: Vec<_> = names
        .iter()
        .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok().map(Offset))
        .collect();
    offsets.sort_unstable();
    Ok(offsets)
}

fn read(storage: &dyn Storage, path: &Path) -> io::Result<Vec<u8>> {
    let file = storage.open_read(path)?;
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Malformed> {
    split(bytes, N)?.try_into().map_err(|_| Malformed::Bytes)
}

#[cfg(test)]
mod tests;
