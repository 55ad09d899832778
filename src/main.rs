//! The daemon `devmapper-snapshotter`: reads its configuration, opens its pool, serves, and stops
//! cleanly.

mod commands;

use std::io::IsTerminal;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use clap::{Parser, Subcommand};
use devmapper_snapshotter::block::{Loops, RealDisks};
use devmapper_snapshotter::config::{Backing, Config, Overrides};
use devmapper_snapshotter::dm::{Dm, RealKernel};
use devmapper_snapshotter::fs::{FsSpec, Mkfs};
use devmapper_snapshotter::grpc::Service;
use devmapper_snapshotter::metrics::{self, Metrics};
use devmapper_snapshotter::pool::{Backer, Pool, PoolSettings};
use devmapper_snapshotter::snapshotter::{Settings, Snapshotter};
use devmapper_snapshotter::store::Store;
use devmapper_snapshotter::{monitor, server};
use tokio::signal::unix::{signal, SignalKind};
use tracing_subscriber::EnvFilter;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

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
    // What cannot be logged, for instance into a file on a full file system, is lost: told of on
    // stderr, that would be a panic.
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
    // Before anything is made: without root, or in a container without the right to it, nothing
    // else will work either.
    let dm = device_mapper()?;
    dm.require_thin()?;
    let _state = own_state_directory(&config.root)?;
    // The one that leaves a file behind comes last.
    let metrics = config.metrics_address.map(metrics::listen).transpose()?;
    let sockets = Sockets { calls: server::listen(&config.address)?, metrics };
    let result = open(&config, dm).and_then(|(pool, snapshotter)| {
        run_until_stopped(sockets, pool, snapshotter, &config.address)
    });
    // Nobody waits for it: a socket that is left behind is replaced by the next start.
    let _ = std::fs::remove_file(&config.address);
    result
}

/// What the daemon is asked through; both are taken before the pool is touched.
struct Sockets {
    calls: std::os::unix::net::UnixListener,
    metrics: Option<std::net::TcpListener>,
}

fn run_until_stopped(
    sockets: Sockets,
    pool: Arc<Pool>,
    snapshotter: Snapshotter,
    address: &Path,
) -> Result<(), AnyError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(serve(sockets, pool, Arc::new(snapshotter), address));
    // Blocking calls that outlast the drain are cut off with the process: each is safe to cut
    // anywhere.
    runtime.shutdown_background();
    served
}

/// Makes the state directory and locks it, so that one daemon works on it at a time. The lock goes
/// with the process.
fn own_state_directory(root: &Path) -> Result<std::fs::File, AnyError> {
    let wrong = |what: &str, e: &dyn std::fmt::Display| {
        format!("state directory {}: {what}: {e}", root.display())
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|error| match (
        std::fs::symlink_metadata(root),
        root.exists(),
    ) {
        (Ok(found), false) if found.is_symlink() => {
            wrong("cannot be made", &"a link that leads nowhere is there")
        }
        (Ok(_), true) => wrong("cannot be made", &"there is something that is no directory"),
        _ => wrong("cannot be made", &error),
    })?;
    let path = root.join("lock");
    let lock =
        std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let lock = lock.map_err(|e| wrong("cannot be written to", &e))?;
    locked(root, lock.try_lock())?;
    Ok(lock)
}

/// Keeps daemons out of a state directory while it is looked at; nothing is made or changed for it.
/// `None` where no daemon has left a lock to take.
fn look_at_state_directory(root: &Path) -> Result<Option<std::fs::File>, AnyError> {
    let wrong = |what: &dyn std::fmt::Display| {
        format!(
            "state directory {}: {what}; is --root, or 'root' in the configuration, what the daemon has?",
            root.display()
        )
    };
    match std::fs::metadata(root) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(wrong(&"it is no directory").into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(wrong(&"it does not exist").into())
        }
        Err(error) => return Err(wrong(&error).into()),
    }
    if !database(root).try_exists().map_err(|error| wrong(&error))? {
        return Err(wrong(&format!("there is no database {}", database(root).display())).into());
    }
    match std::fs::File::open(root.join("lock")) {
        Ok(lock) => {
            locked(root, lock.try_lock_shared())?;
            Ok(Some(lock))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(&format!("its lock cannot be opened: {error}")).into()),
    }
}

fn locked(root: &Path, result: Result<(), std::fs::TryLockError>) -> Result<(), AnyError> {
    let root = root.display();
    match result {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(format!(
            "state directory {root}: another daemon works on it, or one of the commands check and ls: stop that one, or give \
             this one another --root (and another 'name' and --address)"
        )
        .into()),
        Err(std::fs::TryLockError::Error(e)) => Err(format!("state directory {root}: cannot be locked: {e}").into()),
    }
}

/// The kernel's device-mapper, or what is in the way of it.
fn device_mapper() -> Result<Dm, AnyError> {
    Ok(Dm::new(Arc::new(RealKernel::open()?), Default::default()))
}

/// What opening a pool takes besides device-mapper and the database.
fn parts(config: &Config) -> (Backer, PoolSettings) {
    let settings = PoolSettings {
        name: config.name.clone(),
        block_size: config.block_size,
        min_free_percent: config.min_free_percent,
    };
    (Backer::new(config, Arc::new(RealDisks), Loops::default()), settings)
}

fn database(root: &Path) -> PathBuf {
    root.join("metadata.redb")
}

fn open(config: &Config, dm: Dm) -> Result<(Arc<Pool>, Snapshotter), AnyError> {
    let store = Arc::new(Store::open(&database(&config.root))?);
    let (backer, settings) = parts(config);
    let pool = Arc::new(Pool::open(&settings, dm, Arc::clone(&store), backer)?);
    monitor::watch_events(&pool)?;
    let settings = Settings {
        fs: FsSpec {
            fs_type: config.fs_type.parse()?,
            options: config.fs_options.clone(),
            zeroed: pool.zeroes_blocks()?,
        },
        base_image_size: config.base_image_size,
        max_image_size: config.max_image_size.unwrap_or(config.base_image_size),
        discard: config.discard.unwrap_or(false)
            && !matches!(config.backing, Backing::Embedded { .. }),
    };
    let formatter = Arc::new(Mkfs::new().mounting_untrusted(config.mount_untrusted));
    let disks = Arc::new(RealDisks);
    let snapshotter = Snapshotter::start(settings, Arc::clone(&pool), store, disks, formatter)?;
    Ok((pool, snapshotter))
}

async fn serve(
    sockets: Sockets,
    pool: Arc<Pool>,
    snapshotter: Arc<Snapshotter>,
    address: &Path,
) -> Result<(), AnyError> {
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
            // While calls under way finish; so the stop waits for whichever takes longer, and not
            // for one after the other.
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
