//! Reads a configuration: takes each key from the TOML table, checks it, and collects all problems.

use std::path::Path;

use toml::{Table, Value};

use crate::units::Sectors;

use super::error::{ConfigError, Problem};
use super::options::{Backing, Config, Overrides};
use super::values::{
    block_size, boolean, device, device_name, device_prefix, file_system, path, percent,
    pool_features, size, socket_address, text, texts,
};
use super::{log_level, paths};

/// The configuration file that is read without `--config`. It may be missing.
pub const DEFAULT_PATH: &str = "/etc/devmapper-snapshotter/config.toml";

/// dm-thin needs at least 2 MiB of metadata, and uses no more than 64 MiB less than 16 GiB.
const METADATA_MIN: u64 = 2 << 20;
const METADATA_MAX: u64 = 16 << 30;
const DATA_MIN: u64 = 64 << 20;
const IMAGE_MIN: u64 = 64 << 20;

impl Config {
    /// Reads the file at `path`, or the default file if it exists when `path` is `None`, and
    /// applies `overrides`.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
        let (path, optional) = match path {
            Some(path) => (path, false),
            None => (Path::new(DEFAULT_PATH), true),
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { path: path.into(), source }),
        };
        Config::parse(&text, path, overrides)
    }

    /// Reads the text of a configuration. `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], [`ConfigError::Values`].
    pub fn parse(text: &str, path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
        let table: Table = text.parse().map_err(|source| ConfigError::Syntax {
            path: path.into(),
            source: Box::new(source),
        })?;
        let mut keys = Keys { table, problems: Vec::new() };
        let config = keys.config(overrides);
        keys.refuse_the_rest();
        if keys.problems.is_empty() {
            return Ok(config);
        }
        Err(ConfigError::Values { path: path.into(), problems: keys.problems })
    }
}

/// The keys that were not read yet, and the problems found so far.
struct Keys {
    table: Table,
    problems: Vec<Problem>,
}

impl Keys {
    fn config(&mut self, overrides: &Overrides) -> Config {
        let default = Config::default();
        let over = overrides.clone();
        let base_image_size = self
            .take("base_image_size", |v| size(v, IMAGE_MIN, u64::MAX))
            .unwrap_or(default.base_image_size);
        Config {
            root: self
                .overridden("root", over.root, path, paths::state_directory)
                .unwrap_or(default.root),
            address: self
                .overridden("address", over.address, path, paths::socket)
                .unwrap_or(default.address),
            log_level: self
                .overridden("log_level", over.log_level, text, |level| log_level::checked(&level))
                .unwrap_or(default.log_level),
            name: self.take("name", device_prefix).unwrap_or(default.name),
            block_size: self.take("block_size", block_size).unwrap_or(default.block_size),
            metadata_size: self.take("metadata_size", |v| size(v, METADATA_MIN, METADATA_MAX)),
            base_image_size,
            max_image_size: self.max_image_size(base_image_size),
            fs_type: self.take("fs_type", file_system).unwrap_or(default.fs_type),
            fs_options: self.take("fs_options", texts).unwrap_or_default(),
            mount_untrusted: self
                .take("mount_untrusted", boolean)
                .unwrap_or(default.mount_untrusted),
            discard: self.take("discard", boolean),
            min_free_percent: self
                .take("min_free_percent", percent)
                .unwrap_or(default.min_free_percent),
            accept_pool_features: self
                .take("accept_pool_features", pool_features)
                .unwrap_or_default(),
            metrics_address: self.take("metrics_address", socket_address),
            backing: self.backing(),
        }
    }

    fn max_image_size(&mut self, base: Sectors) -> Option<Sectors> {
        let most = self.take("max_image_size", |v| size(v, IMAGE_MIN, u64::MAX))?;
        if most < base {
            let (most, base) = (most.to_text(), base.to_text());
            let what = format!(
                "is {most}, less than the {base} of base_image_size, which every layer has; leave \
                 it out to allow images no more than that"
            );
            self.problem("max_image_size", &what);
        }
        Some(most)
    }

    fn backing(&mut self) -> Backing {
        let data_size = self.take("data_size", |v| size(v, DATA_MIN, u64::MAX));
        let data = self.take("data_device", device);
        let metadata = self.take("metadata_device", device);
        let pool_name = self.take("pool_name", device_name);
        match (pool_name, data, metadata) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                self.problem(
                    "pool_name",
                    "is for a pool that another program assembles; data_device and metadata_device \
                     are for a pool that this daemon assembles: set one or the other",
                );
                Backing::Embedded { data_size }
            }
            (Some(pool_name), None, None) => {
                self.only_embedded(data_size, "pool_name");
                Backing::External { pool_name }
            }
            (None, Some(data), metadata) => {
                self.only_embedded(data_size, "data_device");
                Backing::Devices { data, metadata }
            }
            (None, None, Some(_)) => {
                self.problem("metadata_device", "needs a data_device as well");
                Backing::Embedded { data_size }
            }
            (None, None, None) => Backing::Embedded { data_size },
        }
    }

    fn only_embedded(&mut self, data_size: Option<Sectors>, other: &str) {
        if data_size.is_some() {
            self.problem(
                "data_size",
                &format!("is for the embedded pool; with {other} the pool has the device's size"),
            );
        }
    }

    fn take<T>(&mut self, key: &str, read: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        let value = self.table.remove(key)?;
        match read(&value) {
            Ok(value) => Some(value),
            Err(what) => {
                self.problem(key, &what);
                None
            }
        }
    }

    /// The value of the flag or the environment variable, or else of the file. Both are checked.
    /// `None` when there is none, or it is wrong.
    fn overridden<T>(
        &mut self,
        key: &str,
        over: Option<T>,
        read: fn(&Value) -> Result<T, String>,
        check: fn(T) -> Result<T, String>,
    ) -> Option<T> {
        let file = self.take(key, |value| check(read(value)?));
        match over.map(check) {
            None => file,
            Some(Ok(value)) => Some(value),
            Some(Err(what)) => {
                let (flag, variable) = (key.replace('_', "-"), key.to_uppercase());
                self.problem(&format!("--{flag} or DEVMAPPER_SNAPSHOTTER_{variable}"), &what);
                None
            }
        }
    }

    fn refuse_the_rest(&mut self) {
        for key in std::mem::take(&mut self.table).keys() {
            self.problem(key, &format!("unknown key; known are {}", KNOWN.join(", ")));
        }
    }

    fn problem(&mut self, key: &str, what: &str) {
        self.problems.push(Problem { key: key.into(), what: what.into() });
    }
}

/// All keys. A test compares them with `config/config.toml` and with the keys that are read.
const KNOWN: [&str; 19] = [
    "root",
    "address",
    "log_level",
    "name",
    "data_size",
    "data_device",
    "metadata_device",
    "pool_name",
    "metadata_size",
    "block_size",
    "base_image_size",
    "max_image_size",
    "fs_type",
    "fs_options",
    "mount_untrusted",
    "discard",
    "min_free_percent",
    "accept_pool_features",
    "metrics_address",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PoolFeature;
    use crate::names::DmName;

    const SHIPPED: &str = include_str!("../../config/config.toml");

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("test.toml"), &Overrides::default())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_shipped_file_has_the_defaults_and_names_every_key() {
        assert_eq!(parse(SHIPPED).unwrap(), Config::default());
        for key in KNOWN {
            let named = SHIPPED.lines().any(|line| {
                line.trim_start_matches('#').trim_start().starts_with(&format!("{key} ="))
            });
            assert!(named, "{key} is not in config/config.toml");
        }
        let uncommented: String = SHIPPED
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
            .filter(|line| !line.starts_with("pool_name") && !line.starts_with("data_size"))
            .fold(String::new(), |text, line| text + line + "\n");
        parse(&uncommented).unwrap();
    }

    #[test]
    fn every_known_key_is_read() {
        for key in KNOWN {
            let error = parse(&format!("{key} = 1979-05-27")).unwrap_err();
            assert!(error.contains(&format!("\n  {key}: is a date")), "{error}");
        }
    }

    #[test]
    fn all_problems_are_reported_together_each_with_its_key() {
        let error = parse("root = \"var\"\nbase_image_size = \"10 potatoes\"\nblok_size = \"64KiB\"\nfs_type = \"fat\"\nmin_free_percent = 91\nmetrics_address = \"9653\"\n").unwrap_err();
        assert!(error.starts_with("configuration test.toml: 6 things are wrong:"), "{error}");
        for part in [
            "\n  root: ",
            "\n  base_image_size: \"10 potatoes\"",
            "\n  blok_size: unknown key",
            "\n  fs_type: ",
            "\n  min_free_percent: ",
            "\n  metrics_address: \"9653\"",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }

    #[test]
    fn sizes_have_units_and_limits() {
        for (text, what) in [
            ("block_size = \"65KiB\"", "block_size: is not a multiple of 64KiB"),
            ("block_size = \"32KiB\"", "block_size: \"32KiB\" is too small"),
            ("block_size = \"2GiB\"", "block_size: \"2GiB\" is too large"),
            ("base_image_size = \"10Gigs\"", "base_image_size: \"10Gigs\" is not a size"),
            ("base_image_size = 10", "base_image_size: is an integer where a size is needed"),
            ("metadata_size = \"17GiB\"", "metadata_size: \"17GiB\" is too large"),
            ("data_size = \"1MiB\"", "data_size: \"1MiB\" is too small"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(what), "{what:?} is not in {error}");
        }
        assert_eq!(parse("base_image_size = \"64MiB\"").unwrap().base_image_size, Sectors(131_072));
    }

    #[test]
    fn every_size_that_is_read_is_a_multiple_of_64_kib() {
        let config = parse(
            "base_image_size = \"100000001B\"\nmax_image_size = \"10GB\"\ndata_size = \"12GB\"\nmetadata_size = \"3000001B\"",
        )
        .unwrap();
        let Backing::Embedded { data_size } = config.backing else {
            panic!("{:?}", config.backing)
        };
        let sizes =
            [Some(config.base_image_size), config.max_image_size, data_size, config.metadata_size];
        for size in sizes {
            assert_eq!(size.unwrap().0 % 128, 0, "{size:?}");
        }
        assert_eq!(config.base_image_size, Sectors(195_328));
    }

    #[test]
    fn max_image_size_is_not_below_the_size_that_every_layer_has() {
        let error = parse("max_image_size = \"5GiB\"").unwrap_err();
        assert!(
            error.contains("max_image_size: is 5.0 GiB, less than the 10.0 GiB of base_image_size"),
            "{error}"
        );
        let config = parse("max_image_size = \"20GiB\"").unwrap();
        assert_eq!(config.max_image_size, Some(Sectors(20 << 21)));
    }

    #[test]
    fn the_kinds_of_pool_exclude_each_other() {
        for (text, key) in [
            ("pool_name = \"p\"\ndata_device = \"/dev/a\"", "pool_name"),
            ("metadata_device = \"/dev/a\"", "metadata_device"),
            ("pool_name = \"p\"\ndata_size = \"1GiB\"", "data_size"),
            ("data_device = \"/dev/a\"\ndata_size = \"1GiB\"", "data_size"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(&format!("\n  {key}: ")), "{error}");
        }
        assert_eq!(
            parse("pool_name = \"p\"").unwrap().backing,
            Backing::External { pool_name: DmName::new("p").unwrap() }
        );
        let carved = Backing::Devices { data: "/dev/a".into(), metadata: None };
        assert_eq!(parse("data_device = \"/dev/a\"").unwrap().backing, carved);
    }

    #[test]
    fn features_of_a_pool_are_accepted_by_their_names() {
        let accepted =
            parse("accept_pool_features = [\"queue_if_no_space\", \"skip_block_zeroing\"]")
                .unwrap();
        assert_eq!(
            accepted.accept_pool_features,
            [PoolFeature::QueueIfNoSpace, PoolFeature::SkipBlockZeroing]
        );
        let error = parse("accept_pool_features = [\"read_only\"]").unwrap_err();
        assert!(
            error.contains("\"read_only\" is not one of skip_block_zeroing, queue_if_no_space"),
            "{error}"
        );
    }

    #[test]
    fn flags_win_over_the_file_and_are_checked_too() {
        let over =
            Overrides { root: Some("/r".into()), address: None, log_level: Some("debug".into()) };
        let config = Config::parse(
            "root = \"/file\"\naddress = \"/a\"\nlog_level = \"warn\"",
            Path::new("t"),
            &over,
        )
        .unwrap();
        assert_eq!(
            (config.root, config.address, config.log_level),
            ("/r".into(), "/a".into(), "debug".into())
        );
        let over = Overrides { root: Some("relative".into()), ..Overrides::default() };
        let error = Config::parse("", Path::new("t"), &over).unwrap_err().to_string();
        assert!(
            error.contains(
                "--root or DEVMAPPER_SNAPSHOTTER_ROOT: \"relative\" is not an absolute path"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_not_toml_or_not_there_is_named() {
        assert!(parse("root = ").unwrap_err().starts_with("configuration test.toml: not TOML"));
        let error = Config::load(Some(Path::new("/no/such.toml")), &Overrides::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("/no/such.toml"), "{error}");
    }
}
