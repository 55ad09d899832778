// One daemon for one test: started on an empty state directory, stopped, and taken apart to the
// last loop device.
package contract

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/pkg/dialer"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/hashicorp/go-multierror"
	"google.golang.org/grpc"
)

const (
	// Every device of the daemon's default pool begins so.
	devicePrefix = "devmapper-snapshotter-"
	startLimit   = 60 * time.Second
	drainLimit   = 120 * time.Second
	stopLimit    = 30 * time.Second
)

type daemon struct {
	snapshotter snapshots.Snapshotter
	connection  *grpc.ClientConn
	process     *exec.Cmd
	ended       chan struct{} // closed when the process has been waited for
	state       string
	log         string
}

var started int

func startDaemon(fsType string) (*daemon, error) {
	state, err := os.MkdirTemp("", "contract-")
	if err != nil {
		return nil, err
	}
	started++
	d := &daemon{
		state: state,
		log:   filepath.Join(*logDir, fmt.Sprintf("contract-%02d-%s.log", started, fsType)),
		ended: make(chan struct{}),
	}
	config, socket := filepath.Join(state, "config.toml"), filepath.Join(state, "run", "daemon.sock")
	if err := os.WriteFile(config, []byte(fmt.Sprintf("fs_type = %q\n", fsType)), 0600); err != nil {
		return nil, err
	}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.process = exec.Command(*daemonPath,
		"--config", config, "--root", filepath.Join(state, "root"), "--address", socket, "--log-level", "debug")
	d.process.Stdout, d.process.Stderr = log, log
	if err := d.process.Start(); err != nil {
		return nil, err
	}

	// Waiting for the socket ends when the process does.
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	go func() {
		d.process.Wait()
		close(d.ended)
		cancel()
	}()
	d.connection, err = grpc.DialContext(ctx, dialer.DialAddress(socket), grpc.WithBlock(),
		grpc.WithContextDialer(dialer.ContextDialer), grpc.WithInsecure())
	if err != nil {
		return nil, multierror.Append(fmt.Errorf("the daemon does not serve: %w\n%s", err, d.logTail()), d.takeApart())
	}
	d.snapshotter = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(d.connection), "devmapper-rs")
	return d, nil
}

// tearDown drains and stops the daemon, then takes its pool apart. Whatever does not go as it
// should is an error.
func (d *daemon) tearDown() error {
	var problems *multierror.Error
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "testsuite"), drainLimit)
	defer cancel()
	if err := d.snapshotter.(snapshots.Cleaner).Cleanup(ctx); err != nil {
		problems = multierror.Append(problems, fmt.Errorf("Cleanup: %w", err))
	}
	d.connection.Close()
	d.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
		if !d.process.ProcessState.Success() {
			problems = multierror.Append(problems, fmt.Errorf("the daemon ended with %s", d.process.ProcessState))
		}
	case <-time.After(stopLimit):
		problems = multierror.Append(problems, fmt.Errorf("the daemon did not stop within %s of SIGTERM", stopLimit))
	}
	problems = multierror.Append(problems, d.takeApart())
	if err := problems.ErrorOrNil(); err != nil {
		return fmt.Errorf("%w\n%s", err, d.logTail())
	}
	return nil
}

// takeApart removes what the daemon leaves behind on purpose: active devices, the pool, its loop
// devices, the state directory.
func (d *daemon) takeApart() error {
	var problems *multierror.Error
	failed := func(err error) {
		if err != nil {
			problems = multierror.Append(problems, err)
		}
	}
	d.process.Process.Kill()
	<-d.ended

	pool, layers, areas, err := devices()
	failed(err)
	if len(layers) > 0 {
		_, err := dmsetup(append([]string{"remove"}, layers...)...)
		failed(err)
	}
	if pool != "" {
		failed(removePool(pool))
	}
	if len(areas) > 0 {
		_, err := dmsetup(append([]string{"remove"}, areas...)...)
		failed(err)
	}
	failed(d.detachLoops())
	failed(os.RemoveAll(d.state))
	return problems.ErrorOrNil()
}

// devices tells the pool, its layers and the areas below it apart, and complains about suspended
// ones and about open layers.
func devices() (pool string, layers, areas []string, err error) {
	var problems *multierror.Error
	out, err := dmsetup("info", "-C", "--noheadings", "--separator", " ", "-o", "name,suspended,open,uuid")
	if err != nil {
		return "", nil, nil, err
	}
	for _, line := range strings.Split(out, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.HasPrefix(fields[0], devicePrefix) {
			continue
		}
		if fields[1] != "Active" {
			problems = multierror.Append(problems, fmt.Errorf("left suspended: %s", line))
		}
		switch strings.TrimPrefix(fields[0], devicePrefix) {
		case "pool":
			pool = fields[0]
		case "data", "metadata":
			areas = append(areas, fields[0])
		default:
			layers = append(layers, fields[0])
			if fields[2] != "0" {
				problems = multierror.Append(problems, fmt.Errorf("left open: %s", line))
			}
		}
	}
	return pool, layers, areas, problems.ErrorOrNil()
}

// removePool leaves the metadata's device to thin_check, which wants neither a live pool nor a
// plain file on tmpfs.
func removePool(pool string) error {
	table, err := dmsetup("table", pool)
	if err != nil {
		return err
	}
	fields := strings.Fields(table) // start length thin-pool metadata data ...
	if len(fields) < 5 || fields[2] != "thin-pool" {
		return fmt.Errorf("%s is no thin pool: %s", pool, table)
	}
	device, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", fields[3]))
	if err != nil {
		return err
	}
	metadata, err := os.Open(filepath.Join("/dev", filepath.Base(device)))
	if err != nil {
		return err
	}
	defer metadata.Close()
	if _, err := dmsetup("remove", pool); err != nil {
		return err
	}
	if out, err := exec.Command("thin_check", metadata.Name()).CombinedOutput(); err != nil {
		return fmt.Errorf("thin_check of the pool's metadata: %w: %s", err, out)
	}
	return nil
}

// detachLoops frees the loop devices on files of this daemon's state directory. One that frees
// itself meanwhile is as well.
func (d *daemon) detachLoops() error {
	var problems *multierror.Error
	attached := func() (names []string) {
		files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, file := range files {
			if backing, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(backing), d.state+"/") {
				names = append(names, "/dev/"+strings.Split(file, "/")[3])
			}
		}
		return names
	}
	for _, name := range attached() {
		if err := mount.DetachLoopDevice(name); err != nil {
			problems = multierror.Append(problems, fmt.Errorf("%s: %w", name, err))
		}
	}
	if left := attached(); len(left) > 0 {
		return multierror.Append(problems, fmt.Errorf("still attached: %v", left))
	}
	return nil
}

func dmsetup(args ...string) (string, error) {
	command := exec.Command("dmsetup", args...)
	command.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	out, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("dmsetup %v: %w: %s", args, err, out)
	}
	return string(out), nil
}

func (d *daemon) logTail() string {
	const lines = 30
	text, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "the daemon's log ends with:\n" + strings.Join(all, "\n")
}
