#!/bin/bash
# What a service manager relies on: READY=1 only when the socket serves, SIGTERM obeyed within a
# limit while calls are under way, and nothing lost by it.
# guest: --new-disk 8G
. "$(dirname "$0")/lib"
log=/tmp/notified

# stuck_mkfs: a mke2fs, first in PATH, that opens its device and gets no further.
stuck_mkfs() {
    mkdir -p /tmp/stuck
    cat >/tmp/stuck/mke2fs <<'END'
#!/bin/bash
for word; do
    [[ $word == /dev/* ]] && exec 3<>"$word" && echo $$ >/tmp/stuck/pid
done
exec sleep 1000
END
    chmod +x /tmp/stuck/mke2fs
}

mkfs_runs() {
    [[ -s /tmp/stuck/pid ]] && kill -0 "$(</tmp/stuck/pid)"
}

start_notifying() {
    NOTIFY_SOCKET=/tmp/notify.socket "$DAEMON" >>"$OUT/daemon.log" 2>&1 &
    daemon=$!
}

said() {
    grep -q "^$1" "$log"
}

# ends_within SECONDS: after SIGTERM, with success.
ends_within() {
    local start=$SECONDS
    kill -TERM "$daemon" && wait_for "$1" not kill -0 "$daemon" && ended_well &&
        echo "after $((SECONDS - start)) s"
}

need "a disk for /var/lib" mount_disk
mkdir -p "$state"
"$e2e/notify-socket" /tmp/notify.socket "$socket" $log &
need "a service manager listens" wait_for 20 test -s $log

# A frozen file system holds the start up for as long as it takes.
need "the state directory's file system is frozen" fsfreeze -f /mnt
start_notifying
sleep $((3 * ${TIME_SCALE:-1}))
check "not ready while the start is held up" not said READY=1
check "it is still starting" kill -0 "$daemon"
need "the file system is thawed" fsfreeze -u /mnt
check "ready once it goes on" wait_for 30 said READY=1
check "it serves when it says so" said "READY=1 serves"
check "it says so once" equal "$(grep -c READY=1 $log)" 1
check "only root gets at the socket" \
    equal "$(stat -c "%a %u" "$socket" "${socket%/*}" | tr "\n" ";")" "600 0;700 0;"
check "SIGTERM ends it, with success" ends_within 5
check "STOPPING=1 was sent" said STOPPING=1
check "the socket is gone" test ! -e "$socket"

# under_way KEY: a Prepare that has reached the daemon, and waits there for the frozen file system.
# (containerd's own database is on another one, or the call would not get that far.)
under_way() {
    fsfreeze -f /mnt || return 1
    ctr snapshots prepare "$1" >/tmp/answer 2>&1 &
    call=$!
    sleep $((3 * ${TIME_SCALE:-1}))
    kill -0 "$call" || {
        cat /tmp/answer
        return 1
    }
}

# A call under way when SIGTERM comes gets its answer, if that does not take longer than the daemon
# may drain: 10 s.
mkdir -p /var/lib/containerd && mount -t tmpfs containerd /var/lib/containerd
start_notifying
need "containerd starts" start_containerd
need "a call is under way" under_way short
kill -TERM "$daemon"
sleep 1
check "the daemon waits for it" kill -0 "$daemon"
need "the file system is thawed" fsfreeze -u /mnt
check "the daemon ends, with success" eval 'wait_for 5 not kill -0 "$daemon" && ended_well'
check "the call has succeeded" wait "$call"
check "the daemon starts again" start_daemon
check "what it made is there" wait_for 20 ctr snapshots mounts /srv short

need "a call is under way that will take longer than that" under_way long
kill -TERM "$daemon"
sleep 13
need "the file system is thawed" fsfreeze -u /mnt
check "the daemon ends at once, with success" eval 'wait_for 2 not kill -0 "$daemon" && ended_well'
wait "$call"
check "the log tells of the call that was cut off" grep -q "still under way" "$OUT/daemon.log"
check "the daemon starts again" start_daemon
check "the key of that call can be used" wait_for 20 eval '
    ctr snapshots mounts /srv long || ctr snapshots prepare long'
check "both are removed" ctr snapshots rm short long
check "only the template is left in the pool" wait_for 30 only_thins 1
check "the daemon stops cleanly" stop_daemon

# Stopped in the middle of a start: here, while the template for another size is made. The mkfs that
# is left behind holds its device; a service manager would end it, but the next start must not
# depend on that.
stuck_mkfs
write_config 'base_image_size = "11GiB"'
PATH=/tmp/stuck:$PATH start_notifying
need "mkfs runs" wait_for 20 mkfs_runs
kill -TERM "$daemon"
check "a start can be stopped at once" wait_for 5 not kill -0 "$daemon"
check "the daemon starts again" start_daemon
check "a snapshot can be made" wait_for 20 ctr snapshots prepare other
check "it is removed" ctr snapshots rm other
kill -KILL "$(</tmp/stuck/pid)" 2>/dev/null
check "only the two templates are left in the pool" wait_for 90 only_thins 2
check "nothing is suspended" nothing_suspended
check "the daemon stops cleanly" stop_daemon
finish
