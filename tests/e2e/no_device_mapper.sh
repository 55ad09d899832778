#!/bin/bash
# A kernel without device-mapper: the daemon says so, says what to do, and leaves nothing behind.
# guest: --no-dm --new-disk 1G
. "$(dirname "$0")/lib"

need "a disk for /var/lib" mount_disk
need "this kernel has no device-mapper" not dmsetup version
check "the daemon does not start, and names the kernel module" \
    expect_failure "no device-mapper.*modprobe dm_mod" timeout 30 "$DAEMON"
check "it does not serve" not connects "$socket"
check "no loop device is left attached" equal "$(losetup -a)" ""
check "no pool file is left" equal "$(find "$state" -type f -size +1M 2>/dev/null)" ""
finish
