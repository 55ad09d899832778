//! Opening: a file that exists, a missing file, a foreign file, a damaged file, and a full disk.
//! Every message names the file.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use redb::{Database, StorageBackend, TableDefinition};

use super::disk::{Disk, Power, Survivors};
use super::fixture::*;
use crate::store::{IdRange, PoolRecord, SnapshotRecord, Store, StoreError};
use crate::units::Sectors;

fn refusal(path: &Path) -> StoreError {
    match Store::open(path) {
        Ok(_) => panic!("{} opened", path.display()),
        Err(error) => {
            let name = path.display().to_string();
            assert!(error.to_string().contains(&name), "{error} names no {name}");
            error
        }
    }
}

#[test]
fn a_new_file_belongs_to_its_owner_alone_and_leaves_no_draft() {
    let fixture = Fixture::new();
    commit(&fixture.store, |c| c.insert_snapshot("a", &active(1, None), None));
    let mut names: Vec<_> = std::fs::read_dir(fixture.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["metadata.redb", "metadata.redb.commits"]);
    for name in names {
        let mode =
            std::fs::metadata(fixture.directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn what_a_crash_left_of_making_the_file_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("metadata.redb.new"), "half a database").unwrap();
    let store = Store::open(&directory.path().join("metadata.redb")).unwrap();
    commit(&store, |c| add(c, "a", &active(1, None)));
    assert!(!directory.path().join("metadata.redb.new").exists());
}

#[test]
fn a_draft_that_somebody_is_writing_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let draft = directory.path().join("metadata.redb.new");
    let theirs = std::fs::File::create(&draft).unwrap();
    theirs.lock().unwrap();
    let error = refusal(&directory.path().join("metadata.redb"));
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
}

#[test]
fn a_file_that_is_open_already_is_refused() {
    let fixture = Fixture::new();
    let error = refusal(&fixture.directory.path().join("metadata.redb"));
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    commit(&fixture.store, |c| add(c, "a", &active(1, None)));
}

#[test]
fn a_directory_that_does_not_exist_is_named() {
    let error = refusal(Path::new("/nonexistent/metadata.redb"));
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[test]
fn a_newer_schema_is_refused_with_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    drop(Store::open(&path).unwrap());
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = TableDefinition::<&[u8], &[u8]>::new("meta");
    transaction.open_table(meta).unwrap().insert(b"schema".as_slice(), b"7".as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refusal(&path);
    assert!(matches!(error, StoreError::NewerSchema { found: 7, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("schema version 7"), "{error}");
}

#[test]
fn somebody_elses_redb_file_is_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    let theirs = TableDefinition::<&str, u64>::new("theirs");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(theirs).unwrap().insert("a", 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Corrupted { .. }), "{error}");
    let database = Database::open(&path).unwrap();
    let tables = redb::ReadableDatabase::begin_read(&database).unwrap();
    assert_eq!(tables.list_tables().unwrap().count(), 1);
}

#[test]
fn a_file_of_something_else_is_refused_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    for length in [1, 511, 4096, 100_000] {
        let content = b"not a database. ".repeat(length / 16 + 1);
        std::fs::write(&path, &content).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, StoreError::Corrupted { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

#[test]
fn damage_is_found_at_the_start_or_does_no_harm() {
    let disk = Disk::blank(&Power::steady());
    let store = Store::with_backend(disk.clone()).unwrap();
    for n in 1..=40 {
        commit(&store, |c| add(c, &format!("key-{n}"), &active(n, None)));
    }
    let expected = store.read(|r| r.page(None, usize::MAX)).unwrap();
    drop(store);
    let sound = disk.bytes();
    let (mut refused, mut harmless) = (0, 0);
    for at in (0..sound.len()).step_by(1021) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x55;
        match Store::with_backend(Disk::with_bytes(bytes)) {
            Err(StoreError::Corrupted { .. }) => refused += 1,
            Err(error) => panic!("damage at {at}: {error}"),
            Ok(store) => {
                let page = store.read(|r| r.page(None, usize::MAX)).unwrap();
                assert_eq!(page, expected, "damage at {at} was not noticed");
                harmless += 1;
            }
        }
    }
    println!("{refused} refused, {harmless} harmless");
    assert!(refused > 10, "{refused}");
}

#[test]
fn a_shortened_file_is_refused() {
    let disk = Disk::blank(&Power::steady());
    let store = Store::with_backend(disk.clone()).unwrap();
    commit(&store, |c| add(c, "a", &active(1, None)));
    drop(store);
    let sound = disk.bytes();
    for length in [1, 320, 4096, sound.len() / 2, sound.len() - 1] {
        match Store::with_backend(Disk::with_bytes(sound[..length].to_vec())) {
            Err(StoreError::Corrupted { .. }) => {}
            Err(error) => panic!("{length} bytes: {error}"),
            Ok(_) => panic!("{length} bytes opened"),
        }
    }
}

/// A disk that has no space while a flag is set.
#[derive(Debug, Clone)]
struct Filling {
    disk: Disk,
    full: Arc<AtomicBool>,
}

impl Filling {
    fn check_space(&self) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Filling {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_space()?;
        self.disk.set_len(len)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_space()?;
        self.disk.write(offset, data)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync_data()
    }
}

#[test]
fn a_full_disk_is_named_as_such_and_the_store_goes_on_once_there_is_space() {
    let disk = Disk::blank(&Power::steady());
    let full = Arc::new(AtomicBool::new(false));
    let filling = Filling { disk: disk.clone(), full: Arc::clone(&full) };
    let store = Store::with_backends(move || Ok(filling.clone())).unwrap();
    commit(&store, |c| add(c, "before", &active(1, None)));
    full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let error = refused(&store, |c| add(c, "during", &active(2, None)));
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "no space left for database (backend): free space on its file system"
        );
    }
    full.store(false, Ordering::SeqCst);
    assert_eq!(store.read(|r| r.page(None, 9)).unwrap().len(), 1);
    commit(&store, |c| add(c, "after", &active(3, None)));
    let found = disk.after_cut(Survivors::Nothing, &Power::steady());
    drop(store);
    let store = Store::with_backend(found).unwrap();
    let page = store.read(|r| r.page(None, 9)).unwrap();
    let keys: Vec<_> = page.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["after", "before"]);
}

#[test]
fn a_record_that_cannot_be_understood_is_named_with_its_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    drop(Store::open(&path).unwrap());
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let snapshots = TableDefinition::<&[u8], &[u8]>::new("snapshots");
    transaction.open_table(snapshots).unwrap().insert(b"a/b".as_slice(), b"{}".as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let store = Store::open(&path).unwrap();
    let message = store.read(|r| r.snapshot("a/b")).unwrap_err().to_string();
    assert!(message.contains("snapshots") && message.contains("a/b"), "{message}");
    assert!(message.contains("missing field"), "{message}");
}

#[test]
fn a_record_of_the_first_schema_still_reads() {
    let text = br#"{"number":3,"kind":"committed","parent":null,"thin":3,"size":2048,"fs":"ext4",
        "labels":{},"created_at":{"secs_since_epoch":1700000000,"nanos_since_epoch":5},
        "updated_at":{"secs_since_epoch":1700000000,"nanos_since_epoch":5}}"#;
    let record: SnapshotRecord = serde_json::from_slice(text).unwrap();
    assert_eq!(
        (record.number, record.thin, record.mapped, record.inodes),
        (3, thin(3), None, None)
    );
    let text = br#"{"uuid":"6f0c0d4e","name":"dms","block_size":128,"formatted":true,"epoch":3}"#;
    let pool = PoolRecord {
        name: "dms".to_owned(),
        uuid: "6f0c0d4e".to_owned(),
        external: None,
        block_size: Sectors(128),
        formatted: true,
        epoch: 3,
        epoch_next: None,
    };
    assert_eq!(serde_json::from_slice::<PoolRecord>(text).unwrap(), pool);
    let beyond = br#"{"start":0,"end":1,"unknown":true}"#;
    let range = serde_json::from_slice::<IdRange>(beyond).unwrap();
    assert_eq!((range.start, range.end), (0, 1));
}

/// The content and the modification time of a file, and the names in its directory.
fn seen(path: &Path) -> (Vec<u8>, std::time::SystemTime, Vec<std::ffi::OsString>) {
    let directory = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let names = directory.map(|entry| entry.unwrap().file_name()).collect();
    (std::fs::read(path).unwrap(), std::fs::metadata(path).unwrap().modified().unwrap(), names)
}

#[test]
fn a_copy_is_read_and_mended_without_a_change_to_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    let store = Store::open(&path).unwrap();
    commit(&store, |c| c.insert_snapshot("a", &active(1, None), None));
    let error = Store::open_copy(&path).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    // As after a crash: the database was not closed.
    let crashed = directory.path().join("crashed.redb");
    std::fs::copy(&path, &crashed).unwrap();
    drop(store);
    for path in [&path, &crashed] {
        let before = seen(path);
        let copy = Store::open_copy(path).unwrap();
        assert!(copy.read(|r| r.find_snapshot("a")).unwrap().is_some());
        commit(&copy, |c| c.insert_snapshot("b", &active(2, None), None));
        drop(copy);
        assert!(seen(path) == before, "{} was changed", path.display());
    }
    let missing = directory.path().join("missing.redb");
    assert!(matches!(Store::open_copy(&missing), Err(StoreError::Missing { .. })));
    assert!(!missing.exists());
    std::fs::write(&missing, "").unwrap();
    assert!(matches!(Store::open_copy(&missing), Err(StoreError::Corrupted { .. })));
    std::fs::write(&missing, [7; 8192]).unwrap();
    assert!(matches!(Store::open_copy(&missing), Err(StoreError::Corrupted { .. })));
}
