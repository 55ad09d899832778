//! The daemon `devmapper-snapshotter`: reads its configuration, opens its pool, serves, and stops cleanly.

mod commands;

use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use clap::{Parser, Subcommand};
use devmapper_snapshotter::block::RealDisks;
use devmapper_snapshotter::config::{Backing, Config, Overrides};
use devmapper_snapshotter::dm::{Dm, RealKernel};
use devmapper_snapshotter::fs::{FsSpec, Mkfs};
use devmapper_snapshotter::grpc::Service;
use devmapper_snapshotter::metrics::{self, Metrics};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::pool::{HostBacker, Pool, PoolSettings};
use devmapper_snapshotter::snapshotter::{Settings, Snapshotter};
use devmapper_snapshotter::store::Store;
use devmapper_snapshotter::{monitor, server};
use tokio::signal::unix::{signal, SignalKind};
use tracing_subscriber::EnvFilter;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A containerd snapshotter on device-mapper thin provisioning.
///
/// Without any configuration it makes a pool of its own on loop devices under its state directory and serves on
/// /run/devmapper-snapshotter/devmapper-snapshotter.sock.
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
    /// What to log: error, warn, info, debug, trace, or a filter such as devmapper_snapshotter::pool=debug.
    #[arg(long, env = "DEVMAPPER_SNAPSHOTTER_LOG_LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists, while the daemon is stopped, every snapshot, template and removal under way with its device, its thin and the
    /// bytes it maps.
    Ls,
    /// Compares database, pool and devices while the daemon is stopped, and lists every disagreement. Exits with 1 if there
    /// is any.
    Check {
        /// Then mends what is safe to mend, which is what every start of the daemon does: resumes, removes what no record
        /// wants, deletes unrecorded thins on lease, reclaims. Nothing on record is ever deleted.
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
    let overrides = Overrides { root: flags.root, address: flags.address, log_level: flags.log_level };
    let config = Config::load(flags.config.as_deref(), &overrides)?;
    let filter = EnvFilter::try_new(&config.log_level).map_err(|e| format!("log_level {:?}: {e}", config.log_level))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let _state = own_state_directory(&config.root)?;
    match flags.command {
        Some(Command::Check { repair }) => return commands::check(&config, repair),
        Some(Command::Ls) => return commands::list(&config),
        None => {}
    }
    // The one that leaves a file behind comes last.
    let metrics = config.metrics_address.map(metrics::listen).transpose()?;
    let sockets = Sockets { calls: server::listen(&config.address)?, metrics };
    let result = open(&config).and_then(|snapshotter| run_until_stopped(sockets, snapshotter, &config.address));
    // Nobody waits for it: a socket that is left behind is replaced by the next start.
    let _ = std::fs::remove_file(&config.address);
    result
}

/// What the daemon is asked through; both are taken before the pool is touched.
struct Sockets {
    calls: std::os::unix::net::UnixListener,
    metrics: Option<std::net::TcpListener>,
}

fn run_until_stopped(sockets: Sockets, snapshotter: Snapshotter, address: &Path) -> Result<(), AnyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(serve(sockets, Arc::new(snapshotter), address));
    // Blocking calls that outlast the drain are cut off with the process: each is safe to cut anywhere.
    runtime.shutdown_background();
    served
}

/// Makes the state directory and locks it, so that one daemon works on it at a time. The lock goes with the process.
fn own_state_directory(root: &Path) -> Result<std::fs::File, AnyError> {
    let wrong = |what: &str, e: &dyn std::fmt::Display| format!("state directory {}: {what}: {e}", root.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|e| wrong("cannot be made", &e))?;
    let path = root.join("lock");
    let lock = std::fs::File::create(&path).map_err(|e| wrong("cannot be written to", &e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(wrong(
            "another daemon works on it",
            &"stop that one, or give this one another --root (and another 'name' and --address)",
        )
        .into()),
        Err(std::fs::TryLockError::Error(e)) => Err(wrong("cannot be locked", &e).into()),
    }
}

/// What opening a pool takes.
struct Parts {
    dm: Dm,
    store: Arc<Store>,
    backer: Arc<HostBacker>,
    settings: PoolSettings,
}

fn parts(config: &Config) -> Result<Parts, AnyError> {
    let dm = Dm::new(Arc::new(RealKernel::open()?), Default::default());
    let store = Arc::new(Store::open(&database(config))?);
    let external = match &config.backing {
        Backing::External { pool_name } => Some(DmName::new(pool_name.as_str())?),
        _ => None,
    };
    let settings = PoolSettings {
        name: config.name.clone(),
        external,
        block_size: config.block_size,
        min_free_percent: config.min_free_percent,
    };
    let backer = Arc::new(HostBacker::new(config, Arc::new(RealDisks)));
    Ok(Parts { dm, store, backer, settings })
}

fn database(config: &Config) -> PathBuf {
    config.root.join("metadata.redb")
}

fn open(config: &Config) -> Result<Snapshotter, AnyError> {
    let Parts { dm, store, backer, settings } = parts(config)?;
    let pool = Pool::open(&settings, dm, Arc::clone(&store), backer)?;
    let settings = Settings {
        fs: FsSpec { fs_type: config.fs_type.parse()?, options: config.fs_options.clone() },
        base_image_size: config.base_image_size,
        discard: config.discard.unwrap_or(matches!(config.backing, Backing::Embedded { .. })),
    };
    Ok(Snapshotter::start(settings, pool, store, Arc::new(RealDisks), Arc::new(Mkfs::new()))?)
}

async fn serve(sockets: Sockets, snapshotter: Arc<Snapshotter>, address: &Path) -> Result<(), AnyError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let monitor = monitor::watch(&snapshotter)?;
    let metrics = Arc::new(Metrics::new(Arc::clone(&snapshotter)));
    let scraped = sockets.metrics.map(|listener| tokio::spawn(serve_metrics(listener, Arc::clone(&metrics))));
    let service = Service::new(Arc::clone(&snapshotter), metrics);
    let broken = Arc::new(AtomicBool::new(false));
    let stop = {
        let (service, broken, snapshotter) = (service.clone(), Arc::clone(&broken), Arc::clone(&snapshotter));
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = service.broken() => broken.store(true, Ordering::Relaxed),
            }
            tracing::info!("stopping; devices stay as they are");
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            // While calls under way finish; so the stop waits for whichever takes longer, and not for one after the other.
            snapshotter.stop_reclaiming();
        }
    };
    tracing::info!(address = %address.display(), pool = %snapshotter.pool().device_name(), "serving");
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    let served = server::serve(sockets.calls, service, stop).await;
    drop(monitor);
    if let Some(scraped) = scraped {
        scraped.abort();
    }
    served?;
    if broken.load(Ordering::Relaxed) {
        return Err(
            "a sync of the database failed, so what is on disk must be read anew; start again once the disk is well"
                .into(),
        );
    }
    Ok(())
}

/// Monitoring that cannot be served takes nothing else down.
async fn serve_metrics(listener: std::net::TcpListener, metrics: Arc<Metrics>) {
    if let Err(error) = metrics::serve(listener, metrics).await {
        tracing::error!(%error, "there are no metrics from now on");
    }
}
