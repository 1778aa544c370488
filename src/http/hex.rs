//! Hexadecimal digits, computed eight at a time: every request has some in its IDs. Pure.

/// The 16 lower-case digits of `number`.
pub fn digits(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    let (high, low) = digits.split_at_mut(8);
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the number")]
    {
        high.copy_from_slice(&eight((number >> 32) as u32));
        low.copy_from_slice(&eight(number as u32));
    }
    digits
}

/// The 32 lower-case digits of `number`.
pub fn long_digits(number: u128) -> [u8; 32] {
    let mut text = [0; 32];
    let (high, low) = text.split_at_mut(16);
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the number")]
    {
        high.copy_from_slice(&digits((number >> 64) as u64));
        low.copy_from_slice(&digits(number as u64));
    }
    text
}

fn eight(number: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Each digit's value gets a byte of its own.
    let mut values = u64::from(number);
    values = (values | values << 16) & 0x0000_ffff_0000_ffff;
    values = (values | values << 8) & 0x00ff_00ff_00ff_00ff;
    values = (values | values << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 for those above 9: they carry into the next four bits.
    let letters = (values + 6 * ONES) >> 4 & ONES;
    let gap = u64::from(b'a' - b'9' - 1);
    (values + u64::from(b'0') * ONES + letters * gap).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_those_of_the_standard_library(short: u64, long: u128) {
            let (short_text, long_text) = (format!("{short:016x}"), format!("{long:032x}"));
            prop_assert_eq!(&digits(short)[..], short_text.as_bytes());
            prop_assert_eq!(&long_digits(long)[..], long_text.as_bytes());
        }
    }
}
