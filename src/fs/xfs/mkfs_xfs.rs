//! The options of mkfs.xfs.

use crate::fs::options::{Own, Syntax};
use crate::units::Sectors;

/// The syntax of mkfs.xfs's arguments (mkfs/xfs_mkfs.c, the string given to getopt).
pub(crate) const SYNTAX: Syntax = Syntax { with_value: "bcdiLlmnprs", joined: None };

/// This crate's options: no discard, and the smallest log that mkfs.xfs allows since xfsprogs 5.19,
/// 64 MiB. That is also the default up to about 130 GiB; larger file systems would get a log of up
/// to 2 GiB.
pub(crate) fn own_options(size: Sectors) -> Vec<Own> {
    let with = |letter, value: String| Own { letter, value: Some(value) };
    vec![
        Own { letter: 'q', value: None },
        Own { letter: 'K', value: None },
        with('l', "size=64m".to_owned()),
        with('d', format!("size={}k", size.0 / 2)),
    ]
}
