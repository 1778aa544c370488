//! The binary encoding of delivery state: numbers as LEB128, lists with their length first.
//!
//! Encoder and decoder come from one declaration ([`fields!`], [`variants!`]), so they cannot drift
//! apart. Decoding accepts any bytes: it fails instead of panicking, and allocates at most in
//! proportion to its input.

use bytes::Bytes;

use crate::events::queue::{LogId, Offset};

/// Capacity reserved for a list before its items are seen.
const ROOM: usize = 1024;

/// Bytes that are damaged, or were written by a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early, go on too long, or contradict themselves.
    #[error("malformed")]
    Bytes,
    /// A later version wrote them.
    #[error("written by a later version of this program")]
    Newer,
}

/// Written as bytes, and read back.
pub(crate) trait Encoding: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);

    /// Takes it from the front of `bytes`.
    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed>;
}

/// A struct: its fields in this order.
macro_rules! fields {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::events::delivery::encoding::Encoding for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::events::delivery::encoding::Encoding::put(&self.$field, out);)*
            }

            fn take(
                bytes: &mut &[u8],
            ) -> Result<Self, $crate::events::delivery::encoding::Malformed> {
                Ok(Self {
                    $($field: $crate::events::delivery::encoding::Encoding::take(bytes)?,)*
                })
            }
        }
    };
}

/// An enum: a number, then the fields of the variant. Numbers are on disk and never reused. An
/// unknown one was written by a later version.
macro_rules! variants {
    ($type:ident {
        $($number:literal => $variant:ident $({ $($field:ident),* $(,)? })? $(($($item:ident),*))?),*
        $(,)?
    }) => {
        impl $crate::events::delivery::encoding::Encoding for $type {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $({ $($field),* })? $(($($item),*))? => {
                        out.push($number);
                        $($($crate::events::delivery::encoding::Encoding::put($field, out);)*)?
                        $($($crate::events::delivery::encoding::Encoding::put($item, out);)*)?
                    })*
                }
            }

            fn take(
                bytes: &mut &[u8],
            ) -> Result<Self, $crate::events::delivery::encoding::Malformed> {
                match <u8 as $crate::events::delivery::encoding::Encoding>::take(bytes)? {
                    $($number => {
                        $($(
                            let $field = $crate::events::delivery::encoding::Encoding::take(bytes)?;
                        )*)?
                        $($(
                            let $item = $crate::events::delivery::encoding::Encoding::take(bytes)?;
                        )*)?
                        Ok(Self::$variant $({ $($field),* })? $(($($item),*))?)
                    })*
                    _ => Err($crate::events::delivery::encoding::Malformed::Newer),
                }
            }
        }
    };
}

pub(crate) use fields;
pub(crate) use variants;

/// The first `count` of `bytes`.
pub(crate) fn split<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (front, rest) = bytes.split_at_checked(count).ok_or(Malformed::Bytes)?;
    *bytes = rest;
    Ok(front)
}

/// A length; at most the number of bytes that follow.
fn length(bytes: &mut &[u8]) -> Result<usize, Malformed> {
    let count = usize::try_from(u64::take(bytes)?).map_err(|_| Malformed::Bytes)?;
    if count <= bytes.len() { Ok(count) } else { Err(Malformed::Bytes) }
}

impl Encoding for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        let mut rest = *self;
        while rest >= 0x80 {
            out.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        out.push(rest.to_le_bytes()[0]);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = split(bytes, 1)?[0];
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Bytes)
    }
}

/// Numbers that are written as a wider type.
macro_rules! narrow {
    ($($type:ty),*) => {$(
        impl Encoding for $type {
            fn put(&self, out: &mut Vec<u8>) {
                u64::from(*self).put(out);
            }

            fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
                u64::take(bytes)?.try_into().map_err(|_| Malformed::Bytes)
            }
        }
    )*};
}

narrow!(u16, u32);

impl Encoding for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(split(bytes, 1)?[0])
    }
}

impl Encoding for u128 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let bytes = split(bytes, 16)?.try_into().map_err(|_| Malformed::Bytes)?;
        Ok(Self::from_le_bytes(bytes))
    }
}

/// Zigzag: small numbers are short, whatever their sign.
impl Encoding for i64 {
    fn put(&self, out: &mut Vec<u8>) {
        ((self << 1) ^ (self >> 63)).cast_unsigned().put(out);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let value = u64::take(bytes)?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }
}

impl Encoding for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::take(bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Bytes),
        }
    }
}

impl<T: Encoding> Encoding for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        if bool::take(bytes)? { T::take(bytes).map(Some) } else { Ok(None) }
    }
}

impl<T: Encoding> Encoding for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u64).put(out);
        for item in self {
            item.put(out);
        }
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        // Every item takes at least one byte.
        let count = length(bytes)?;
        let mut items = Self::with_capacity(count.min(ROOM));
        for _ in 0..count {
            items.push(T::take(bytes)?);
        }
        Ok(items)
    }
}

impl<T: Encoding> Encoding for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        T::take(bytes).map(Self::new)
    }
}

impl<A: Encoding, B: Encoding> Encoding for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        Ok((A::take(bytes)?, B::take(bytes)?))
    }
}

impl Encoding for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u64).put(out);
        out.extend_from_slice(self);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let count = length(bytes)?;
        split(bytes, count).map(Self::copy_from_slice)
    }
}

impl Encoding for Box<str> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u64).put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let count = length(bytes)?;
        let text = std::str::from_utf8(split(bytes, count)?).map_err(|_| Malformed::Bytes)?;
        Ok(text.into())
    }
}

impl Encoding for Offset {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        u64::take(bytes).map(Self)
    }
}

impl Encoding for LogId {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let bytes = split(bytes, 16)?.try_into().map_err(|_| Malformed::Bytes)?;
        Ok(Self(uuid::Uuid::from_bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<T: Encoding>(mut bytes: &[u8]) -> Result<T, Malformed> {
        let value = T::take(&mut bytes)?;
        if bytes.is_empty() { Ok(value) } else { Err(Malformed::Bytes) }
    }

    fn round<T: Encoding>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        value.put(&mut out);
        out
    }

    proptest! {
        #[test]
        fn numbers_come_back(small: u32, large: u64, sign: i64, huge: u128) {
            prop_assert_eq!(decode(&round(&small)), Ok(small));
            prop_assert_eq!(decode(&round(&large)), Ok(large));
            prop_assert_eq!(decode(&round(&sign)), Ok(sign));
            prop_assert_eq!(decode(&round(&huge)), Ok(huge));
        }
    }

    #[test]
    fn what_cannot_have_been_written_is_refused() {
        assert_eq!(decode::<u64>(&[0xff; 9]), Err(Malformed::Bytes));
        assert_eq!(
            decode::<u64>(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            Err(Malformed::Bytes)
        );
        assert_eq!(decode::<u64>(&round(&u64::MAX)), Ok(u64::MAX));
        assert_eq!(decode::<u16>(&round(&65_536_u64)), Err(Malformed::Bytes));
        assert_eq!(decode::<bool>(&[2]), Err(Malformed::Bytes));
        assert_eq!(decode::<bool>(&[1, 1]), Err(Malformed::Bytes), "more than that");
        // A list that says it has a billion items has to have a billion bytes.
        assert_eq!(decode::<Vec<u64>>(&round(&1_000_000_000_u64)), Err(Malformed::Bytes));
        assert_eq!(decode::<Box<str>>(&[1, 0xff]), Err(Malformed::Bytes));
    }
}
