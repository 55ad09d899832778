//! The codec against the kernel's own layout. Requests are laid out as the kernel reads them,
//! and replies are read back. A reply that is cut short or inconsistent is an error that names
//! the field, and nothing panics. Tables, status lines and messages are parsed back from what
//! is printed.

use crate::layout::{self, Read};
use devmapper_snapshotter::dm::codec::{decode, encode};
use devmapper_snapshotter::dm::{
    BlockUsage, DeviceRef, DiscardPolicy, DriverVersion, Flags, Header, LinearTable, ListEntry,
    NoSpacePolicy, Payload, PoolFeatures, PoolMode, Reply, ReplyData, Request, Selector, Status,
    Target, TargetLine, TargetStatus, TargetVersion, ThinPoolStatus, ThinPoolTable, ThinStatus,
    ThinTable, Verb, WorkingPool,
};
use devmapper_snapshotter::dm::{CodecError, PoolMessage};
use devmapper_snapshotter::names::{DmName, DmUuid};
use devmapper_snapshotter::units::{DeviceNumber, Sectors, ThinId};
use proptest::prelude::*;

// --- values ---

fn text(bytes: usize) -> impl Strategy<Value = String> {
    // Cut at a character's border: multi-byte ones near the limit are the interesting case.
    prop::collection::vec(
        prop_oneof![4 => proptest::char::range('!', '~'), 1 => any::<char>()],
        0..=bytes,
    )
    .prop_map(move |chars| {
        let mut text = String::new();
        for c in chars.into_iter().filter(|c| *c != '\0') {
            if text.len() + c.len_utf8() <= bytes {
                text.push(c);
            }
        }
        text
    })
}

fn name() -> impl Strategy<Value = DmName> {
    text(127).prop_filter_map("a name", |text| DmName::new(text).ok())
}

fn uuid() -> impl Strategy<Value = DmUuid> {
    text(128).prop_filter_map("a uuid", |text| DmUuid::new(text).ok())
}

fn device() -> impl Strategy<Value = DeviceNumber> {
    (1u32..4096, 0u32..(1 << 20)).prop_map(|(major, minor)| DeviceNumber { major, minor })
}

fn header() -> impl Strategy<Value = Header> {
    let version =
        (38u32..60, any::<u32>()).prop_map(|(minor, patch)| DriverVersion::new(4, minor, patch));
    let numbers = (any::<u32>(), 0u32..(1 << 31), any::<u32>(), any::<u64>());
    let names = (text(127), text(128));
    (version, numbers, names).prop_map(
        |(version, (flags, open_count, event_nr, device), (name, uuid))| Header {
            version,
            flags: Flags(flags & !Flags::BUFFER_FULL.0 & !Flags::DATA_OUT.0),
            target_count: 0,
            open_count,
            event_nr,
            device,
            name,
            uuid,
        },
    )
}

fn line() -> impl Strategy<Value = TargetLine> {
    (any::<u64>(), any::<u64>(), text(15), text(300)).prop_map(|(start, length, kind, params)| {
        TargetLine { start: Sectors(start), length: Sectors(length), kind, params }
    })
}

/// A name or uuid as any program may have made it: bytes without a NUL.
fn bytes(limit: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8..=255, 0..limit)
}

fn entry() -> impl Strategy<Value = ListEntry> {
    (device(), bytes(128), any::<u32>(), prop::option::of(bytes(129)))
        .prop_map(|(device, name, event_nr, uuid)| ListEntry { device, name, event_nr, uuid })
}

fn target_version() -> impl Strategy<Value = TargetVersion> {
    (text(15), any::<[u32; 3]>())
        .prop_map(|(name, [a, b, c])| TargetVersion { name, version: DriverVersion::new(a, b, c) })
}

/// A verb and an answer to it.
fn answer() -> impl Strategy<Value = (Verb, Reply)> {
    let list = |n| 0usize..n;
    let data = prop_oneof![
        Just((Verb::Info, ReplyData::None)),
        prop::collection::vec(entry(), list(20))
            .prop_map(|all| (Verb::List, ReplyData::Devices(all))),
        prop::collection::vec(line(), list(10))
            .prop_map(|all| (Verb::Table, ReplyData::Targets(all))),
        prop::collection::vec(target_version(), 1..20)
            .prop_map(|all| (Verb::ListVersions, ReplyData::Versions(all))),
        prop::collection::vec(device(), list(20))
            .prop_map(|all| (Verb::Deps, ReplyData::Deps(all))),
        text(300).prop_map(|text| (Verb::Message, ReplyData::Text(text))),
    ];
    (header(), data).prop_map(|(mut header, (verb, data))| {
        match &data {
            ReplyData::Targets(lines) => header.target_count = lines.len() as u32,
            ReplyData::Text(_) => header.flags |= Flags::DATA_OUT,
            ReplyData::Devices(_) if header.version.minor < 45 => header.version.minor = 45,
            _ => {}
        }
        (verb, Reply { header, data })
    })
}

fn device_ref() -> impl Strategy<Value = DeviceRef> {
    prop_oneof![
        device().prop_map(DeviceRef::Number),
        "/dev/[a-z0-9/]{1,20}".prop_map(|path| DeviceRef::Path(path.into())),
    ]
}

fn thin_id() -> impl Strategy<Value = ThinId> {
    (0u32..(1 << 24)).prop_map(|id| ThinId::new(id).unwrap())
}

fn sectors() -> impl Strategy<Value = Sectors> {
    any::<u64>().prop_map(Sectors)
}

fn discard() -> impl Strategy<Value = DiscardPolicy> {
    prop_oneof![
        Just(DiscardPolicy::PassDown),
        Just(DiscardPolicy::NoPassDown),
        Just(DiscardPolicy::Ignore)
    ]
}

fn no_space() -> impl Strategy<Value = NoSpacePolicy> {
    prop_oneof![Just(NoSpacePolicy::Queue), Just(NoSpacePolicy::Error)]
}

fn target() -> impl Strategy<Value = Target> {
    let features = (any::<bool>(), discard(), any::<bool>(), no_space()).prop_map(
        |(skip_block_zeroing, discard, read_only, no_space)| PoolFeatures {
            skip_block_zeroing,
            discard,
            read_only,
            no_space,
        },
    );
    let pool =
        ((sectors(), sectors()), device_ref(), device_ref(), 1u64..=16384, any::<u64>(), features)
            .prop_map(|((start, length), metadata, data, block, low_water_blocks, features)| {
                let block_size = Sectors(block * 128);
                let table = ThinPoolTable {
                    start,
                    length,
                    metadata,
                    data,
                    block_size,
                    low_water_blocks,
                    features,
                };
                Target::ThinPool(table)
            });
    let thin = (sectors(), sectors(), device_ref(), thin_id(), prop::option::of(device_ref()))
        .prop_map(|(start, length, pool, id, external_origin)| {
            Target::Thin(ThinTable { start, length, pool, id, external_origin })
        });
    let linear = (sectors(), sectors(), device_ref(), sectors()).prop_map(
        |(start, length, device, offset)| {
            Target::Linear(LinearTable { start, length, device, offset })
        },
    );
    let error = (sectors(), sectors()).prop_map(|(start, length)| Target::Error { start, length });
    let other = (sectors(), sectors(), "[a-z]{1,10}-x", text(60))
        .prop_map(|(start, length, kind, params)| Target::Other { kind, start, length, params });
    prop_oneof![pool, thin, linear, error, other]
}

fn usage() -> impl Strategy<Value = BlockUsage> {
    any::<(u64, u64)>().prop_map(|(used, total)| BlockUsage { used, total })
}

fn pool_status() -> impl Strategy<Value = ThinPoolStatus> {
    let mode = prop_oneof![
        Just(PoolMode::ReadWrite),
        Just(PoolMode::ReadOnly),
        Just(PoolMode::OutOfDataSpace)
    ];
    let options = (any::<Option<u64>>(), any::<bool>(), any::<Option<u64>>());
    let working = (any::<u64>(), usage(), usage(), mode, discard(), no_space(), options).prop_map(
        |(transaction_id, metadata, data, mode, discard, no_space, options)| {
            let (held_metadata_root, needs_check, metadata_low_water) = options;
            ThinPoolStatus::Working(WorkingPool {
                transaction_id,
                metadata,
                data,
                held_metadata_root,
                mode,
                discard,
                no_space,
                needs_check,
                metadata_low_water,
            })
        },
    );
    prop_oneof![8 => working, 1 => Just(ThinPoolStatus::Fail), 1 => Just(ThinPoolStatus::Error)]
}

fn thin_status() -> impl Strategy<Value = ThinStatus> {
    prop_oneof![
        (sectors(), prop::option::of(sectors()))
            .prop_map(|(mapped, highest)| ThinStatus::Working { mapped, highest }),
        Just(ThinStatus::Inactive),
        Just(ThinStatus::Fail),
        Just(ThinStatus::Error),
    ]
}

fn message() -> impl Strategy<Value = PoolMessage> {
    prop_oneof![
        thin_id().prop_map(PoolMessage::CreateThin),
        (thin_id(), thin_id()).prop_map(|(id, origin)| PoolMessage::CreateSnap { id, origin }),
        thin_id().prop_map(PoolMessage::Delete),
        any::<(u64, u64)>().prop_map(|(old, new)| PoolMessage::SetTransactionId { old, new }),
        Just(PoolMessage::ReserveMetadataSnap),
        Just(PoolMessage::ReleaseMetadataSnap),
    ]
}

// --- properties ---

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_the_kernel_lays_out_is_read_back((verb, reply) in answer(), space in 0usize..4096) {
        let buffer = layout::reply(&reply, space);
        prop_assert_eq!(decode(verb, &buffer), Ok(reply));
    }

    #[test]
    fn a_reply_that_is_cut_short_is_an_error(
        (verb, reply) in answer(),
        cut in any::<prop::sample::Index>(),
    ) {
        let buffer = layout::reply(&reply, 0);
        let end = cut.index(buffer.len());
        // Without data nothing but the header counts.
        if reply.data != ReplyData::None || end < 305 {
            prop_assert!(decode(verb, &buffer[..end]).is_err());
        }
    }

    #[test]
    fn a_reply_that_lies_does_not_panic(
        (verb, reply) in answer(),
        asked in prop::sample::select(Verb::ALL.to_vec()),
        lies in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut buffer = layout::reply(&reply, 0);
        for (place, byte) in lies {
            let place = place.index(buffer.len());
            buffer[place] = byte;
        }
        let _ = decode(verb, &buffer);
        // An answer to another question.
        let _ = decode(asked, &buffer);
    }

    #[test]
    fn bytes_that_are_no_reply_do_not_panic(
        verb in prop::sample::select(Verb::ALL.to_vec()),
        buffer in prop::collection::vec(any::<u8>(), 0..1000),
    ) {
        let _ = decode(verb, &buffer);
    }

    #[test]
    fn a_request_is_what_the_kernel_reads(
        name in name(),
        uuid in prop::option::of(uuid()),
        flags in any::<u32>(),
        event_nr in any::<u32>(),
        table in prop::collection::vec(line(), 0..6),
        space in 0usize..2000,
    ) {
        let mut request = Request::new(Verb::Load)
            .name(name.clone())
            .flags(Flags(flags))
            .event_nr(event_nr)
            .payload(Payload::Table(table.clone()));
        if let Some(uuid) = uuid.clone() {
            request = request.create_uuid(uuid);
        }
        let buffer = encode(&request, space).unwrap();
        prop_assert!(buffer.len() >= layout::HEADER + space);
        let read = Read(&buffer);
        prop_assert_eq!((read.u32(0), read.u32(12) as usize), (4, buffer.len()));
        prop_assert_eq!((read.u32(28), read.u32(32)), (flags, event_nr));
        prop_assert_eq!(read.text(48), name.as_str());
        prop_assert_eq!(read.text(176), uuid.as_ref().map_or("", DmUuid::as_str));
        prop_assert_eq!(read.table(), table);
    }

    #[test]
    fn a_message_is_what_the_kernel_reads(
        sector in any::<u64>(),
        text in text(300),
        device in device(),
    ) {
        let payload = Payload::Message { sector: Sectors(sector), text: text.clone() };
        let request = Request::new(Verb::Message).device(Selector::Number(device)).payload(payload);
        let buffer = encode(&request, 0).unwrap();
        let read = Read(&buffer);
        let data = read.u32(16) as usize;
        prop_assert_eq!((read.u64(40), read.u64(data)), (device.to_u64(), sector));
        prop_assert_eq!(read.text(data + 8), text);
    }

    #[test]
    fn a_table_line_is_printed_and_parsed_back(target in target()) {
        prop_assert_eq!(Target::from_line(&target.to_line()), Ok(target));
    }

    #[test]
    fn a_status_line_is_printed_and_parsed_back(pool in pool_status(), thin in thin_status()) {
        prop_assert_eq!(ThinPoolStatus::parse(&pool.to_string()), Ok(pool));
        prop_assert_eq!(ThinStatus::parse(&thin.to_string()), Ok(thin));
        let line = |kind: &str, params: String| TargetLine {
            start: Sectors(0), length: Sectors(8), kind: kind.to_owned(), params,
        };
        let read = TargetStatus::from_line(&line("thin-pool", pool.to_string())).unwrap();
        prop_assert_eq!(read.status, Status::ThinPool(pool));
        let read = TargetStatus::from_line(&line("thin", thin.to_string())).unwrap();
        prop_assert_eq!(read.status, Status::Thin(thin));
    }

    #[test]
    fn a_pool_message_is_printed_and_parsed_back(message in message()) {
        prop_assert_eq!(PoolMessage::parse(&message.to_string()), Ok(message));
    }

    #[test]
    fn texts_that_are_nothing_do_not_panic(
        text in text(80),
        kind in "thin|thin-pool|linear|error",
    ) {
        let line = TargetLine { start: Sectors(0), length: Sectors(1), kind, params: text.clone() };
        let _ = Target::from_line(&line);
        let _ = TargetStatus::from_line(&line);
        let _ = PoolMessage::parse(&text);
        let _ = DmName::new(text.clone());
        let _ = text.parse::<DeviceNumber>();
        let _ = text.parse::<ThinId>();
    }
}

// --- errors that name the field ---

fn named() -> Header {
    Header { version: DriverVersion::new(4, 47, 0), name: "device".to_owned(), ..Header::default() }
}

fn two_devices() -> Vec<u8> {
    let entry = |minor| ListEntry {
        device: DeviceNumber { major: 253, minor },
        name: b"some".to_vec(),
        event_nr: 1,
        uuid: Some(b"uuid".to_vec()),
    };
    layout::reply(&Reply { header: named(), data: ReplyData::Devices(vec![entry(1), entry(2)]) }, 0)
}

fn two_targets() -> Vec<u8> {
    let line = TargetLine {
        start: Sectors(0),
        length: Sectors(8),
        kind: "linear".to_owned(),
        params: "7:0 0".to_owned(),
    };
    let header = Header { target_count: 2, ..named() };
    layout::reply(&Reply { header, data: ReplyData::Targets(vec![line.clone(), line]) }, 0)
}

fn two_versions() -> Vec<u8> {
    let version = TargetVersion { name: "linear".to_owned(), version: DriverVersion::new(1, 4, 0) };
    layout::reply(
        &Reply { header: named(), data: ReplyData::Versions(vec![version.clone(), version]) },
        0,
    )
}

fn two_deps() -> Vec<u8> {
    let deps = vec![DeviceNumber { major: 7, minor: 0 }; 2];
    layout::reply(&Reply { header: named(), data: ReplyData::Deps(deps) }, 0)
}

/// `value` at `at`, which counts from the start of the data when it is past the header.
fn lie(mut buffer: Vec<u8>, at: usize, value: u32) -> Vec<u8> {
    buffer[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    buffer
}

/// All bytes from `at` on filled up, so that no string there ends.
fn endless(mut buffer: Vec<u8>, at: usize) -> Vec<u8> {
    buffer[at..].fill(b'x');
    buffer
}

#[test]
fn errors_name_the_field() {
    const DATA: usize = layout::HEADER;
    let full = |field: &str| format!("dm_{field}");
    let cases: Vec<(Verb, Vec<u8>, String)> = vec![
        (Verb::Info, vec![0; 10], "open_count".into()),
        (Verb::Info, vec![0; 300], "uuid".into()),
        (Verb::Info, lie(two_deps(), 24, u32::MAX), "open_count".into()),
        (Verb::Info, endless(two_deps(), 48), "name".into()),
        (Verb::Info, endless(two_deps(), 176), "uuid".into()),
        (Verb::Deps, lie(two_deps(), 12, 100_000), "data_size".into()),
        (Verb::Deps, lie(two_deps(), 16, 100_000), "data_start".into()),
        (Verb::Deps, lie(two_deps(), DATA, 3), full("target_deps.dev")),
        (Verb::Deps, lie(two_deps(), DATA, u32::MAX), full("target_deps.dev")),
        (Verb::List, lie(two_devices(), DATA + 8, 100_000), full("name_list.next")),
        (Verb::List, lie(two_devices(), DATA + 8, 4), full("name_list.next")),
        (Verb::List, lie(two_devices(), DATA + 8, 16), full("name_list.name")),
        (Verb::List, lie(two_devices(), DATA + 8, 24), full("name_list.event_nr")),
        (Verb::List, endless(two_devices(), DATA + 40 + 12), full("name_list.name")),
        (Verb::List, endless(two_devices(), DATA + 40 + 32), full("name_list.uuid")),
        (Verb::Table, lie(two_targets(), DATA + 20, 0), full("target_spec.next")),
        (Verb::Table, lie(two_targets(), DATA + 20, 100_000), full("target_spec.next")),
        (Verb::Table, lie(two_targets(), DATA + 20, 40), full("target_spec parameters")),
        (Verb::Table, lie(two_targets(), DATA + 20, 30), full("target_spec.target_type")),
        (Verb::Table, endless(two_targets(), DATA + 48 + 40), full("target_spec parameters")),
        (Verb::Table, lie(two_targets(), 20, 3), full("target_spec.next")),
        (Verb::ListVersions, lie(two_versions(), DATA, 100_000), full("target_versions.next")),
        (Verb::ListVersions, lie(two_versions(), DATA, 8), full("target_versions.version")),
        (Verb::ListVersions, lie(two_versions(), DATA, 20), full("target_versions.name")),
        (
            Verb::Message,
            lie(endless(two_deps(), DATA), 28, Flags::DATA_OUT.0),
            "message output".into(),
        ),
    ];
    for (verb, buffer, field) in cases {
        let error = decode(verb, &buffer).expect_err(&field);
        assert!(error.to_string().contains(&field), "{field}: {error}");
    }
    let mut bad = two_targets();
    bad[DATA + 24] = 0xff;
    let error = decode(Verb::Table, &bad).unwrap_err();
    assert_eq!(error, CodecError::NotText { field: "dm_target_spec.target_type", offset: 24 });
}

#[test]
fn a_full_buffer_carries_no_data() {
    let buffer = lie(two_devices(), 28, Flags::BUFFER_FULL.0);
    let reply = decode(Verb::List, &lie(buffer, 312 + 8, 100_000)).unwrap();
    assert_eq!(reply.data, ReplyData::None);
    assert!(reply.header.flags.contains(Flags::BUFFER_FULL));
}

#[test]
fn what_does_not_fit_a_field_is_refused() {
    let line = |kind: &str, params: &str| {
        let (kind, params) = (kind.to_owned(), params.to_owned());
        let line = TargetLine { start: Sectors(0), length: Sectors(1), kind, params };
        encode(&Request::new(Verb::Load).payload(Payload::Table(vec![line])), 0)
    };
    assert!(line("fifteen-letters", "").is_ok());
    let refused = |result: Result<Vec<u8>, CodecError>, name: &str| match result {
        Err(CodecError::DoesNotFit { field, .. }) => assert_eq!(field, name),
        other => panic!("{name}: {other:?}"),
    };
    refused(line("sixteen-letters-", ""), "target_type");
    refused(line("line\0ar", ""), "target_type");
    refused(line("linear", "7:0\0 0"), "target parameters");
    let payload = Payload::Message { sector: Sectors(0), text: "a\0b".to_owned() };
    refused(encode(&Request::new(Verb::Message).payload(payload), 0), "message");
    refused(
        encode(&Request::new(Verb::Rename).payload(Payload::Text("a\0".to_owned())), 0),
        "data",
    );
}

#[test]
fn lists_of_older_kernels_lack_uuids() {
    let read = |minor| {
        let mut buffer = two_devices();
        buffer[4..8].copy_from_slice(&u32::to_ne_bytes(minor));
        match decode(Verb::List, &buffer).unwrap().data {
            ReplyData::Devices(devices) => (devices[1].event_nr, devices[1].uuid.is_some()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(38), (1, false));
    assert_eq!(read(45), (1, true));
}
