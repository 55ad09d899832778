//! What a database claims of the thin ids of a shared pool, and its text in a marker.

use serde::{Deserialize, Serialize};

use crate::store::IdRange;

/// The bytes of a marker that are read and written. The text fits into the first 512 bytes, which a
/// disk writes whole or not at all.
pub const MARKER_BYTES: usize = 4096;
const TITLE: &str = "devmapper-snapshotter claims thin ids of this pool";

/// A claim, as it stands in a marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The UUID of the database, as in the dm uuids of its devices.
    pub uuid: String,
    /// The prefix of the names of its devices.
    pub name: String,
    pub range: IdRange,
    pub epoch: u64,
}

impl Claim {
    pub fn encode(&self) -> Vec<u8> {
        let body = serde_json::to_string(self).expect("strings and numbers");
        let mut bytes = format!("{TITLE}\n{body}\n{:016x}\n", digest(body.as_bytes())).into_bytes();
        bytes.resize(MARKER_BYTES, 0);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Claim> {
        let text = std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()?;
        let mut lines = text.strip_prefix(TITLE)?.strip_prefix('\n')?.lines();
        let (body, sum) = (lines.next()?, lines.next()?);
        (u64::from_str_radix(sum, 16).ok()? == digest(body.as_bytes()))
            .then(|| serde_json::from_str(body).ok())?
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Claim { uuid, name, range: IdRange { start, end }, epoch } = self;
        write!(
            f,
            "database {uuid} (devices named {name}-…, at epoch {epoch}) claims the thin ids \
             {start} to {}",
            end - 1
        )
    }
}

/// FNV-1a. It detects a torn or a foreign block, and not a forged one.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        let uuid = "00112233445566778899aabbccddeeff".to_owned();
        Claim {
            uuid,
            name: "n\"ä".repeat(25),
            range: IdRange { start: 1 << 23, end: (1 << 23) + (1 << 18) },
            epoch: u64::MAX,
        }
    }

    #[test]
    fn a_claim_is_read_back_from_its_first_sector_alone_and_not_when_a_bit_is_wrong() {
        let bytes = claim().encode();
        assert_eq!(bytes.len(), MARKER_BYTES);
        let mut sector = bytes[..512].to_vec();
        sector.resize(MARKER_BYTES, 0xee);
        assert_eq!(Claim::decode(&bytes), Some(claim()));
        let length = bytes.iter().position(|byte| *byte == 0).unwrap();
        assert!(length < 512, "{length}");
        for at in 0..length - 1 {
            for bit in 0..8 {
                let mut wrong = bytes.clone();
                wrong[at] ^= 1 << bit;
                let read = Claim::decode(&wrong);
                // The digits of the checksum may be written in either case.
                assert!(read.is_none() || read == Some(claim()), "byte {at}: {read:?}");
            }
        }
        assert_eq!(Claim::decode(&[0; MARKER_BYTES]), None);
        assert_eq!(Claim::decode(&[0xff; MARKER_BYTES]), None);
    }
}
