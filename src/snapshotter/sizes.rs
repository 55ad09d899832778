//! The size of a new snapshot: how much a caller or an image can ask for, and how much the pool and
//! the file system allow.

use super::error::{During, Subject};
use super::marks::is_unpack;
use super::record::fs_type;
use super::shared::Shared;
use super::{Error, Labels};
use crate::fs::{cost, FsType};
use crate::store::ParentRef;
use crate::units::Sectors;

/// The label with the size of a writable snapshot: bytes, or a number with a unit.
pub const MAX_SIZE: &str = "containerd.io/snapshot/max-size";

/// An empty file system can take one part in this many of the pool. Of 10 GiB that is 160 MiB,
/// enough for an ext4 of 5 TiB.
const SHARE: u64 = 64;
/// What it can always take, however small the pool is, in bytes.
const ALWAYS: u64 = 4 << 20;

/// What the label of a new snapshot asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Nothing,
    /// The caller of Prepare asks for this size.
    Caller(Sectors),
    /// The image that is unpacked into it asks for this size.
    Image(Sectors),
}

impl Asked {
    /// Reads [`MAX_SIZE`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for text that is not a size. From an image such text is ignored, so that
    /// the image can still be pulled.
    pub fn of(key: &str, labels: &Labels) -> Result<Asked, Error> {
        let Some(text) = labels.get(MAX_SIZE) else { return Ok(Asked::Nothing) };
        match Sectors::parse_device(text) {
            Ok(size) if is_unpack(key, labels) => Ok(Asked::Image(size)),
            Ok(size) => Ok(Asked::Caller(size)),
            Err(error) if is_unpack(key, labels) => {
                tracing::warn!(
                    key,
                    %error,
                    "the image has a {MAX_SIZE} in its annotations that makes no sense; \
                     it is ignored"
                );
                Ok(Asked::Nothing)
            }
            Err(_) => Err(Error::invalid(
                format!("label {MAX_SIZE}={text:?}"),
                "it takes a number of bytes, or a number and a unit such as 20GiB",
            )),
        }
    }
}

/// What the size of a new snapshot depends on.
pub struct Basis<'a> {
    pub size: Sectors,
    pub fs: &'a str,
    pub parent: Option<&'a ParentRef>,
}

impl Shared {
    /// The size of a new writable snapshot. Nothing has been made yet.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the caller or the configuration asks for more than the pool or the
    /// file system allows. An image that asks for too much gets the largest allowed size.
    pub fn size_of_new(
        &self,
        key: &str,
        basis: &Basis<'_>,
        asked: Asked,
    ) -> Result<Sectors, Error> {
        let least = basis.size.max(self.settings.base_image_size);
        let (asked, of_image) = match asked {
            Asked::Nothing => (least, false),
            Asked::Caller(size) => {
                if size < least {
                    let (asked, gets) = (size.to_text(), least.to_text());
                    tracing::warn!(
                        key,
                        asked,
                        gets,
                        "{MAX_SIZE} is less than its parent or base_image_size; \
                         a file system cannot shrink, so it gets that size"
                    );
                }
                (size.max(least), false)
            }
            Asked::Image(size) => (size.min(self.settings.max_image_size).max(least), true),
        };
        if asked == basis.size {
            return Ok(asked);
        }
        let fs = fs_type(basis.fs)?;
        let (made, total) = (self.made_size(basis)?, self.pool_total(key.into())?);
        let most = cost::fits(fs, made, share(total)).unwrap_or(made).max(basis.size);
        if asked <= most {
            return Ok(asked);
        }
        if of_image && least <= most {
            return Ok(most);
        }
        Err(self.too_large(format!("snapshot {key:?}"), fs, made, (asked, most), total))
    }

    /// Refuses a template that takes too much of the pool.
    pub fn must_be_bearable(&self, fs: FsType, size: Sectors) -> Result<(), Error> {
        let total = self.pool_total(Subject::Template)?;
        if size <= cost::largest(fs, size) && cost::bytes(fs, size, size) <= share(total) {
            return Ok(());
        }
        let most = cost::makes(fs, share(total));
        Err(self.too_large("base_image_size".into(), fs, size, (size, most), total))
    }

    /// Refuses to make a template that would fill the pool. Writes to all other snapshots would
    /// then fail too.
    pub fn must_have_space(&self, fs: FsType, size: Sectors) -> Result<(), Error> {
        let needed = cost::bytes(fs, size, size) / cost::UNIT * self.pool.block_size().0 * 512;
        let seen = self.pool.look().during(Subject::Template, "cannot be made")?;
        match seen.data {
            Some(data) if data.free < needed.min(size.0.saturating_mul(512)) => {
                let pool = self.pool.device_name().to_string();
                Err(Error::NoSpace { pool, needed, free: data.free })
            }
            _ => Ok(()),
        }
    }

    /// The size of the pool's data area in bytes.
    fn pool_total(&self, subject: Subject) -> Result<u64, Error> {
        let seen = self.pool.look().during(subject, "cannot be compared with the pool's size")?;
        Ok(seen.data.map_or(0, |data| data.total))
    }

    /// The size with which the file system was made: that of the lowest layer of the chain, at
    /// most.
    fn made_size(&self, basis: &Basis<'_>) -> Result<Sectors, Error> {
        let mut made = basis.size;
        let mut parent = basis.parent.map(|parent| parent.key.clone());
        while let Some(key) = parent {
            let Some(record) = self.store.read(|r| r.find_snapshot(&key))? else { break };
            made = made.min(record.size);
            parent = record.parent;
        }
        Ok(made)
    }

    fn too_large(
        &self,
        what: String,
        fs: FsType,
        made: Sectors,
        sizes: (Sectors, Sectors),
        total: u64,
    ) -> Error {
        let (asked, most) = sizes;
        let why = if asked > cost::largest(fs, made) {
            format!(
                "an {fs} that was made with {} cannot be larger than {}",
                made.to_text(),
                cost::largest(fs, made).to_text()
            )
        } else {
            let takes = Sectors(cost::bytes(fs, made, asked) / 512).to_text();
            let (share, total) =
                (Sectors(share(total) / 512).to_text(), Sectors(total / 512).to_text());
            format!(
                "an empty {fs} of that size takes up to {takes} of pool {}, which has {total}; \
                 {share} is the most",
                self.pool.device_name()
            )
        };
        Error::TooLarge { what, asked, most, why }
    }
}

/// How many bytes of a pool of `total` bytes an empty file system can take.
fn share(total: u64) -> u64 {
    (total / SHARE).max(ALWAYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(key: &str, text: &str) -> Result<Asked, Error> {
        Asked::of(key, &Labels::from([(MAX_SIZE.to_string(), text.to_string())]))
    }

    #[test]
    fn a_size_is_read_in_bytes_or_with_a_unit_and_rounded_up_to_64_kib() {
        assert_eq!(asked("k", "1024").unwrap(), Asked::Caller(Sectors(128)));
        assert_eq!(asked("k", "65537").unwrap(), Asked::Caller(Sectors(256)));
        assert_eq!(asked("k", "1GiB").unwrap(), Asked::Caller(Sectors(1 << 21)));
        assert_eq!(Asked::of("k", &Labels::new()).unwrap(), Asked::Nothing);
        for bad in ["0", "-1", "many", "10 parsecs"] {
            let error = asked("k", bad).unwrap_err().to_string();
            assert!(error.contains(MAX_SIZE) && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn what_an_image_says_is_the_images_word_and_never_an_error() {
        assert_eq!(
            asked("d/1/extract-1 sha256:ab", "20GiB").unwrap(),
            Asked::Image(Sectors(20 << 21))
        );
        assert_eq!(asked("d/1/extract-1 sha256:ab", "abc").unwrap(), Asked::Nothing);
    }
}
