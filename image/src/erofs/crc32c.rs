//! CRC-32C (Castagnoli), as the kernel's `crc32c(~0, ...)`: no final inversion.

const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Bit by bit: it runs once per image, over 3 KiB.
pub(super) fn crc32c(data: &[u8]) -> u32 {
    data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn check_value_of_the_catalogue() {
        assert_eq!(!super::crc32c(b"123456789"), 0xE306_9283);
    }
}
