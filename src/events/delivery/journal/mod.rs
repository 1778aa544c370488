//! The journal: changes of subscription state, encoded as records of the state log.
//!
//! One record is one step of one subscription: `version u8, subscription 16 bytes, entries`. The
//! record's checksum covers its entries, so they apply together or not at all. Golden files fix the
//! bytes.

mod entries;
mod state;

pub use self::state::{decode_state, encode_state};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    encoding::{Encoding, Malformed},
    subscription::Entry,
};

/// Version of a record's body.
const VERSION: u8 = 1;

/// One step of one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whose step it is.
    pub subscription: Uuid,
    /// What changed, in order.
    pub entries: Vec<Entry>,
}

/// Encodes a step as the body of a record.
pub fn encode(subscription: Uuid, entries: &[Entry]) -> Bytes {
    let mut out = Vec::with_capacity(32 + 48 * entries.len());
    out.push(VERSION);
    out.extend_from_slice(subscription.as_bytes());
    (entries.len() as u64).put(&mut out);
    for entry in entries {
        entry.put(&mut out);
    }
    out.into()
}

/// Decodes the body of a record.
pub fn decode(body: &[u8]) -> Result<Step, Malformed> {
    let mut bytes = body;
    let subscription = subscription(&mut bytes)?;
    let entries = Vec::take(&mut bytes)?;
    if !bytes.is_empty() {
        return Err(Malformed::Bytes);
    }
    Ok(Step { subscription, entries })
}

/// The subscription of a record's body, without decoding its entries.
pub fn owner(body: &[u8]) -> Result<Uuid, Malformed> {
    subscription(&mut &*body)
}

fn subscription(bytes: &mut &[u8]) -> Result<Uuid, Malformed> {
    match u8::take(bytes)? {
        VERSION => {}
        0 => return Err(Malformed::Bytes),
        _ => return Err(Malformed::Newer),
    }
    let id = super::encoding::split(bytes, 16)?;
    Uuid::from_slice(id).map_err(|_| Malformed::Bytes)
}

#[cfg(test)]
mod tests;
