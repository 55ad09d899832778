// Runs containerd's own snapshotter contract suite against the daemon, over its socket, as
// containerd's proxy plugin would.
//
// Every subtest gets a daemon of its own, started with no set-up on an empty state directory;
// afterwards the daemon must have stopped cleanly, and its devices must come apart (nothing busy,
// nothing suspended), with metadata that thin_check approves of.
package contract

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/log/logtest"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/pkg/testutil"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/testsuite"
	"github.com/containerd/continuity/fs/fstest"
	"gotest.tools/assert"
)

var (
	daemonPath  = flag.String("daemon", "", "the daemon's binary")
	logDir      = flag.String("logs", "", "where the daemons' logs are kept")
	fileSystems = []string{"ext4", "xfs"}
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *daemonPath == "" || *logDir == "" {
		fmt.Fprintln(os.Stderr, "usage: contract.test -daemon PATH -logs DIR -test.parallel 1 -test.v")
		os.Exit(2)
	}
	if flag.Lookup("test.parallel").Value.String() != "1" {
		fmt.Fprintln(os.Stderr, "contract.test: needs -test.parallel 1, since two daemons would fight for one pool name")
		os.Exit(2)
	}
	// The suite clears the umask, but only until its first parallel test starts.
	syscall.Umask(0)
	os.Exit(m.Run())
}

func TestContract(t *testing.T) {
	for _, fsType := range fileSystems {
		t.Run(fsType, func(t *testing.T) {
			testsuite.SnapshotterSuite(t, fsType, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
				daemon, err := startDaemon(fsType)
				if err != nil {
					return nil, nil, err
				}
				return daemon.snapshotter, daemon.tearDown, nil
			})
		})
	}
}

// TestBeyondTheSuite holds what the suite skips or leaves to each snapshotter's own tests.
func TestBeyondTheSuite(t *testing.T) {
	for _, fsType := range fileSystems {
		for _, test := range []struct {
			name  string
			check func(context.Context, *testing.T, snapshots.Snapshotter)
		}{
			{"Rename", checkRename},
			{"UsageCountsWhatALayerAdds", checkUsage},
			{"CommitOfAMountedSnapshotKeepsWhatWasWritten", checkCommitWhileMounted},
			{"TwoViewsMountSideBySide", checkTwoViews},
			{"CleanupLeavesNoDeviceOfARemovedSnapshot", checkCleanup},
		} {
			t.Run(fsType+"/"+test.name, func(t *testing.T) {
				daemon, err := startDaemon(fsType)
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := daemon.tearDown(); err != nil {
						t.Error(err)
					}
				}()
				ctx := namespaces.WithNamespace(logtest.WithT(context.Background(), t), "testsuite")
				test.check(ctx, t, daemon.snapshotter)
			})
		}
	}
}

// The suite leaves this one out, for overlayfs's sake; a block device has no excuse.
func checkRename(ctx context.Context, t *testing.T, sn snapshots.Snapshotter) {
	layers := []fstest.Applier{
		fstest.Apply(
			fstest.CreateDir("/dir1", 0700),
			fstest.CreateDir("/somefiles", 0700),
			fstest.CreateFile("/somefiles/f1", []byte("was here first!"), 0644),
			fstest.CreateFile("/somefiles/f2", []byte("nothing interesting"), 0644),
		),
		fstest.Apply(
			fstest.Rename("/dir1", "/dir2"),
			fstest.CreateFile("/somefiles/f1-overwrite", []byte("new content 1"), 0644),
			fstest.Rename("/somefiles/f1-overwrite", "/somefiles/f1"),
			fstest.Rename("/somefiles/f2", "/somefiles/f3"),
		),
	}
	parent, flat := "", t.TempDir()
	for i, layer := range layers {
		assert.NilError(t, layer.Apply(flat))
		parent = commitLayer(ctx, t, sn, fmt.Sprintf("layer-%d", i), parent, layer)
		expectView(ctx, t, sn, parent, flat)
	}
}

func checkUsage(ctx context.Context, t *testing.T, sn snapshots.Snapshotter) {
	const added = 1 << 20
	base := commitLayer(ctx, t, sn, "base", "", fstest.Apply(fstest.CreateRandomFile("/base", 1, 4*added, 0644)))
	child := commitLayer(ctx, t, sn, "child", base, fstest.Apply(fstest.CreateRandomFile("/child", 2, added, 0644)))

	usage, err := sn.Usage(ctx, base)
	assert.NilError(t, err)
	assert.Check(t, usage.Size >= 4*added, "base of 4 MiB: %d bytes", usage.Size)

	usage, err = sn.Usage(ctx, child)
	assert.NilError(t, err)
	assert.Check(t, usage.Size >= added, "child with 1 MiB of its own: %d bytes", usage.Size)
	assert.Check(t, usage.Size < 4*added, "child with 1 MiB of its own counts its parent's blocks: %d bytes", usage.Size)

	_, err = sn.View(ctx, "view", child, opt)
	assert.NilError(t, err)
	usage, err = sn.Usage(ctx, "view")
	assert.NilError(t, err)
	assert.Check(t, usage.Size >= 0, "view: %d bytes", usage.Size)
}

// A commit takes what has been written so far, synced or not, and nothing that is written
// afterwards.
func checkCommitWhileMounted(ctx context.Context, t *testing.T, sn snapshots.Snapshotter) {
	target, flat := t.TempDir(), t.TempDir()
	first := fstest.Apply(
		fstest.CreateDir("/d", 0755),
		fstest.CreateRandomFile("/d/unsynced", 3, 1<<20, 0644),
		fstest.CreateFile("/small", []byte("small\n"), 0600),
	)
	mounts, err := sn.Prepare(ctx, "mounted", "", opt)
	assert.NilError(t, err)
	assert.NilError(t, mount.All(mounts, target))
	defer testutil.Unmount(t, target)

	assert.NilError(t, first.Apply(flat))
	assert.NilError(t, first.Apply(target))
	assert.NilError(t, sn.Commit(ctx, "committed", "mounted", opt))

	// A mount point that has turned read-only is as good as one that goes on in vain.
	late := filepath.Join(target, "too-late")
	if err := os.WriteFile(late, make([]byte, 1<<20), 0644); err == nil {
		syscall.Sync()
	}
	expectView(ctx, t, sn, "committed", flat)

	second := fstest.Apply(fstest.CreateFile("/child", []byte("child\n"), 0644))
	assert.NilError(t, second.Apply(flat))
	expectView(ctx, t, sn, commitLayer(ctx, t, sn, "child", "committed", second), flat)
}

// Two mounts of one layer at the same time: file systems that compare UUIDs (xfs) refuse that
// unless they are told not to.
func checkTwoViews(ctx context.Context, t *testing.T, sn snapshots.Snapshotter) {
	content := fstest.Apply(fstest.CreateFile("/f", []byte("f\n"), 0644))
	base, flat := commitLayer(ctx, t, sn, "base", "", content), t.TempDir()
	assert.NilError(t, content.Apply(flat))
	for _, key := range []string{"view-1", "view-2"} {
		mounts, err := sn.View(ctx, key, base, opt)
		assert.NilError(t, err)
		target := t.TempDir()
		assert.NilError(t, mount.All(mounts, target))
		defer testutil.Unmount(t, target)
		assert.NilError(t, fstest.CheckDirectoryEqual(target, flat))
	}
	expectView(ctx, t, sn, base, flat)
}

// What Remove has answered for may be reclaimed later; Cleanup ends with nothing of it left in the
// kernel.
func checkCleanup(ctx context.Context, t *testing.T, sn snapshots.Snapshotter) {
	cleaner, ok := sn.(snapshots.Cleaner)
	assert.Assert(t, ok)
	base := commitLayer(ctx, t, sn, "base", "", fstest.Apply(fstest.CreateRandomFile("/f", 4, 1<<20, 0644)))
	var devices []string
	for i := 0; i < 8; i++ {
		mounts, err := sn.Prepare(ctx, fmt.Sprintf("active-%d", i), base, opt)
		assert.NilError(t, err)
		devices = append(devices, mounts[0].Source)
	}
	for i := 0; i < 8; i++ {
		assert.NilError(t, sn.Remove(ctx, fmt.Sprintf("active-%d", i)))
	}
	assert.NilError(t, cleaner.Cleanup(ctx))
	for _, device := range devices {
		_, err := os.Stat(device)
		assert.Check(t, os.IsNotExist(err), "%s is still there: %v", device, err)
	}
}

// containerd's garbage collector, if one were at work, would otherwise remove what no lease or
// image refers to.
var opt = snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})

// commitLayer prepares a snapshot, mounts it, lets the layer change it, unmounts and commits it.
func commitLayer(ctx context.Context, t *testing.T, sn snapshots.Snapshotter, name, parent string, layer fstest.Applier) string {
	t.Helper()
	mounts, err := sn.Prepare(ctx, name+"-active", parent, opt)
	assert.NilError(t, err)
	assert.NilError(t, mount.WithTempMount(ctx, mounts, layer.Apply))
	assert.NilError(t, sn.Commit(ctx, name, name+"-active", opt))
	return name
}

// expectView mounts a view of a committed snapshot and compares it with a folder.
func expectView(ctx context.Context, t *testing.T, sn snapshots.Snapshotter, name, flat string) {
	t.Helper()
	key := strings.Join([]string{name, "view", fmt.Sprint(time.Now().UnixNano())}, "-")
	mounts, err := sn.View(ctx, key, name, opt)
	assert.NilError(t, err)
	assert.NilError(t, mount.WithTempMount(ctx, mounts, func(root string) error {
		return fstest.CheckDirectoryEqual(root, flat)
	}))
	assert.NilError(t, sn.Remove(ctx, key))
}
