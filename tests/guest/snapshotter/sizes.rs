//! Sizes of snapshots: who may ask for how much, what a pool can hold, and whether the
//! estimates are right.
// guest: --mem 2G --disk 3G
use crate::lab::{fs_size, refused, sectors, spec, Daemon, ThinLab, GIB};
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::Code;
use devmapper_snapshotter::fs::{cost, Formatter, FsType, Mkfs, Writer};
use kit::{run, used_blocks, LoopDevice};

const MAX_SIZE: &str = "containerd.io/snapshot/max-size";
const REF: (&str, &str) = ("containerd.io/snapshot.ref", "sha256:ab");
const UNPACK: &str = "default/12/extract-345-AbC_ sha256:ab";

fn device_size(mounts: &[Mount]) -> u64 {
    run("blockdev", &["--getsize64", &mounts[0].source]).parse().unwrap()
}

#[test]
fn an_image_is_not_larger_than_the_operator_lets_it_be_and_neither_are_its_descendants() {
    for fs in ["ext4", "xfs"] {
        let name = format!("image{fs}");
        let mut d =
            Daemon::start_with(&name, &format!("base_image_size = \"512MiB\"\nfs_type = \"{fs}\""));
        let before = used_blocks(&format!("{name}-pool"));
        let mounts = d.prepare_labelled(UNPACK, "", &[(MAX_SIZE, "16TiB")]).unwrap();
        assert_eq!(device_size(&mounts), 512 << 20);
        let mounts = d.prepare_labelled("by-label", "", &[(MAX_SIZE, "100TiB"), REF]).unwrap();
        assert_eq!(device_size(&mounts), 512 << 20);
        assert!(
            used_blocks(&format!("{name}-pool")) - before < 40,
            "the image's wish took the pool's blocks"
        );
        d.commit_labelled("image", UNPACK, &[(MAX_SIZE, "16TiB"), REF]).unwrap();
        assert_eq!(device_size(&d.prepare("box", "image").unwrap()), 512 << 20);
        // What makes no sense is no reason not to pull it.
        for nonsense in ["abc", "-5", "0", "1e99", "99999999999TiB"] {
            let mounts = d
                .prepare_labelled("extract-1 sha256:cd", "image", &[(MAX_SIZE, nonsense)])
                .unwrap();
            assert_eq!(device_size(&mounts), 512 << 20, "{nonsense}");
            d.remove("extract-1 sha256:cd").unwrap();
        }
        assert!(d.log().contains("makes no sense"), "{}", d.log());
    }
}

#[test]
fn an_operator_may_let_images_be_larger_up_to_his_ceiling() {
    let mut d =
        Daemon::start_with("ceiling", "base_image_size = \"512MiB\"\nmax_image_size = \"1GiB\"");
    assert_eq!(
        device_size(&d.prepare_labelled("extract-1 a", "", &[(MAX_SIZE, "900MiB")]).unwrap()),
        900 << 20
    );
    let mounts = d.prepare_labelled("extract-2 b", "", &[(MAX_SIZE, "16TiB")]).unwrap();
    assert_eq!(device_size(&mounts), 1 << 30);
    assert!(fs_size(&mounts) > 900 << 20);
}

#[test]
fn a_caller_is_told_what_fits_before_anything_is_made() {
    for fs in ["ext4", "xfs"] {
        let name = format!("caller{fs}");
        let mut d =
            Daemon::start_with(&name, &format!("base_image_size = \"1GiB\"\nfs_type = \"{fs}\""));
        d.committed("base", "");
        d.cleanup();
        let before = used_blocks(&format!("{name}-pool"));
        for size in ["17TiB", "1PiB", "8EiB", "18446744073709551615", "99999999999TiB"] {
            for parent in ["", "base"] {
                let answer = d.prepare_labelled("a", parent, &[(MAX_SIZE, size)]);
                refused(answer, Code::InvalidArgument, &["\"a\"", fs, "fits"]);
            }
        }
        for nonsense in ["abc", "-5", "0", "10 parsecs"] {
            let answer = d.prepare_labelled("a", "base", &[(MAX_SIZE, nonsense)]);
            refused(answer, Code::InvalidArgument, &["max-size", nonsense, "20GiB"]);
        }
        refused(d.stat("a"), Code::NotFound, &[]);
        assert_eq!(used_blocks(&format!("{name}-pool")), before);
        // What it says fits does fit.
        let told = d
            .prepare_labelled("a", "base", &[(MAX_SIZE, "1PiB")])
            .unwrap_err()
            .message()
            .to_owned();
        let size = told.rsplit_once(". ").unwrap().1.strip_suffix(" fits").unwrap().to_owned();
        let rounded =
            format!("{}GiB", size.split(' ').next().unwrap().parse::<f64>().unwrap().floor());
        assert!(size.ends_with("GiB"), "{told}");
        d.prepare_labelled("a", "base", &[(MAX_SIZE, &rounded)]).unwrap();
    }
}

#[test]
fn a_child_labelled_smaller_than_its_parent_gets_the_parents_size_and_the_log_says_so() {
    let mut d = Daemon::start_with("smaller", "base_image_size = \"512MiB\"");
    d.prepare_labelled("a", "", &[(MAX_SIZE, "1GiB")]).unwrap();
    d.commit("large", "a").unwrap();
    let mounts = d.prepare_labelled("b", "large", &[(MAX_SIZE, "600MiB")]).unwrap();
    assert_eq!(device_size(&mounts), 1 << 30);
    let said = |d: &Daemon| {
        d.log().lines().any(|line| {
            line.contains("WARN") && line.contains("600.0 MiB") && line.contains("1.0 GiB")
        })
    };
    assert!(said(&d), "{}", d.log());
}

#[test]
fn a_large_ext4_grows_and_an_xfs_of_small_groups_is_not_grown_into_thousands_of_them() {
    let lab = ThinLab::new("grown");
    Mkfs::new()
        .format(&lab.open(1, 1024 * GIB), &spec(FsType::Ext4, &[]), sectors(1024 * GIB))
        .unwrap();
    lab.close(1);
    Mkfs::new()
        .grow(&lab.open(1, 2048 * GIB), FsType::Ext4, sectors(2048 * GIB), Writer::Us)
        .unwrap();
    lab.close(1);
    drop(lab);
    let lab = ThinLab::new("groups");
    let small = spec(FsType::Xfs, &["-d", "agsize=128m"]);
    Mkfs::new().format(&lab.open(1, GIB), &small, sectors(GIB)).unwrap();
    lab.close(1);
    let device = lab.open(1, 200 * GIB);
    let before = lab.mapped(1);
    let error = Mkfs::new()
        .grow(&device, FsType::Xfs, sectors(200 * GIB), Writer::Us)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("1600 allocation groups") && error.contains("base_image_size"),
        "{error}"
    );
    assert_eq!(lab.mapped(1), before);
    Mkfs::new().grow(&device, FsType::Xfs, sectors(100 * GIB), Writer::Us).unwrap();
    lab.close(1);
}

#[test]
fn any_size_works_on_a_disk_with_sectors_of_4096_bytes() {
    let disk = LoopDevice::with_options("2G", &["--sector-size", "4096"]);
    let config = format!(
        "data_device = \"{}\"\nbase_image_size = \"1000000001B\"\nmetadata_size = \"20000001B\"\nblock_size = \"64KiB\"",
        disk.node
    );
    let mut d = Daemon::start_with("sectors4k", &config);
    assert_eq!(device_size(&d.prepare("base", "").unwrap()), 1_000_013_824);
    for (key, size) in [("a", "12GB"), ("b", "1000000513"), ("c", "5000000000B"), ("d", "1.5GB")] {
        let mounts = d.prepare_labelled(key, "", &[(MAX_SIZE, size)]).unwrap();
        assert_eq!(device_size(&mounts) % (64 << 10), 0, "{size}");
        assert!(fs_size(&mounts) > 900_000_000);
    }
}

#[test]
fn a_base_size_that_the_pool_cannot_bear_is_refused_at_the_start_with_one_that_it_can() {
    for fs in ["ext4", "xfs"] {
        let name = format!("base{fs}");
        let mut d = Daemon::start_with(
            &name,
            &format!("data_size = \"1GiB\"\nbase_image_size = \"1GiB\"\nfs_type = \"{fs}\""),
        );
        d.committed("base", "");
        d.cleanup();
        let before = used_blocks(&format!("{name}-pool"));
        d.stop("TERM");
        let size = if fs == "ext4" { "100TiB" } else { "2000TiB" };
        d.configure(
            &name,
            &format!("data_size = \"1GiB\"\nbase_image_size = \"{size}\"\nfs_type = \"{fs}\""),
        );
        let said = d.start_is_refused();
        assert!(said.contains("base_image_size cannot have") && said.contains("fits"), "{said}");
        assert_eq!(used_blocks(&format!("{name}-pool")), before);
        d.configure(
            &name,
            &format!("data_size = \"1GiB\"\nbase_image_size = \"1GiB\"\nfs_type = \"{fs}\""),
        );
        d.begin();
        d.prepare("a", "base").unwrap();
    }
}

#[test]
fn an_empty_file_system_takes_no_more_than_was_estimated_made_or_grown() {
    const MIB: u64 = 1 << 20;
    use FsType::{Ext4, Xfs};
    for (fs_type, made, size) in [
        (Ext4, 64 * MIB, 64 * MIB),
        (Ext4, 10 * GIB, 10 * GIB),
        (Ext4, 1024 * GIB, 1024 * GIB),
        (Ext4, 64 * MIB, 20 * GIB),
        (Ext4, GIB, 100 * GIB),
        (Ext4, 10 * GIB, 1024 * GIB),
        (Xfs, 300 * MIB, 300 * MIB),
        (Xfs, 10 * GIB, 10 * GIB),
        (Xfs, 1024 * GIB, 1024 * GIB),
        (Xfs, 300 * MIB, 10 * GIB),
        (Xfs, 10 * GIB, 200 * GIB),
    ] {
        let lab = ThinLab::new("cost");
        let device = lab.open(1, made);
        Mkfs::new().format(&device, &spec(fs_type, &[]), sectors(made)).unwrap();
        if size > made {
            lab.close(1);
            Mkfs::new().grow(&lab.open(1, size), fs_type, sectors(size), Writer::Us).unwrap();
        }
        let (takes, most) =
            (lab.mapped(1), cost::bytes(fs_type, sectors(made), sectors(size)) / cost::UNIT);
        println!(
            "{fs_type} made with {} MiB, {} MiB now: {takes} blocks, at most {most} estimated",
            made / MIB,
            size / MIB
        );
        assert!(
            takes <= most && most < 8 * takes + 100,
            "{fs_type} {made} {size}: {takes} blocks, {most} estimated"
        );
        lab.close(1);
    }
}
