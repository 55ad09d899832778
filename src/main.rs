//! The program `devmapper-snapshotter`: its flags, its log, and serving until a signal comes.

mod commands;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use clap::{Parser, Subcommand};
use commands::AnyError;
use devmapper_snapshotter::config::{Config, Overrides};
use devmapper_snapshotter::grpc::Service;
use devmapper_snapshotter::metrics::{self, Metrics};
use devmapper_snapshotter::wiring::{device_mapper, Opened, StateDirectory};
use devmapper_snapshotter::{monitor, server};
use tokio::signal::unix::{signal, SignalKind};
use tracing_subscriber::EnvFilter;

/// A containerd snapshotter on device-mapper thin provisioning.
///
/// Without any configuration it makes a pool of its own on loop devices under its state directory
/// and serves on /run/devmapper-snapshotter/devmapper-snapshotter.sock.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// The Unix socket to serve on.
    #[arg(long, env = "DEVMAPPER_SNAPSHOTTER_ADDRESS")]
    address: Option<PathBuf>,
    /// The configuration file; /etc/devmapper-snapshotter/config.toml if it exists.
    #[arg(long, env = "DEVMAPPER_SNAPSHOTTER_CONFIG")]
    config: Option<PathBuf>,
    /// The state directory.
    #[arg(long, env = "DEVMAPPER_SNAPSHOTTER_ROOT")]
    root: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, off, or a filter such as
    /// info,devmapper_snapshotter::pool=debug.
    #[arg(long, env = "DEVMAPPER_SNAPSHOTTER_LOG_LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists, while the daemon is stopped, every snapshot, template and removal under way with its
    /// device, its thin and the bytes it maps; changes nothing.
    Ls,
    /// Compares database, pool and devices while the daemon is stopped, and lists every
    /// disagreement; changes nothing. Exits with 1 if there is any.
    Check {
        /// Then mends what is safe to mend, which is what every start of the daemon does: resumes,
        /// removes what no record wants, deletes unrecorded thins on lease, reclaims. Nothing on
        /// record is ever deleted.
        #[arg(long)]
        repair: bool,
    },
}

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("devmapper-snapshotter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> Result<(), AnyError> {
    let overrides =
        Overrides { root: flags.root, address: flags.address, log_level: flags.log_level };
    let config = Config::load(flags.config.as_deref(), &overrides)?;
    let filter = EnvFilter::try_new(&config.log_level)
        .map_err(|e| format!("log_level {:?}: {e}", config.log_level))?;
    let colours = std::io::stderr().is_terminal();
    // A line that cannot be written, for instance to a full file system, is lost. With this setting
    // on, an error about it on the same stderr would be a panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .log_internal_errors(false);
    log.with_writer(std::io::stderr).init();
    match flags.command {
        Some(Command::Check { repair: false }) => return commands::check(&config),
        Some(Command::Check { repair: true }) => return commands::repair(&config),
        Some(Command::Ls) => return commands::list(&config),
        None => {}
    }
    // First, before anything is made: without root, or in a container that is not privileged,
    // nothing else works either.
    let dm = device_mapper()?;
    dm.require_thin()?;
    let _state = StateDirectory::own(&config.root)?;
    // The Unix socket comes last, since it leaves a file behind if a later step fails.
    let metrics = config.metrics_address.map(metrics::listen).transpose()?;
    let sockets = Sockets { calls: server::listen(&config.address)?, metrics };
    let result = Opened::open(&config, dm)
        .map_err(AnyError::from)
        .and_then(|opened| run_until_stopped(sockets, opened, &config.address));
    // An error does not matter: the next start replaces a socket that is left behind.
    let _ = std::fs::remove_file(&config.address);
    result
}

/// The sockets of the daemon. Both are opened before the pool is touched.
struct Sockets {
    calls: std::os::unix::net::UnixListener,
    metrics: Option<std::net::TcpListener>,
}

fn run_until_stopped(sockets: Sockets, opened: Opened, address: &Path) -> Result<(), AnyError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(serve(sockets, opened, address));
    // Calls that are still under way after the drain end with the process. Each can be interrupted
    // anywhere.
    runtime.shutdown_background();
    served
}

async fn serve(sockets: Sockets, opened: Opened, address: &Path) -> Result<(), AnyError> {
    let Opened { pool, snapshotter, .. } = opened;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let monitor = monitor::watch(&pool)?;
    monitor::give_back(&pool)?;
    let metrics = Arc::new(Metrics::new(Arc::clone(&snapshotter)));
    let scraped =
        sockets.metrics.map(|listener| tokio::spawn(serve_metrics(listener, Arc::clone(&metrics))));
    let service = Service::new(Arc::clone(&snapshotter), metrics);
    let broken = Arc::new(AtomicBool::new(false));
    let stop = {
        let (service, broken, snapshotter) =
            (service.clone(), Arc::clone(&broken), Arc::clone(&snapshotter));
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = service.broken() => broken.store(true, Ordering::Relaxed),
            }
            tracing::info!("stopping; devices stay as they are");
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            // Now, while calls under way finish, so that both end at the same time.
            snapshotter.stop_reclaiming();
        }
    };
    tracing::info!(address = %address.display(), pool = %pool.device_name(), "serving");
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    let served = server::serve(sockets.calls, service, stop).await;
    drop(monitor);
    if let Some(scraped) = scraped {
        scraped.abort();
    }
    served?;
    if broken.load(Ordering::Relaxed) {
        return Err(
            "a sync of the database failed, so only a new start can tell what is on disk; start \
             again once the disk is well"
                .into(),
        );
    }
    Ok(())
}

/// Serves the metrics. An error is logged and stops nothing else.
async fn serve_metrics(listener: std::net::TcpListener, metrics: Arc<Metrics>) {
    if let Err(error) = metrics::serve(listener, metrics).await {
        tracing::error!(%error, "the metrics are not served any more");
    }
}
