#!/bin/bash
# Starts that cannot succeed, and some that look so and must: each failure is quick, non-zero, says
# what is wrong and what to do, and leaves nothing behind.
# guest: --new-disk 8G
. "$(dirname "$0")/lib"

# refuses TEXT COMMAND...: the daemon ends by itself, with a failure and this text (an extended
# regular expression).
refuses() {
    expect_failure "$1" timeout 30 "${@:2}" || return 1
}

# at_rest: the kernel and the socket's folder look as if the daemon had never been started.
at_rest() {
    local found
    found=$(
        dmsetup ls
        losetup -a | grep -v "(/tmp/small.img)"
    )
    [[ $found == "No devices found" || -z $found ]] || {
        echo "$found"
        return 1
    }
}

# without_rights: as nobody, with everything but device-mapper's control node within reach.
without_rights() {
    install -m 755 "$DAEMON" /tmp/daemon && mkdir -p /tmp/nobody && chown nobody /tmp/nobody &&
        timeout 30 setpriv --reuid nobody --regid nogroup --clear-groups \
            /tmp/daemon --root /tmp/nobody/state --address /tmp/nobody/run/s.sock
}

need "a disk for /var/lib" mount_disk

# --- configuration ---

write_config 'rot = "/x"' 'block_size = "100KiB"' 'fs_type = "btrfs"' 'discard = "yes"'
check "all problems of the configuration are reported together" eval '(
    for problem in "4 things" "rot: unknown key" "block_size: .*64 ?KiB" "fs_type: .*ext4, xfs" \
        "discard: .*true or false"; do
        refuses "$problem" "$DAEMON" || exit 1
    done)'
write_config 'root = '
check "a file that is no TOML is refused with its line" \
    refuses "config.toml: not TOML.* line 1" "$DAEMON"
check "a missing file that was asked for is an error" \
    refuses "/nowhere.toml.*no such file" "$DAEMON" --config /nowhere.toml
rm /etc/devmapper-snapshotter/config.toml
check "an unknown flag is refused" refuses "unexpected argument" "$DAEMON" --no-such-flag
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml")
check "the version is printed" expect_output "devmapper-snapshotter $version" "$DAEMON" --version
check "a pool that nobody has assembled is refused" eval '
    write_config "pool_name = \"nobody-made-it\"" &&
        refuses "pool nobody-made-it,.* is not there" "$DAEMON"'
rm /etc/devmapper-snapshotter/config.toml
check "nothing is left of all that" at_rest

# --- socket ---

long=/run/$(printf 'x%.0s' {1..110}).sock
check "a socket path that is too long is refused with its limit" \
    refuses "too long for a Unix socket; 107 fit" "$DAEMON" --address "$long"
mkdir -p "${socket%/*}" && echo precious >"$socket"
check "a file that is no socket is not replaced" \
    refuses "$socket: there is a file that is no socket" "$DAEMON"
check "it is still there" grep -q precious "$socket"
rm "$socket"
check "nothing is left of all that" at_rest
python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$socket"
check "a socket that nobody serves any more is replaced" start_daemon
check "a second daemon on the same state directory is refused" \
    refuses "$state: another daemon works on it" "$DAEMON" --address /run/second.sock
check "a second daemon on the same socket is refused" \
    refuses "$socket: another process is serving on it" "$DAEMON" --root /var/lib/second
check "the first one still serves" connects "$socket"
check "the first one still stops cleanly" stop_daemon
dmsetup remove_all && losetup -D

# --- the system ---

check "without root's rights it says so" \
    expect_failure "no permission for .*/dev/mapper/control.* root" without_rights
check "without capabilities it says so, root or not" \
    expect_failure "no permission for device-mapper.* CAP_SYS_ADMIN" \
    timeout 30 setpriv --bounding-set -all --inh-caps -all "$DAEMON" --root /tmp/denied --address \
    /run/denied.sock
check "nothing is left of all that" at_rest

truncate -s 32M /tmp/small.img && mkfs.ext4 -q /tmp/small.img && mkdir -p /srv/small &&
    mount -o loop /tmp/small.img /srv/small
head -c 100M /dev/zero >/srv/small/filler 2>/dev/null
check "on a full disk it says so, with the state directory's name" \
    refuses "no space left.* /srv/small/state" "$DAEMON" --root /srv/small/state
check "nothing is left of that" at_rest
rm -r /srv/small/filler /srv/small/state
check "on a disk that is too small for any pool it says how much it needs" \
    refuses "/srv/small/.* too small for a pool.* 64" "$DAEMON" --root /srv/small/state
check "nothing is left of that" at_rest
umount /srv/small && rm /tmp/small.img
mount -t tmpfs -o ro none /srv/small
check "on a read-only disk it says so" \
    refuses "/srv/small.*read-only" "$DAEMON" --root /srv/small/state
umount /srv/small

# --- mkfs ---

# The daemon looks in PATH and where administrators' programs are, so mke2fs has to go from there.
# Another size needs a new template.
mkdir -p /tmp/sbin/upper /tmp/sbin/work
need "/usr/sbin is ours" \
    mount -t overlay -o lowerdir=/usr/sbin,upperdir=/tmp/sbin/upper,workdir=/tmp/sbin/work sbin \
    /usr/sbin
mv /usr/sbin/mke2fs /usr/sbin/mke2fs.away
write_config 'base_image_size = "11GiB"'
check "without mke2fs it starts, and its log names the program and its package" eval '
    start_daemon &&
        wait_for 30 grep -Eq "ERROR.*mke2fs is not installed.* e2fsprogs" "$OUT/daemon.log"'
need "containerd starts" start_containerd
check "a layer without a parent is refused for that reason" \
    expect_failure "mke2fs is not installed.* e2fsprogs" \
    ctr snapshots prepare with
mv /usr/sbin/mke2fs.away /usr/sbin/mke2fs
check "as soon as mke2fs is there, the same daemon makes it" \
    eval 'ctr snapshots prepare with && ctr snapshots rm with'
check "only the two templates are in the pool" wait_for 30 only_thins 2
check "the daemon stops" stop_daemon
mv /usr/sbin/mke2fs /usr/sbin/mke2fs.away
check "with its template made it starts without mke2fs, too" start_daemon
check "the daemon stops" stop_daemon
mv /usr/sbin/mke2fs.away /usr/sbin/mke2fs

# An old mke2fs: it knows no assume_storage_prezeroed, and says so as one of 2022 does.
mv /usr/sbin/mke2fs /usr/sbin/mke2fs.new
cat >/usr/sbin/mke2fs <<'END'
#!/bin/sh
case "$*" in
    *assume_storage_prezeroed*)
        printf 'mke2fs 1.46.2 (28-Feb-2021)\n\n' >&2
        printf 'Bad option(s) specified: assume_storage_prezeroed\n' >&2
        exit 1
        ;;
esac
echo "$*" >>/tmp/mke2fs.calls
exec /usr/sbin/mke2fs.new "$@"
END
chmod +x /usr/sbin/mke2fs
write_config 'base_image_size = "12GiB"'
check "with an old mke2fs the daemon starts" start_daemon
check "and makes a snapshot" wait_for 30 ctr snapshots prepare old
check "by that mke2fs" test -s /tmp/mke2fs.calls
check "which mounts, at its full size" \
    expect_output "12" in_snapshot old bash -c 'touch file && df --output=size -B 1G .'
# Tables that are written some time after the mount would be copied in every layer.
# shellcheck disable=SC2034 # for the check's text
blocks=$(used_blocks)
sleep $((20 * ${TIME_SCALE:-1}))
# shellcheck disable=SC2034
blocks_after=$(used_blocks)
check "nothing is written to it behind our back" \
    eval '((blocks_after <= blocks + 4)) || { echo "$blocks blocks, then $blocks_after"; false; }'
check "it is small" eval '((blocks < 700)) || { echo "$blocks blocks"; false; }'
check "the daemon stops cleanly" stop_daemon
finish
