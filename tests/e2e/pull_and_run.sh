#!/bin/bash
# The main job, with stock containerd: pull an image onto thin devices, run containers on it, remove
# it, and nothing is left.
#
# Unpacked content is compared with what overlayfs makes of the same image, file by file. FS_TYPE
# chooses the daemon's file system.
# guest: --new-disk 8G
. "$(dirname "$0")/lib"
fs_type=${FS_TYPE:-ext4}
image=$registry/layers:1

# view SNAPSHOTTER FOLDER: the unpacked image, mounted.
view() {
    ctr snapshots --snapshotter "$1" view "compare-$1" "$(top_layer)" &&
        CONTAINERD_SNAPSHOTTER=$1 mount_snapshot "compare-$1" "$2"
}

same_tree_as_overlayfs() {
    ctr images pull --plain-http --snapshotter overlayfs "$image" && view overlayfs /tmp/theirs &&
        view "$id" /tmp/ours || return 1
    "$e2e/tree-manifest" /tmp/ours >"$OUT/ours" && "$e2e/tree-manifest" \
        /tmp/theirs >"$OUT/theirs" || return 1
    # An unpack that did nothing would be equal, too.
    (($(wc -l <"$OUT/ours") > 400)) || {
        echo "only $(wc -l <"$OUT/ours") files"
        return 1
    }
    diff "$OUT/ours" "$OUT/theirs"
}

mounted_file_system() {
    local found
    found=$(findmnt -n -o FSTYPE,SOURCE,OPTIONS /tmp/ours)
    [[ $found == "$fs_type"*/dev/mapper/devmapper-snapshotter-*" ro,"* ]] || {
        echo "$found"
        return 1
    }
}

need "a disk for /var/lib" mount_disk
[[ $fs_type == ext4 ]] || write_config "fs_type = \"$fs_type\""
need "the daemon starts with no set-up" start_daemon
need "containerd starts with the snippet appended to its configuration" start_containerd
need "containerd knows the plugin" eval '
    equal "$(ctr plugins ls | awk -v id="$id" "\$2 == id { print \$1, \$NF }")" \
        "io.containerd.snapshotter.v1 ok" ctr plugins ls'
need "a registry starts" start_registry
need "an image is made and pushed" publish layers:1

# What a first snapshot brings with it, once and for good: the template.
need "a first snapshot comes and goes" \
    eval 'ctr snapshots prepare first && ctr snapshots rm first && collect_garbage'
thins_before=$(count_thins) blocks_before=$(used_blocks)
echo "before the pull: $thins_before thin(s), $blocks_before blocks used"

need "ctr pulls the image with --snapshotter $id" pull layers:1
check "one committed snapshot for each of the six layers" \
    eval '(($(ctr snapshots ls | grep -c Committed) == 6))'
check "the unpacked image is what overlayfs makes of it" same_tree_as_overlayfs
check "it is a read-only mount of a thin device, as $fs_type" mounted_file_system
# A view made by ctr is referred to by nothing, so the garbage collector may have been first.
check "both views are unmounted and removed" eval '
    umount /tmp/ours /tmp/theirs
    ctr snapshots rm "compare-$id"; ctr snapshots --snapshotter overlayfs rm compare-overlayfs
    [[ $(ctr snapshots ls) != *compare-* ]]'
check "a container runs the image's own command" \
    expect_output "hello from the top layer" run_container c1 layers:1
check "a container reads the large file" \
    expect_output 8388608 run_container c2 layers:1 stat -c %s /data/big
check "a container writes and reads back" \
    expect_output "written 20971520" run_container c3 layers:1 sh -c '
    dd if=/dev/urandom of=/tmp/f bs=1M count=20 2>/dev/null; cp /tmp/f /tmp/g; sync
    cmp /tmp/f /tmp/g && echo written $(stat -c %s /tmp/g)'
check "a second container does not see what the first one wrote" \
    expect_output "No such file" run_container c4 layers:1 sh -c 'ls /tmp/f 2>&1; true'
check "a container's own device is its root" \
    expect_output "/dev/mapper/devmapper-snapshotter-snap-" run_container c5 layers:1 cat \
    /proc/mounts
check "two containers run on one image at the same time" eval '
    ctr run -d --snapshotter "$id" "$image" left sh -c "echo left >/where; exec sleep 1000" &&
    ctr run -d --snapshotter "$id" "$image" right sh -c "echo right >/where; exec sleep 1000" &&
    expect_output left ctr tasks exec --exec-id l left cat /where &&
    expect_output right ctr tasks exec --exec-id r right cat /where &&
    ctr tasks rm -f left right && ctr containers rm left right'
check "a second pull finds all there" pull layers:1

check "nothing is suspended" nothing_suspended
check "the image is removed" ctr images rm --sync "$image"
check "no snapshot is left" eval 'collect_garbage && no_snapshot_left'
check "no thin and no block of it is left in the pool" \
    wait_for 30 pool_is_back "$thins_before" "$blocks_before"
check "pulling it again works" pull layers:1
check "and a container runs on it" \
    expect_output "hello from the top layer" run_container c6 layers:1
check "the daemon stops cleanly" stop_daemon
finish
