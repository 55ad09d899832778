#!/bin/bash
# The service unit that is shipped, under a real systemd (in a process namespace of its own), with
# Debian's containerd.service: order, readiness, restart, stop, and that its restrictions leave the
# daemon all it needs.
# guest: --new-disk 8G
. "$(dirname "$0")/lib"
unit=$top/contrib/systemd/devmapper-snapshotter.service

# in_systemd COMMAND...: in the namespaces of that systemd.
in_systemd() {
    nsenter --target "$systemd" --pid --mount --cgroup "$@"
}

start_systemd() {
    cp "$unit" /etc/systemd/system/ || return 1
    cat "$top/contrib/containerd/containerd-1.x.toml" >>/etc/containerd/config.toml || return 1
    # There is no journal here.
    mkdir -p /etc/systemd/system/devmapper-snapshotter.service.d
    printf '[Service]\nStandardError=append:%s\n' "$OUT/daemon.log" \
        >/etc/systemd/system/devmapper-snapshotter.service.d/log.conf
    # Of this machine's own services, none.
    cat >/etc/systemd/system/test.target <<'END'
[Unit]
Wants=devmapper-snapshotter.service containerd.service
DefaultDependencies=no
END
    mkdir -p /etc/systemd/system/sysinit.target.wants
    local name
    for name in sysinit basic; do
        printf '[Unit]\nDefaultDependencies=no\n' >"/etc/systemd/system/$name.target"
        mkdir -p /tmp/none && mount --bind /tmp/none "/usr/lib/systemd/system/$name.target.wants"
        [[ ! -d /etc/systemd/system/$name.target.wants ]] ||
            mount --bind /tmp/none "/etc/systemd/system/$name.target.wants"
    done
    mkdir -p /sys/fs/cgroup/machine
    container=other unshare --fork --pid --mount --mount-proc --kill-child bash -c '
        echo 0 >/sys/fs/cgroup/machine/cgroup.procs
        exec unshare --cgroup bash -c "
            umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
            exec /lib/systemd/systemd --system --unit=test.target --log-target=console \
                --show-status=no"' >"$OUT/systemd.log" 2>&1 &
    local outer=$!
    wait_for 20 pgrep -P "$outer" || return 1
    systemd=$(pgrep -P "$outer")
    wait_for 60 in_systemd systemctl is-active devmapper-snapshotter.service containerd.service
}

property() {
    in_systemd systemctl show --value --property "$1" "$2"
}

# started_before: by the manager's own clock.
started_before() {
    local ours theirs
    ours=$(property ActiveEnterTimestampMonotonic devmapper-snapshotter) || return 1
    theirs=$(property ExecMainStartTimestampMonotonic containerd) || return 1
    ((ours > 0 && ours < theirs)) || {
        echo "ready at $ours, containerd started at $theirs"
        return 1
    }
}

restarted() {
    [[ $(property NRestarts devmapper-snapshotter) == "$1" &&
    $(property ActiveState devmapper-snapshotter) == active ]]
}

need "a disk for /var/lib" mount_disk
install -D -m 755 "$DAEMON" /usr/local/bin/devmapper-snapshotter
check "systemd-analyze verify finds nothing wrong" eval '
    found=$(systemd-analyze verify --man=no "$unit" 2>&1)
    [[ $found != *devmapper-snapshotter.service* ]] || { echo "$found"; false; }'
need "systemd starts the two services" start_systemd
check "containerd was started after the daemon was ready" started_before
check "its OOM score is set" \
    eval 'main=$(pgrep -o -f ^/usr/local/bin/devmapper-snapshotter)
        [[ $(<"/proc/$main/oom_score_adj") == -999 ]]'
check "it has no mount namespace of its own" expect_output "$(readlink "/proc/$systemd/ns/mnt")" \
    readlink "/proc/$(pgrep -o -f ^/usr/local/bin/devmapper-snapshotter)/ns/mnt"
check "only root gets at socket and state" eval '
    in_systemd stat -c %a "$socket" "${socket%/*}" "$state" | tr "\n" " " | grep -qx "600 700 700 "'

check "a layer is made" in_systemd ctr snapshots prepare one
check "it is mounted and written" in_systemd bash -c '
    mount=$(ctr snapshots mounts /mnt one) && eval "${mount% -o }" && seq 1000 >/mnt/file &&
        ctr snapshots commit layer one && umount /mnt'

check "killed, it is started again" \
    eval 'in_systemd systemctl kill --signal=KILL devmapper-snapshotter && wait_for 30 restarted 1'
check "the layer is there" wait_for 20 in_systemd ctr snapshots prepare two layer
check "with its content" in_systemd bash -c '
    mount=$(ctr snapshots mounts /mnt two) && eval "${mount% -o }" &&
        seq 1000 | cmp - /mnt/file && umount /mnt'

killed_over_and_over() {
    local count
    for count in {2..7}; do
        in_systemd systemctl kill --signal=KILL devmapper-snapshotter &&
            wait_for 30 restarted "$count" || return 1
    done
}
check "killed over and over, it is still started again" killed_over_and_over

# Other than on the first start, this needs mkfs, a mount of the daemon's own, and the right to grow
# ext4.
write_config 'base_image_size = "20GiB"' 'metrics_address = "127.0.0.1:9653"'
check "restarted with a larger size" in_systemd systemctl restart devmapper-snapshotter
check "a child of the smaller layer is grown" \
    wait_for 20 in_systemd ctr snapshots prepare grown layer
check "to its size" expect_output " 20" in_systemd bash -c '
    mount=$(ctr snapshots mounts /mnt grown) && eval "${mount% -o }" &&
        seq 1000 | cmp - /mnt/file && df --output=size -B 1G /mnt && umount /mnt'
check "its metrics are served" \
    wait_for 20 expect_output 'devmapper_snapshotter_snapshots{kind="committed"} 1' \
    in_systemd busybox wget -q -O - http://127.0.0.1:9653/metrics
check "and removed" in_systemd ctr snapshots rm grown two
check "nothing was forbidden to it" \
    eval '! grep -Ei "not permitted|denied|EPERM|EACCES" "$OUT/daemon.log"'

check "stopped, it is inactive and no failure" eval '
    in_systemd systemctl stop devmapper-snapshotter &&
    equal "$(property ActiveState devmapper-snapshotter)" inactive &&
    equal "$(property Result devmapper-snapshotter)" success'
check "the socket is gone" not in_systemd test -e "$socket"
check "nothing is suspended" nothing_suspended
finish
