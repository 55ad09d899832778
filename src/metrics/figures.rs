//! What the figures are, and how they are put into text.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{exponential_buckets, Histogram};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::snapshotter::{PoolView, Snapshotter};

/// The beginning of each metric's name.
const PREFIX: &str = "devmapper_snapshotter";

/// The figures of one daemon.
#[derive(Debug)]
pub struct Metrics {
    calls: Family<Call, Histogram, fn() -> Histogram>,
    /// Figures that are counted when a call ends.
    counted: Registry,
    /// Figures that are looked up, which can take long.
    looked_up: Registry,
}

/// A kind of call with one result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    verb: &'static str,
    code: String,
}

impl Metrics {
    pub fn new(snapshotter: Arc<Snapshotter>) -> Metrics {
        // From a quarter of a millisecond to 16 s.
        let calls: Family<Call, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.00025, 2.0, 17)));
        let mut counted = Registry::with_prefix(PREFIX);
        counted.register_with_unit(
            "call",
            "Calls by verb and gRPC code",
            Unit::Seconds,
            calls.clone(),
        );
        let mut looked_up = Registry::with_prefix(PREFIX);
        looked_up.register_collector(Box::new(State(snapshotter)));
        Metrics { calls, counted, looked_up }
    }

    /// Counts a call that has ended; `code` is the name of its gRPC status code.
    pub fn called(&self, verb: &'static str, code: String, took: Duration) {
        self.calls.get_or_create(&Call { verb, code }).observe(took.as_secs_f64());
    }

    /// The figures from the database, the kernel and /proc, in the text format of OpenMetrics 1.0
    /// without its end. Blocks as long as a disk or the kernel does not answer.
    pub(super) fn look_up(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.looked_up)?;
        Ok(text)
    }

    /// All figures: those that are counted, and those that were looked up `age` ago, if there are
    /// any. Never blocks.
    pub(super) fn text(&self, looked_up: Option<(&str, Duration)>) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.counted)?;
        if let Some((looked_up, age)) = looked_up {
            text.push_str(looked_up);
            let mut registry = Registry::with_prefix(PREFIX);
            let help = "How long ago the figures of pool and snapshots were looked up; \
                 large when a disk does not answer";
            registry.register_with_unit(
                "figures_age",
                help,
                Unit::Seconds,
                ConstGauge::new(age.as_secs_f64()),
            );
            encode_registry(&mut text, &registry)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// The figures that are looked up at a scrape.
#[derive(Debug)]
struct State(Arc<Snapshotter>);

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        match self.0.pool_view() {
            Ok(pool) => encode_pool(&mut encoder, &pool)?,
            // Figures that cannot be looked up are left out. An alert can fire on their absence.
            Err(error) => tracing::warn!(%error, "no figures of the pool for monitoring"),
        }
        let overview = match self.0.overview() {
            Ok(overview) => overview,
            Err(error) => {
                tracing::warn!(%error, "no figures of the snapshots for monitoring");
                return Ok(());
            }
        };
        let kinds = [
            ("active", overview.active),
            ("view", overview.views),
            ("committed", overview.committed),
        ];
        gauge(
            &mut encoder,
            "snapshots",
            "Snapshots on record",
            None,
            kinds.map(|(kind, n)| ([("kind", kind)], n)),
        )?;
        let help = "Removed snapshots that are not reclaimed yet";
        plain(&mut encoder, "reclaiming", help, None, overview.reclaiming)?;
        let stuck = overview.stuck.iter().map(|stuck| {
            (
                [
                    ("device", stuck.device.as_str()),
                    ("why", stuck.why),
                    ("holders", &stuck.holders),
                ],
                stuck.since.as_secs(),
            )
        });
        let help = "For how long a device could not be removed, and what holds it";
        gauge(&mut encoder, "reclaim_stuck", help, Some(&Unit::Seconds), stuck)
    }
}

fn encode_pool(encoder: &mut DescriptorEncoder<'_>, pool: &PoolView) -> Result<(), fmt::Error> {
    let states = ["read-write", "read-only", "out-of-data-space", "failed"];
    let of = |state: &'static str| ([("state", state)], u64::from(state == pool.state));
    gauge(encoder, "pool_state", "1 for the state that the pool is in", None, states.map(of))?;
    let help = "1 when the kernel writes no metadata before thin_check has run";
    plain(encoder, "pool_needs_check", help, None, u64::from(pool.needs_check))?;
    let help = "How often the pool was seen to refuse writes; \
         snapshots that were writable then are not committed";
    let lapses = encoder.encode_descriptor("pool_lapses", help, None, MetricType::Counter)?;
    ConstCounter::new(pool.lapses).encode(lapses)?;
    let help = "Size and use of the pool's areas; host is the file system under an embedded pool";
    let all = [("data", pool.data), ("metadata", pool.metadata), ("host", pool.host)];
    let known = || all.iter().filter_map(|(area, size)| size.map(|size| (*area, size)));
    gauge(
        encoder,
        "pool_size",
        help,
        Some(&Unit::Bytes),
        known().map(|(area, s)| ([("area", area)], s.total)),
    )?;
    gauge(
        encoder,
        "pool_used",
        help,
        Some(&Unit::Bytes),
        known().map(|(area, s)| ([("area", area)], s.total - s.free)),
    )
}

/// Writes a gauge with one value for each set of labels.
fn gauge<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl IntoIterator<Item = ([(&'a str, &'a str); N], u64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Writes a gauge without labels.
fn plain(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> Result<(), fmt::Error> {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
}
