#!/bin/bash
# The daemon is stopped, and killed, while a container runs and while snapshots are made: the
# container must not notice, and nothing that was acknowledged may be missing or stuck afterwards.
# guest: --new-disk 8G
. "$(dirname "$0")/lib"

# The container's files as its own processes see them, without asking containerd.
container_root() {
    echo "/proc/$(ctr tasks ls | awk '$1 == "ticker" { print $2 }')/root"
}

counter_advances() {
    local before after
    before=$(<"$root/counter")
    sleep 1
    after=$(<"$root/counter")
    [[ ! -e $root/errors ]] || {
        head "$root/errors"
        return 1
    }
    ((after > before)) || {
        echo "counter: $before, a second later $after"
        return 1
    }
}

device_of_root() {
    stat -c '%d' "$root/."
}

containerd_reaches_it() {
    wait_for 30 ctr snapshots ls
}

need "a disk for /var/lib" mount_disk
need "the daemon starts" start_daemon
need "containerd starts" start_containerd
need "a registry starts" start_registry
need "an image is made and pushed" publish ticker:1 --layers 0
need "it is pulled" pull ticker:1
need "a container starts" ctr run -d --snapshotter "$id" "$registry/ticker:1" ticker sh -c '
    n=0
    while :; do
        n=$((n + 1))
        echo $n >/counter.new && mv /counter.new /counter && cat /data/becomes-file >/dev/null ||
            echo "broken at $n" >>/errors
        usleep 50000
    done'
root=$(container_root)
need "it counts" wait_for 20 test -s "$root/counter"
device=$(device_of_root)

for signal in TERM KILL; do
    check "the daemon ends by SIG$signal" stop_daemon $signal
    check "the container counts on without the daemon" counter_advances
    check "calls fail instead of hanging meanwhile" \
        expect_failure "unavailable|connect|transport" timeout 20 ctr snapshots mounts /srv ticker
    check "the daemon starts again" start_daemon
    check "the container counts on" counter_advances
    check "it is on the same device" test "$(device_of_root)" = "$device"
    check "nothing is suspended" nothing_suspended
    check "containerd reaches the daemon again by itself" containerd_reaches_it
    check "a new snapshot is made on the image" in_child "$(top_layer)" touch file
    check "another container runs" \
        expect_output "hello from the top layer" run_container after-$signal ticker:1
done

# Killed at work: a client prepares, commits and removes without a pause, and writes down what it
# was told had worked.
churn() {
    local number
    for number in {1..1000}; do
        ctr snapshots prepare "r$1-$number" && echo "r$1-$number" >>/tmp/acknowledged &&
            ctr snapshots commit "r$1-$number-c" "r$1-$number" &&
            echo "r$1-$number-c" >>/tmp/acknowledged || return 0
    done
}

# has_acknowledged ROUND COUNT: so many calls of the round were answered.
has_acknowledged() {
    (($(grep -c "^r$1-" /tmp/acknowledged) >= $2))
}

acknowledged_are_there() {
    local key
    ctr snapshots ls >/tmp/listed || return 1
    # Of a key that became a name, the name is there.
    while read -r key; do
        grep -q "^$key-c " /tmp/listed || grep -q "^$key " /tmp/listed || {
            echo "$key is missing"
            return 1
        }
    done </tmp/acknowledged
}

touch /tmp/acknowledged
for round in {1..6}; do
    churn "$round" >/dev/null 2>&1 &
    churning=$!
    check "round $round: calls are acknowledged" \
        wait_for $((60 * ${TIME_SCALE:-1})) has_acknowledged "$round" 4
    sleep "0.$((RANDOM % 10))"
    stop_daemon KILL
    wait "$churning"
    check "round $round: the daemon starts after being killed at work" start_daemon
    check "round $round: containerd reaches it" containerd_reaches_it
    check "round $round: nothing is suspended" nothing_suspended
done
check "all that was acknowledged is there" acknowledged_are_there
check "a layer that was acknowledged can be mounted" eval '
    in_child "$(grep -e "-c$" /tmp/acknowledged | tail -n 1)" touch file'
check "the container has counted through all of that" counter_advances

check "the container ends" eval 'ctr tasks rm -f ticker && ctr containers rm ticker'
check "all snapshots can be removed" eval '(
    for kind in Active Committed; do
        keys=$(ctr snapshots ls | awk -v kind=$kind "/^r[0-9]/ && \$NF == kind { print \$1 }")
        [[ -z $keys ]] || ctr snapshots rm $keys || exit 1
    done)'
check "and the image" ctr images rm --sync "$registry/ticker:1"
check "only the template is left in the pool" wait_for 60 only_thins 1
check "the daemon stops cleanly" stop_daemon
finish
