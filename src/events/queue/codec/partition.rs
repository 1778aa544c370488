//! Assigns keys to partitions as Kafka does, so that keys land together on both sides.

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;

/// The partition of a key among `partitions`, which is at least 1.
#[expect(clippy::cast_possible_truncation, reason = "a remainder of less than 65,536")]
pub fn partition_of(key: &[u8], partitions: u16) -> u16 {
    // Kafka's `toPositive`: the sign is masked, not negated.
    let positive = murmur2(key) & 0x7fff_ffff;
    (positive % u32::from(partitions.max(1))) as u16
}

/// MurmurHash2, 32 bits, with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    // Kafka takes the length as an `int`; no key is long enough for that to differ.
    #[expect(clippy::cast_possible_truncation, reason = "as Kafka does")]
    let mut hash = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn keys_hash_as_in_kafka() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, expected) in vectors {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
        }
    }

    #[test]
    fn the_sign_is_masked() {
        // -973932308 & 0x7fffffff = 1173551340
        assert_eq!(partition_of(b"21", 16), (1_173_551_340_u32 % 16) as u16);
        assert_eq!(partition_of(b"21", 1), 0);
        assert_eq!(partition_of(b"21", 0), 0, "no partitions are one");
    }
}
