// containerd's built-in devmapper snapshotter alone behind a socket, as the proxy plugin protocol
// has it: the peer to measure the daemon against without containerd's own work in the figures.
package main

import (
	"context"
	"fmt"
	"net"
	"os"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/snapshots/devmapper"
	"google.golang.org/grpc"
)

func serve(address, root, pool string) error {
	snapshotter, err := devmapper.NewSnapshotter(context.Background(), &devmapper.Config{
		RootPath:      root,
		PoolName:      pool,
		BaseImageSize: "10GB",
		DiscardBlocks: true,
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	return server.Serve(listener)
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: builtin-devmapper SOCKET STATE_DIRECTORY POOL")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "builtin-devmapper:", err)
		os.Exit(1)
	}
}
