//! Labels: what updates do to them, and the labels by which containerd shows that it was told
//! of a capability which this snapshotter does not have.
// guest: --mem 2G

use std::process::Command;

use crate::lab::{refused, Daemon};
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::Code;
use kit::{labels, with_mounted};

const CHAIN: &str = "containerd.io/snapshot/parent-chain-id";
const UIDS: (&str, &str) = ("containerd.io/snapshot/uidmapping", "0:100000:65536");
const GIDS: (&str, &str) = ("containerd.io/snapshot/gidmapping", "0:200000:65536");

#[test]
fn an_update_that_names_a_label_twice_or_beside_all_of_them_loses_none() {
    let mut d = Daemon::start("updates");
    for (paths, left) in [
        (&["labels.a", "labels.a"][..], &[("a", "1"), ("old", "x")][..]),
        (&["labels.a", "labels"], &[("a", "1"), ("b.c/d", "2")]),
        (&["labels", "labels.a"], &[("a", "1"), ("b.c/d", "2")]),
        (&["labels", "labels"], &[("a", "1"), ("b.c/d", "2")]),
        (
            &["labels.b.c/d", "labels.a", "labels.b.c/d"],
            &[("a", "1"), ("b.c/d", "2"), ("old", "x")],
        ),
        (&["labels.gone", "labels.gone", "labels.a"], &[("a", "1"), ("old", "x")]),
        (&["labels.old", "labels.old"], &[]),
    ] {
        d.prepare_labelled("k", "", &[("old", "x")]).unwrap();
        let mut info = d.stat("k").unwrap();
        info.labels = labels(&[("a", "1"), ("b.c/d", "2")]);
        let answer = d.update(info, paths).unwrap();
        assert_eq!(
            (&answer.labels, &d.stat("k").unwrap().labels),
            (&labels(left), &labels(left)),
            "{paths:?}"
        );
        d.remove("k").unwrap();
    }
}

#[test]
fn a_layer_that_comes_without_its_parent_is_refused_with_the_capability_to_take_out() {
    let mut d = Daemon::start("rebase");
    d.committed("base", "");
    let unpack = "default/3/extract-1 sha256:cd";
    let labels = [("containerd.io/snapshot.ref", "sha256:cd"), (CHAIN, "sha256:ab")];
    let says = &["rebase", "capabilities", "proxy_plugins"][..];
    refused(d.prepare_labelled(unpack, "", &labels), Code::FailedPrecondition, says);
    refused(d.stat(unpack), Code::NotFound, &[]);
    // With its parent, as containerd unpacks one after the other, it is right.
    d.prepare_labelled(unpack, "base", &labels).unwrap();
    d.commit("layer", unpack).unwrap();
}

#[test]
fn a_commit_that_names_another_parent_than_the_snapshot_has_is_refused() {
    let mut d = Daemon::start("rebase22");
    d.committed("base", "");
    d.committed("other", "");
    d.prepare("alone", "").unwrap();
    d.prepare("on-base", "base").unwrap();
    refused(
        d.commit_on("layer", "alone", "base"),
        Code::FailedPrecondition,
        &["\"alone\"", "rebase", "capabilities"],
    );
    refused(d.commit_on("layer", "on-base", "other"), Code::FailedPrecondition, &["rebase"]);
    refused(d.commit_on("layer", "unknown", "other"), Code::NotFound, &["\"unknown\""]);
    refused(d.stat("layer"), Code::NotFound, &[]);
    d.commit_on("layer", "on-base", "base").unwrap();
    d.commit_on("layer2", "alone", "").unwrap();
}

/// Mounts as containerd 2 does with these options: without them, and then an idmapped clone of it
/// in the same place (core/mount/mount_linux.go). Prints the owners of what `script` lists there.
fn idmapped(mount: &Mount, script: &str) -> String {
    let option = |name: &str| {
        let found = mount.options.iter().find_map(|option| option.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} is not in {:?}", mount.options)).to_owned()
    };
    let rest: Vec<String> = mount
        .options
        .iter()
        .filter(|o| !o.starts_with("uidmap=") && !o.starts_with("gidmap="))
        .cloned()
        .collect();
    let target = tempfile::tempdir().unwrap();
    let output = Command::new("python3")
        .args([
            "-c",
            IDMAP,
            &mount.source,
            &mount.r#type,
            &rest.join(","),
            &option("uidmap="),
            &option("gidmap="),
        ])
        .arg(target.path())
        .arg(script)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

const IDMAP: &str = r#"
import ctypes, os, struct, subprocess, sys
source, kind, options, uids, gids, target, script = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "syscall %d" % number)
    return result
ready, done = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    if libc.unshare(0x10000000) != 0:
        os._exit(1)
    os.write(ready[1], b"x")
    os.read(done[0], 1)
    os._exit(0)
os.read(ready[0], 1)
for name, ranges in (("uid_map", uids), ("gid_map", gids)):
    with open("/proc/%d/%s" % (child, name), "w") as file:
        file.write("".join(part.replace(":", " ") + "\n" for part in ranges.split(",")))
userns = os.open("/proc/%d/ns/user" % child, os.O_RDONLY)
os.write(done[1], b"x")
os.waitpid(child, 0)
subprocess.run(["mount", "-t", kind, source, target] + (["-o", options] if options else []), check=True)
# open_tree, mount_setattr, move_mount
tree = call(428, ctypes.c_int(-9), target.encode(), ctypes.c_uint(1 | 0o2000000 | 0x1000 | 0x8000))
attributes = struct.pack("QQQQ", 0x00100000, 0, 1 << 18, userns)
call(442, tree, b"", ctypes.c_uint(0x1000 | 0x8000), attributes, ctypes.c_size_t(len(attributes)))
call(429, tree, b"", ctypes.c_int(-9), target.encode(), ctypes.c_uint(4))
os.close(tree)
status = subprocess.run(["bash", "-ec", script], cwd=target).returncode
subprocess.run(["umount", target], check=True)
subprocess.run(["umount", target], check=True)
sys.exit(status)
"#;

#[test]
fn files_of_a_snapshot_with_mapped_ids_belong_to_the_container_and_are_stored_unmapped() {
    for fs in ["ext4", "xfs"] {
        let mut d = Daemon::start_with(&format!("idmap{fs}"), &format!("fs_type = \"{fs}\""));
        let mounts = d.prepare("layer", "").unwrap();
        with_mounted(&mounts[0], |root| {
            std::fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o777))
                .unwrap();
            std::fs::write(root.join("by-root"), "").unwrap();
            std::fs::write(root.join("by-1000"), "").unwrap();
            std::os::unix::fs::chown(root.join("by-1000"), Some(1000), Some(1000)).unwrap();
        });
        d.commit("image", "layer").unwrap();

        let mounts = d.prepare_labelled("box", "image", &[UIDS, GIDS]).unwrap();
        let list =
            "setpriv --reuid 100005 --regid 200005 --clear-groups touch new; stat -c '%n %u:%g' by-1000 by-root new";
        assert_eq!(
            idmapped(&mounts[0], list),
            "by-1000 101000:201000\nby-root 100000:200000\nnew 100005:200005"
        );
        assert_eq!(d.mounts("box").unwrap(), mounts);
        d.restart("KILL");
        assert_eq!(d.mounts("box").unwrap(), mounts);
        // On disk, and so in what is committed, are the ids that the container knows.
        d.commit("image2", "box").unwrap();
        let view = d.view("view", "image2").unwrap();
        assert!(view[0].options.iter().all(|option| !option.contains("map")), "{view:?}");
        with_mounted(&view[0], |root| {
            let owner = |name: &str| {
                std::os::unix::fs::MetadataExt::uid(&root.join(name).metadata().unwrap())
            };
            assert_eq!((owner("by-root"), owner("by-1000"), owner("new")), (0, 1000, 5));
        });
        let view = d.view_labelled("mapped-view", "image2", &[UIDS, GIDS]).unwrap();
        assert_eq!(idmapped(&view[0], "stat -c '%u:%g' by-root"), "100000:200000");
    }
}

#[test]
fn ids_that_containerd_has_changed_itself_are_not_mapped_again() {
    let mut d = Daemon::start("shifted");
    d.committed("default/1/sha256:ab", "");
    // Without the capability "remap-ids" containerd makes this one and changes every owner in it.
    d.prepare("default/2/sha256:cd-remap", "default/1/sha256:ab").unwrap();
    d.commit("default/3/sha256:cd", "default/2/sha256:cd-remap").unwrap();
    d.restart("TERM");
    let mounts = d.prepare_labelled("default/4/box", "default/3/sha256:cd", &[UIDS, GIDS]).unwrap();
    assert!(mounts[0].options.iter().all(|option| !option.contains("map")), "{mounts:?}");
}

#[test]
fn a_mapping_that_is_half_or_nonsense_is_refused_and_an_images_is_not_heeded() {
    let mut d = Daemon::start("mappings");
    refused(d.prepare_labelled("a", "", &[UIDS]), Code::InvalidArgument, &["gidmapping"]);
    refused(
        d.prepare_labelled("a", "", &[(UIDS.0, "0:x:1"), GIDS]),
        Code::InvalidArgument,
        &["uidmapping", "0:x:1"],
    );
    refused(
        d.view_labelled("a", "", &[(UIDS.0, ""), GIDS]),
        Code::InvalidArgument,
        &["uidmapping"],
    );
    let mounts = d.prepare_labelled("extract-1 sha256:ab", "", &[UIDS, GIDS]).unwrap();
    assert!(mounts[0].options.iter().all(|option| !option.contains("map")), "{mounts:?}");
    d.prepare_labelled("extract-2 sha256:ab", "", &[UIDS]).unwrap();
}
