//! Serves the snapshots service and gRPC health on a Unix socket until it is told to stop.
//!
//! The caller hands in the listener and the future that ends the service.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::grpc::{CommitParent, Service};

/// The longest path of a socket in bytes. `sun_path` has 108 bytes, and the last is NUL (unix(7)).
const PATH_MAX: usize = 107;
/// How long a stop waits for the calls under way.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Why the socket cannot be served on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("address {path}: {length} bytes are too long for a Unix socket; {PATH_MAX} fit")]
    TooLong { path: PathBuf, length: usize },
    #[error(
        "address {path}: another process is serving on it; stop that one, or give this one another \
         --address"
    )]
    InUse { path: PathBuf },
    #[error(
        "address {path}: there is a {} that is no socket; move it away, or choose another \
         --address",
        if path.is_dir() { "directory" } else { "file" }
    )]
    NotASocket { path: PathBuf },
    #[error("address {path}: cannot {step}: {source}")]
    Step { path: PathBuf, step: &'static str, source: io::Error },
    #[error("the socket cannot be waited on: {0}")]
    Listener(io::Error),
    #[error("serving failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Listens on `path`. Makes its directory (mode 0700), and replaces a socket that no process serves
/// any more. The new socket has mode 0600 before it appears under its name.
pub fn listen(path: &Path) -> Result<StdListener, ServerError> {
    let fail = |step, source| ServerError::Step { path: path.into(), step, source };
    let length = path.as_os_str().len();
    if length > PATH_MAX {
        return Err(ServerError::TooLong { path: path.into(), length });
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ServerError::NotASocket { path: path.into() });
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|e| fail("make its directory", e))?;
    // The socket is bound under another name in the same directory, and renamed when its mode is
    // set. If the path of that name is too long, a shorter one is used, through a descriptor of the
    // directory.
    let held = std::fs::File::open(directory).map_err(|e| fail("open its directory", e))?;
    let start: String = name.to_string_lossy().chars().take(16).collect();
    let mut unseen = directory.join(format!(".{start}.new"));
    if unseen.as_os_str().len() > PATH_MAX {
        unseen = PathBuf::from(format!("/proc/self/fd/{}/.{start}.new", held.as_raw_fd()));
    }
    must_be_unused(path)?;
    match std::fs::remove_file(&unseen) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(fail("remove an old socket", error))
        }
        _ => {}
    }
    let listener = StdListener::bind(&unseen).map_err(|e| fail("bind it", e))?;
    std::fs::set_permissions(&unseen, PermissionsExt::from_mode(0o600))
        .map_err(|e| fail("set its mode", e))?;
    std::fs::rename(&unseen, path).map_err(|e| fail("put it in place", e))?;
    listener.set_nonblocking(true).map_err(|e| fail("make it non-blocking", e))?;
    Ok(listener)
}

fn must_be_unused(path: &Path) -> Result<(), ServerError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ServerError::Step { path: path.into(), step: "look at it", source })
        }
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServerError::NotASocket { path: path.into() })
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServerError::InUse { path: path.into() }),
        Err(_) => {
            tracing::info!(path = %path.display(), "the socket of an earlier run is replaced");
            Ok(())
        }
    }
}

/// Serves until `stop` is ready. Then it takes no more calls, and waits for those under way, for at
/// most [`DRAIN`].
pub async fn serve(
    listener: StdListener,
    service: Service,
    stop: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let incoming = UnixListener::from_std(listener).map_err(ServerError::Listener)?;
    let (mut health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status(
            "containerd.services.snapshots.v1.Snapshots",
            tonic_health::ServingStatus::Serving,
        )
        .await;
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let server = Server::builder()
        .add_service(CommitParent::new(
            containerd_snapshots::server(Arc::new(service.clone())),
            service,
        ))
        .add_service(health_service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(incoming), async {
            stop.await;
            let _ = stopping.send(());
        });
    tokio::pin!(server);
    tokio::select! {
        result = &mut server => return Ok(result?),
        _ = stopped => {}
    }
    match tokio::time::timeout(DRAIN, server).await {
        Ok(result) => Ok(result?),
        Err(_) => {
            tracing::warn!(
                "calls were still under way {} s after the stop; they end with the daemon",
                DRAIN.as_secs()
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_too_long_when_no_client_could_connect_to_it_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = |length: usize| {
            let start = format!("{}/", directory.path().display());
            PathBuf::from(format!("{start}{}", "s".repeat(length - start.len())))
        };
        for fits in [90, 103, 104, 105, PATH_MAX] {
            let _listener = listen(&path(fits)).unwrap();
            UnixStream::connect(path(fits)).unwrap();
            assert_eq!(std::fs::metadata(path(fits)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        for long in [PATH_MAX + 1, 200] {
            let error = listen(&path(long)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{long} bytes are too long")) && error.contains("107 fit"),
                "{error}"
            );
        }
        let names = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 5, "something is left beside the sockets");
    }

    #[test]
    fn a_socket_that_no_process_serves_is_replaced_and_no_other_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.new");
        drop(listen(&path).unwrap());
        std::fs::write(directory.path().join("d"), "precious").unwrap();
        let _listener = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(ServerError::InUse { .. })));
        let error = listen(&directory.path().join("d")).unwrap_err().to_string();
        assert!(error.contains("a file that is no socket"), "{error}");
        let error = listen(directory.path()).unwrap_err().to_string();
        assert!(error.contains("a directory that is no socket"), "{error}");
        assert_eq!(std::fs::read(directory.path().join("d")).unwrap(), b"precious");
    }

    #[test]
    fn a_stop_ends_before_the_unit_kills_the_daemon() {
        let unit = include_str!("../contrib/systemd/devmapper-snapshotter.service");
        let limit = unit
            .lines()
            .find_map(|line| line.strip_prefix("TimeoutStopSec="))
            .and_then(|s| s.parse().ok());
        let limit = Duration::from_secs(limit.expect("the unit says how long a stop may take"));
        assert!(DRAIN + crate::snapshotter::STOP_LIMIT < limit, "{limit:?}");
    }
}
