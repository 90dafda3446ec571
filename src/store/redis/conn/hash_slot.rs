//! The hash slot of a key in a Redis Cluster.

/// The slot of a key with this hash tag: CRC16 (XMODEM) modulo 16384, as in the Redis Cluster
/// specification.
pub(crate) fn hash_slot(tag: &str) -> u16 {
    let step = |crc: u16, byte: &u8| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    };
    tag.as_bytes().iter().fold(0, step) % 16384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_the_one_of_the_cluster_specification() {
        assert_eq!(hash_slot("123456789"), 0x31c3);
    }
}
