#!/bin/bash
# A pull is cut short in its middle: containerd is killed, the daemon is killed, and both are, in
# either order. Each time the pull is repeated and succeeds, the container runs, and once the image
# is gone nothing is left in the pool.
# guest: --new-disk 8G
. "$(dirname "$0")/../../e2e/lib"

kill_containerd() {
    kill -KILL "$containerd" && wait_for 30 not kill -0 "$containerd"
}

# pull_is_under_way COUNT: some layers are unpacked and the pull goes on, or the pull has ended.
pull_is_under_way() {
    kill -0 "$pulling" 2>/dev/null || return 0
    (($(ctr snapshots ls | wc -l) > $1))
}

# begin_pull LAYERS: returns when more than LAYERS layers are unpacked.
begin_pull() {
    pull crash:1 >"$OUT/pull.log" 2>&1 &
    pulling=$!
    wait_for 60 pull_is_under_way "$1"
}

cut_short() {
    kill -0 "$pulling" 2>/dev/null && echo "the pull was under way" ||
        echo "the pull had ended already"
    case $1 in
        containerd) kill_containerd && start_containerd ;;
        daemon) stop_daemon KILL && start_daemon ;;
        containerd-then-daemon) kill_containerd && stop_daemon KILL && start_daemon &&
            start_containerd ;;
        daemon-then-containerd) stop_daemon KILL && kill_containerd && start_daemon &&
            start_containerd ;;
    esac
}

the_pull_ended() {
    wait "$pulling"
    return 0
}

# unpacked FILE: what the unpacked image holds, file by file. To the garbage collector a view of
# ctr's is garbage, so it may be gone before it is mounted.
unpacked() {
    local key=look-$RANDOM
    ctr snapshots view "$key" "$(top_layer)" && mount_snapshot "$key" /tmp/look || return 1
    "$e2e/tree-manifest" /tmp/look >"$OUT/$1"
    umount /tmp/look
    ctr snapshots rm "$key" 2>/dev/null || true
}

unpacked_as_ever() {
    wait_for 30 unpacked "$1" && diff "$OUT/undisturbed" "$OUT/$1"
}

gone() {
    ctr images rm --sync "$registry/crash:1" && wait_for 60 eval \
        "collect_garbage && [[ \$(count_thins) == $thins_before ]]"
}

need "a disk for /var/lib" mount_disk
need "the daemon starts" start_daemon
need "containerd starts" start_containerd
need "a registry starts" start_registry
need "an image is made and pushed" publish crash:1 --layers 12
thins_before=$(count_thins)
need "the pool can be read" test -n "$thins_before"
need "a pull without a restart, to compare with" \
    eval 'pull crash:1 && wait_for 30 unpacked undisturbed &&
    (($(wc -l <"$OUT/undisturbed") > 400)) && gone'

for what in containerd daemon containerd-then-daemon daemon-then-containerd; do
    for waiting in 1 3; do
        check "$what, after $waiting: a pull begins" begin_pull "$waiting"
        check "$what, after $waiting: killed and started again" cut_short "$what"
        the_pull_ended 2>/dev/null
        check "$what, after $waiting: nothing is suspended" nothing_suspended
        check "$what, after $waiting: containerd answers" wait_for 60 ctr snapshots ls
        check "$what, after $waiting: the pull is repeated" wait_for 120 pull crash:1
        check "$what, after $waiting: the image is unpacked as ever" \
            unpacked_as_ever "$what-$waiting"
        check "$what, after $waiting: a container runs" \
            expect_output "hello from the top layer" run_container "after-$what-$waiting" crash:1
        check "$what, after $waiting: the image is removed" ctr images rm --sync "$registry/crash:1"
        # What an interrupted pull was unpacking is held by its lease (a day); it goes with the
        # lease.
        check "$what, after $waiting: leases of cut pulls are given up" eval '
            ctr leases ls -q | while read -r lease; do
                ctr leases delete --sync "$lease" || exit 1
            done'
        check "$what, after $waiting: nothing is left in the pool" \
            wait_for 60 eval "collect_garbage && [[ \$(count_thins) == $thins_before ]]"
    done
done
check "the daemon stops cleanly" stop_daemon
finish
