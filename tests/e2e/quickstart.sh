#!/bin/bash
# What contrib/quickstart does in its guest: all steps succeed, and show what they promise.
# guest: --new-disk 8G
. "$(dirname "$0")/lib"

shows() {
    grep -Eq -- "$1" /tmp/shown || {
        cat /tmp/shown
        return 1
    }
}

check "it goes through" \
    eval '"$top/contrib/quickstart" inside >/tmp/shown 2>&1 || { cat /tmp/shown; false; }'
check "the container has spoken" shows "^ +hello from the top layer"
check "the container's root is a thin device" \
    shows "^ +/dev/mapper/devmapper-snapshotter-snap-[0-9]+ / ext4"
key='default/[0-9]+/second < default/[0-9]+/sha256:'
check "the table has the container's snapshot with its device, thin and bytes" \
    shows "^ +active +devmapper-snapshotter-snap-[0-9]+ +[0-9]+ +[0-9.]+ MiB $key"
check "the table has six layers" eval '(($(grep -c "^ *committed " /tmp/shown) == 6))'
check "the daemon finds no disagreement" shows " 0 disagreements"
check "it ends with the last step" shows "Done"
finish
