#!/bin/bash
# The literal `--snapshotter devmapper`: a containerd built without its own devmapper leaves that id
# to the proxy plugin.
# guest: --new-disk 8G
id=devmapper
. "$(dirname "$0")/lib"

sed 's/devmapper-rs/devmapper/g' "$top/contrib/containerd/containerd-1.x.toml" >/tmp/devmapper.toml

panics_on_two_of_one_id() {
    # Debian's containerd has one built in, so the id is taken.
    cat /etc/containerd/config.toml /tmp/devmapper.toml >/tmp/two.toml
    expect_failure "already registered|panic" timeout 60 containerd --config /tmp/two.toml --root \
        /tmp/two --state /tmp/two.run
}

need "a disk for /var/lib" mount_disk
check "stock containerd does not start with a second plugin named devmapper" panics_on_two_of_one_id
need "the daemon starts" start_daemon
need "containerd without the built-in one starts" \
    start_containerd "$built/containerd-nodm" /tmp/devmapper.toml
check "it lists one devmapper, and that is ok" eval '
    equal "$(ctr plugins ls | awk "\$2 == \"devmapper\" { print \$1, \$4 }")" \
        "io.containerd.snapshotter.v1 ok" ctr plugins ls'
need "a registry starts" start_registry
need "an image is made and pushed" publish literal:1
check "ctr images pull --snapshotter devmapper" pull literal:1
check "ctr run --snapshotter devmapper" \
    expect_output "hello from the top layer" run_container c1 literal:1
check "its root is a thin device of the daemon" \
    expect_output "/dev/mapper/devmapper-snapshotter-snap-" run_container c2 literal:1 cat \
    /proc/mounts
check "the image is removed" ctr images rm --sync "$registry/literal:1"
check "only the template is left in the pool" wait_for 30 only_thins 1
check "the daemon stops cleanly" stop_daemon
finish
