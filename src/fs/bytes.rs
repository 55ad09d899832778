//! Reads integers from the bytes of an on-disk structure, with bounds checks.

/// The bytes of an on-disk structure. Its fields are read by offset; a field beyond the end is
/// `None`.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    /// The bytes from `offset` on.
    pub(super) fn from(self, offset: usize) -> Option<Fields<'a>> {
        self.0.get(offset..).map(Fields)
    }

    pub(super) fn u8(self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    pub(super) fn le16(self, offset: usize) -> Option<u16> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    pub(super) fn le32(self, offset: usize) -> Option<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    pub(super) fn be32(self, offset: usize) -> Option<u32> {
        self.bytes(offset).map(u32::from_be_bytes)
    }

    pub(super) fn be64(self, offset: usize) -> Option<u64> {
        self.bytes(offset).map(u64::from_be_bytes)
    }
}
