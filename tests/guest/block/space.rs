//! Space that is reserved for a file stays reserved on a full file system.
// guest: --mem 2G

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::lab::{SmallHost, MIB};
use devmapper_snapshotter::block::set_aside;

#[test]
fn what_a_file_has_reserved_can_be_asked_for_again_and_used_on_a_full_file_system() {
    for fs in ["ext4", "xfs"] {
        let host = SmallHost::new(fs, "400M");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        set_aside(&path, 32 * MIB).unwrap();
        host.fill(0);

        for bytes in [8 * MIB, 32 * MIB] {
            set_aside(&path, bytes).unwrap_or_else(|error| panic!("{fs}, {bytes} bytes: {error}"));
        }
        let more = set_aside(&path, 33 * MIB).unwrap_err();
        assert!(more.is_no_space(), "{fs}: {more}");
        file.set_len(32 * MIB).unwrap();
        for at in 0..32 {
            file.write_all_at(&vec![2; MIB as usize], at * MIB).unwrap();
        }
        file.sync_all().unwrap_or_else(|error| panic!("{fs}: {error}"));
    }
}
