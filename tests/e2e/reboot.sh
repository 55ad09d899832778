#!/bin/bash
# The power goes, three times over: first after a clean stop, then under a running container with
# writes under way. Each time the daemon must start with no help on the pool it finds, with all that
# was committed or synced.
# guest: --boots 3 --new-disk 8G
. "$(dirname "$0")/lib"
image=$registry/power:1

# What a boot leaves for the next one, beside the daemon's own state.
kept=/var/lib/kept-by-the-test

start_all() {
    need "boot $BOOT: /var/lib is mounted" mount_disk
    need "boot $BOOT: the daemon starts" start_daemon
    need "boot $BOOT: containerd starts" start_containerd
    need "boot $BOOT: the registry starts" start_registry
}

# The image's content, as a view of its top layer has it, is what it was.
layers_are_intact() {
    in_child "$(<$kept/top-layer)" "$e2e/tree-manifest" . >/tmp/now && diff $kept/tree /tmp/now
}

pool_is_the_same() {
    local found
    found=$(dmsetup info -C --noheadings -o uuid "$pool")
    [[ $found == "$(<$kept/pool-uuid)" ]] || {
        echo "pool uuid was $(<$kept/pool-uuid), is $found"
        return 1
    }
    expect_output "$(<$kept/thins)" thins
}

epoch_moved_on() {
    local now
    now=$(transaction_id) && ((now > $(<$kept/epoch))) && return
    echo "transaction id was $(<$kept/epoch), is ${now-}"
    return 1
}

note_pool() {
    dmsetup info -C --noheadings -o uuid "$pool" >$kept/pool-uuid && thins >$kept/thins &&
        transaction_id >$kept/epoch && sync -f $kept
}

cut_power() {
    echo "boot $BOOT: the power goes"
    ((failures)) && finish
    "$top/tests/rig/power-cut"
}

first_boot() {
    start_all
    mkdir -p $kept
    need "an image is made and pushed" publish power:1
    check "it is pulled" pull power:1
    top_layer >$kept/top-layer
    check "an active snapshot gets data, synced" eval '
        ctr snapshots prepare mine "$(<$kept/top-layer)" &&
        in_snapshot mine bash -c "head -c 5M /dev/urandom >mine && sync -f mine &&
            sha256sum mine >$kept/mine"'
    check "another one gets data, and is committed" eval '
        ctr snapshots prepare layer-active "$(<$kept/top-layer)" &&
        in_snapshot layer-active bash -c "head -c 5M /dev/urandom >own &&
            sha256sum own >$kept/own" &&
        ctr snapshots commit layer layer-active'
    in_child "$(<$kept/top-layer)" "$e2e/tree-manifest" . >$kept/tree
    check "the tree is a whole one" eval '(($(wc -l <$kept/tree) > 400))'
    collect_garbage >/dev/null
    check "the pool is noted" note_pool
    check "the daemon stops cleanly" stop_daemon
    sync
    cut_power
}

second_boot() {
    start_all
    check "after a clean stop: the pool is the same, not a new one" pool_is_the_same
    check "after a clean stop: its epoch has moved on" epoch_moved_on
    check "after a clean stop: the layers are intact" layers_are_intact
    check "after a clean stop: the active snapshot has its data" \
        in_snapshot mine sha256sum -c $kept/mine
    check "after a clean stop: the committed one has its data" in_child layer sha256sum -c $kept/own
    check "after a clean stop: a container runs" \
        expect_output "hello from the top layer" run_container c2 power:1
    collect_garbage >/dev/null
    check "the pool is noted" note_pool
    rm -f $kept/acknowledged

    # Now with everything under way: a container that writes, a client that prepares and commits.
    check "a container starts" ctr run -d --snapshotter "$id" "$image" writer sh -c '
        while :; do head -c 1000000 /dev/urandom >/noise; done'
    for number in {1..1000}; do
        ctr snapshots prepare "k$number-active" layer &&
            in_snapshot "k$number-active" bash -c "seq $number 50000 >numbers" &&
            ctr snapshots commit "k$number" "k$number-active" &&
            echo "k$number" >>$kept/acknowledged && sync -f $kept && continue
        break
    done >/dev/null 2>&1 &
    check "commits are acknowledged" wait_for 60 eval '(($(wc -l <$kept/acknowledged) >= 3))'
    cut_power
}

third_boot() {
    local key
    start_all
    check "after a power cut: nothing is suspended" nothing_suspended
    check "after a power cut: its epoch has moved on" epoch_moved_on
    check "after a power cut: the layers are intact" layers_are_intact
    check "after a power cut: the synced data is there" in_snapshot mine sha256sum -c $kept/mine
    check "after a power cut: the committed data is there" in_child layer sha256sum -c $kept/own
    for key in $(<$kept/acknowledged); do
        check "after a power cut: $key, which was acknowledged, has what was written" \
            in_child "$key" bash -c "seq ${key#k} 50000 | cmp - numbers"
    done
    check "after a power cut: a container runs" \
        expect_output "hello from the top layer" run_container c3 power:1
    check "after a power cut: all can be removed" eval '
        ctr containers rm writer
        for kind in Active View Committed; do
            for round in {1..10}; do
                keys=$(ctr snapshots ls |
                    awk -v kind=$kind "\$NF == kind && \$1 !~ /^sha256/ { print \$1 }")
                [[ -z $keys ]] && break
                for key in $keys; do ctr snapshots rm "$key"; done
            done
        done
        ctr images rm --sync "$image" && collect_garbage && no_snapshot_left'
    check "after a power cut: only the template is left in the pool" wait_for 60 only_thins 1
    check "the daemon stops cleanly" stop_daemon
    finish
}

case $BOOT in
    1) first_boot ;;
    2) second_boot ;;
    3) third_boot ;;
esac
