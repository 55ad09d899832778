#!/bin/bash
# Every `ctr snapshots` command against the plugin, with content checked through mounts: what an
# operator does by hand.
# guest: --new-disk 8G
. "$(dirname "$0")/lib"

info() {
    ctr snapshots info "$1"
}

usage() {
    ctr snapshots usage -b "$1" | awk 'NR == 2 { print $2 }'
}

within() {
    (($1 >= $2 && $1 <= $3)) || {
        echo "$1 is not from $2 to $3"
        return 1
    }
}

need "a disk for /var/lib" mount_disk
need "the daemon starts" start_daemon
need "containerd starts" start_containerd

check "prepare without a parent" ctr snapshots prepare base-active
check "a new file system is empty" \
    expect_output "<>" in_snapshot base-active bash -c 'echo "<$(ls -A)>"'
check "its root is root's, mode 755" \
    expect_output "755 0 0" in_snapshot base-active stat -c "%a %u %g" .
check "files can be written" in_snapshot base-active bash -c '
    mkdir d && seq 100000 >d/numbers && head -c 4M /dev/urandom >random && echo base >name'
sum=$(in_snapshot base-active sha256sum d/numbers random)
check "preparing the same key again is refused" \
    expect_failure "already exists" ctr snapshots prepare base-active
check "a parent that does not exist is refused" \
    expect_failure "not found" ctr snapshots prepare orphan nowhere
check "an active parent is refused" \
    expect_failure "not committed|invalid argument|failed precondition" ctr snapshots prepare \
    orphan base-active
check "commit" ctr snapshots commit base base-active
check "the active key is gone" expect_failure "not found" info base-active
check "info says Committed" expect_output '"Kind": "Committed"' info base
check "committing a committed one is refused" \
    expect_failure "not active|failed precondition|not found|invalid" ctr snapshots commit again \
    base

check "prepare a child" ctr snapshots prepare child-active base
check "it has the parent's files" \
    expect_output "$sum" in_snapshot child-active sha256sum d/numbers random
check "it takes changes" \
    in_snapshot child-active bash -c 'rm random && echo child >name && echo new >d/new &&
    chown 12:34 d/numbers'
check "info names the parent" expect_output '"Parent": "base"' info child-active
check "info says Active" expect_output '"Kind": "Active"' info child-active
check "commit the child" ctr snapshots commit child child-active
check "the parent is what it was" expect_output "$sum" in_child base sha256sum d/numbers random

# ctr makes views without the label that keeps the garbage collector away; so let it finish first,
# and then label the view.
collect_garbage
check "view" \
    eval 'ctr snapshots view view child && ctr snapshots label view containerd.io/gc.root=now'
check "a view is read-only" expect_failure "read-only" in_snapshot view touch f
check "a view has the layer's files" expect_output "child" in_snapshot view cat name
check "a view lacks what the layer removed" \
    expect_failure "no such file" in_snapshot view cat random
check "info says View" expect_output '"Kind": "View"' info view
check "ls lists all with kind and parent" eval '
    equal "$(ctr snapshots ls | awk "NR > 1 { \$1 = \$1; print }" | sort | tr "\n" ";")" \
        "base Committed;child base Committed;view child View;"'
check "tree shows who stands on whom" \
    eval '[[ $(ctr snapshots tree | tr -d " \n") == *base*child*view* ]]'
check "committing a view is refused" \
    expect_failure "not active|failed precondition|invalid" ctr snapshots commit c view

check "usage of the base is what was written" within "$(usage base)" $((4 << 20)) $((16 << 20))
check "usage of the child is what it adds" within "$(usage child)" 1 $((2 << 20))
check "usage of a view is nothing" equal "$(usage view)" 0

check "label" ctr snapshots label child containerd.io/gc.root=now team=red
check "info shows the label" expect_output '"team": "red"' info child
check "a label is changed" ctr snapshots label child team=blue
check "info shows the new one" expect_output '"team": "blue"' info child

check "removing a parent is refused" \
    expect_failure "has child|cannot remove|failed precondition|references" ctr snapshots rm base
check "rm the view" ctr snapshots rm view
check "the other two stay" equal "$(ctr snapshots ls | wc -l)" 3 ctr snapshots ls

check "diff against the parent has just the changes" eval '
    ctr snapshots diff --media-type application/vnd.oci.image.layer.v1.tar base \
        child >/tmp/diff.tar &&
    equal "$(tar tf /tmp/diff.tar | sort | tr "\n" " ")" ".wh.random d/ d/new d/numbers name "'
check "diff of a base layer has it all" eval '
    ctr snapshots diff --media-type application/vnd.oci.image.layer.v1.tar base >/tmp/base.tar &&
    equal "$(tar tf /tmp/base.tar | sort | tr "\n" " ")" "d/ d/numbers name random "'

check "rm several" ctr snapshots rm child base
check "removing what is not there says so" \
    expect_failure "not found|does not exist" ctr snapshots rm base
check "nothing is left" no_snapshot_left
check "nothing is suspended" nothing_suspended
check "the daemon stops cleanly" stop_daemon
finish
