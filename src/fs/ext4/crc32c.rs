//! CRC-32C, the checksum of ext4's metadata.

/// CRC-32C without the final inversion, as the kernel's `ext4_chksum` computes it.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc_32c() {
        // The check value of the standard (RFC 3720), which has a final inversion.
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
    }
}
