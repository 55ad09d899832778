#!/bin/bash
# Every `ctr snapshots` command against the plugin, with content checked through mounts: what an operator does by hand.
# guest: --new-disk 8G
. "$(dirname "$0")/lib"

# mounted KEY COMMAND...: runs it in the snapshot's root.
mounted() {
    local mount status
    # ctr prints a bare -o where there are no options.
    mkdir -p /tmp/mounted && mount=$(ctr snapshots mounts /tmp/mounted "$1") && eval "${mount% -o }" || return 1
    (cd /tmp/mounted && "${@:2}")
    status=$?
    umount /tmp/mounted && return $status
}

info() {
    ctr snapshots info "$1"
}

usage() {
    ctr snapshots usage -b "$1" | awk 'NR == 2 { print $2 }'
}

need "a disk for /var/lib" mount_disk
need "the daemon starts" start_daemon
need "containerd starts" start_containerd

check "prepare without a parent" ctr snapshots prepare base-active
check "a new file system is empty" expect_output "<>" mounted base-active bash -c 'echo "<$(ls -A)>"'
check "its root is root's, mode 755" expect_output "755 0 0" mounted base-active stat -c "%a %u %g" .
check "files can be written" mounted base-active bash -c 'mkdir d && seq 100000 >d/numbers && head -c 4M /dev/urandom >random && echo base >name'
sum=$(mounted base-active sha256sum d/numbers random)
check "preparing the same key again is refused" expect_failure "already exists" ctr snapshots prepare base-active
check "a parent that does not exist is refused" expect_failure "not found" ctr snapshots prepare orphan nowhere
check "an active parent is refused" expect_failure "not committed|invalid argument|failed precondition" ctr snapshots prepare orphan base-active
check "commit" ctr snapshots commit base base-active
check "the active key is gone" expect_failure "not found" info base-active
check "info says Committed" expect_output '"Kind": "Committed"' info base
check "committing a committed one is refused" expect_failure "not active|failed precondition|not found|invalid" ctr snapshots commit again base

check "prepare a child" ctr snapshots prepare child-active base
check "it has the parent's files" expect_output "$sum" mounted child-active sha256sum d/numbers random
check "it takes changes" mounted child-active bash -c 'rm random && echo child >name && echo new >d/new && chown 12:34 d/numbers'
check "info names the parent" expect_output '"Parent": "base"' info child-active
check "info says Active" expect_output '"Kind": "Active"' info child-active
check "commit the child" ctr snapshots commit child child-active
check "the parent is what it was" eval '
    ctr snapshots prepare look base && expect_output "$sum" mounted look sha256sum d/numbers random && ctr snapshots rm look'

# ctr makes views without the label that keeps the garbage collector away; so let it finish first, and then label the view.
collect_garbage
check "view" eval 'ctr snapshots view view child && ctr snapshots label view containerd.io/gc.root=now'
check "a view is read-only" expect_failure "read-only" mounted view touch f
check "a view has the layer's files" expect_output "child" mounted view cat name
check "a view lacks what the layer removed" expect_failure "no such file" mounted view cat random
check "info says View" expect_output '"Kind": "View"' info view
check "ls lists all with kind and parent" eval '
    [[ $(ctr snapshots ls | awk "NR > 1 { \$1 = \$1; print }" | sort | tr "\n" ";") == \
        "base Committed;child base Committed;view child View;" ]] || { ctr snapshots ls; false; }'
check "tree shows who stands on whom" eval '[[ $(ctr snapshots tree | tr -d " \n") == *base*child*view* ]]'
check "committing a view is refused" expect_failure "not active|failed precondition|invalid" ctr snapshots commit c view

check "usage of the base is what was written" eval '(($(usage base) >= 4 << 20 && $(usage base) < 16 << 20)) || { ctr snapshots usage -b; false; }'
check "usage of the child is what it adds" eval '(($(usage child) > 0 && $(usage child) < 2 << 20)) || { ctr snapshots usage -b; false; }'
check "usage of a view is nothing" eval '(($(usage view) == 0)) || { ctr snapshots usage -b; false; }'

check "label" ctr snapshots label child containerd.io/gc.root=now team=red
check "info shows the label" expect_output '"team": "red"' info child
check "a label is changed" ctr snapshots label child team=blue
check "info shows the new one" expect_output '"team": "blue"' info child

check "removing a parent is refused" expect_failure "has child|cannot remove|failed precondition|references" ctr snapshots rm base
check "rm the view" ctr snapshots rm view
check "the other two stay" eval '[[ $(ctr snapshots ls | wc -l) == 3 ]] || { ctr snapshots ls; false; }'

check "diff against the parent has just the changes" eval '
    ctr snapshots diff --media-type application/vnd.oci.image.layer.v1.tar base child >/tmp/diff.tar &&
    [[ $(tar tf /tmp/diff.tar | sort | tr "\n" " ") == ".wh.random d/ d/new d/numbers name " ]] || { tar tvf /tmp/diff.tar; false; }'
check "diff of a base layer has it all" eval '
    ctr snapshots diff --media-type application/vnd.oci.image.layer.v1.tar base >/tmp/base.tar &&
    [[ $(tar tf /tmp/base.tar | sort | tr "\n" " ") == "d/ d/numbers name random " ]] || { tar tvf /tmp/base.tar; false; }'

check "rm several" ctr snapshots rm child base
check "removing what is not there says so" expect_failure "not found|does not exist" ctr snapshots rm base
check "nothing is left" eval '[[ $(ctr snapshots ls | wc -l) == 1 ]] || { ctr snapshots ls; false; }'
check "nothing is suspended" nothing_suspended
check "the daemon stops cleanly" stop_daemon
finish
