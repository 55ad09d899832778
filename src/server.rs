//! Serves the snapshots service and gRPC health on a Unix socket until told to stop.
//!
//! The listener and the moment to stop are handed in; nothing here is global.

use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::grpc::Service;

/// `sun_path` has 108 bytes, one of them for the NUL (unix(7)).
const PATH_MAX: usize = 107;
/// How long calls under way may take to finish once the daemon is told to stop.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Why the socket cannot be served on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("address {path}: {length} bytes are too long for a Unix socket; {PATH_MAX} fit")]
    TooLong { path: PathBuf, length: usize },
    #[error("address {path}: another process is serving on it; stop that one, or give this one another --address")]
    InUse { path: PathBuf },
    #[error("address {path}: there is a file that is no socket; move it away, or choose another --address")]
    NotASocket { path: PathBuf },
    #[error("address {path}: cannot {step}: {source}")]
    Step { path: PathBuf, step: &'static str, source: io::Error },
    #[error("serving failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Listens on `path`: makes its directory (mode 0700), takes away a socket that nobody serves any more, and gives the new
/// one mode 0600 before it can be seen.
pub fn listen(path: &Path) -> Result<StdListener, ServerError> {
    let fail = |step, source| ServerError::Step { path: path.into(), step, source };
    // The socket is made under a name of its own beside the final one, and renamed when its mode is set.
    let unseen = path.with_extension("new");
    let length = path.as_os_str().len().max(unseen.as_os_str().len());
    if length > PATH_MAX {
        return Err(ServerError::TooLong { path: path.into(), length: path.as_os_str().len() });
    }
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| fail("make its directory", e))?;
    }
    must_be_unused(path)?;
    match std::fs::remove_file(&unseen) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail("take away an old socket", error)),
        _ => {}
    }
    let listener = StdListener::bind(&unseen).map_err(|e| fail("bind it", e))?;
    std::fs::set_permissions(&unseen, PermissionsExt::from_mode(0o600)).map_err(|e| fail("set its mode", e))?;
    std::fs::rename(&unseen, path).map_err(|e| fail("put it in place", e))?;
    listener.set_nonblocking(true).map_err(|e| fail("make it non-blocking", e))?;
    Ok(listener)
}

fn must_be_unused(path: &Path) -> Result<(), ServerError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ServerError::Step { path: path.into(), step: "look at it", source }),
        Ok(found) if !found.file_type().is_socket() => return Err(ServerError::NotASocket { path: path.into() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServerError::InUse { path: path.into() }),
        Err(_) => {
            tracing::info!(path = %path.display(), "a socket of an earlier run is replaced");
            Ok(())
        }
    }
}

/// Serves until `stop` is ready; then takes no more calls and lets those under way finish, [`DRAIN`] at the most.
pub async fn serve(listener: StdListener, service: Service, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
    let incoming = UnixListener::from_std(listener).map_err(|source| ServerError::Step {
        path: PathBuf::new(),
        step: "listen",
        source,
    })?;
    let (mut health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("containerd.services.snapshots.v1.Snapshots", tonic_health::ServingStatus::Serving).await;
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let server = Server::builder()
        .add_service(containerd_snapshots::server(Arc::new(service)))
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
            tracing::warn!("calls were still under way {} s after the stop; they end with the daemon", DRAIN.as_secs());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_before_the_unit_kills_the_daemon() {
        let unit = include_str!("../contrib/systemd/devmapper-snapshotter.service");
        let limit = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).and_then(|s| s.parse().ok());
        let limit = Duration::from_secs(limit.expect("the unit says how long a stop may take"));
        assert!(DRAIN + crate::snapshotter::STOP_LIMIT < limit, "{limit:?}");
    }
}
