//! What the server counts, and its Prometheus text. Must not know what the counts are for.

use std::sync::Arc;

use prometheus::{
    Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};
use rollcall_shared::{CauseKind, SnapshotReason, api::EtcdState};

use crate::mirror::Mirror;

/// Every count.
pub struct Metrics {
    registry: Registry,
    streams: IntGauge,
    /// Deltas and snapshots of sources written to streams.
    pub deliveries: IntCounter,
    /// Streams that found no place.
    pub turned_away: IntCounter,
    /// Bytes given to streams.
    pub bytes_sent: IntCounter,
    snapshots: IntCounterVec,
    changes: IntCounterVec,
    causes: IntCounterVec,
    lease_samples: IntCounterVec,
    watch_errors: IntCounterVec,
    writes: IntCounterVec,
    records: IntGauge,
    services: IntGauge,
    leases: IntGauge,
    ring_bytes: IntGauge,
    revision: IntGaugeVec,
    etcd: IntGaugeVec,
}

/// Counts a stream as open until it is dropped.
pub struct StreamGuard(Arc<Metrics>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.dec();
    }
}

impl Metrics {
    /// All counts at zero.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new_custom(Some("rollcall".to_owned()), None).expect("the prefix is a metric's name");
        Arc::new(Self {
            streams: add(&registry, IntGauge::new("streams_open", "Event streams that are open")),
            deliveries: add(&registry, IntCounter::new("stream_deliveries_total", "Deltas written to streams")),
            turned_away: add(&registry, IntCounter::new("streams_turned_away_total", "Streams that found no place")),
            bytes_sent: add(&registry, IntCounter::new("stream_bytes_total", "Bytes given to event streams")),
            snapshots: add(&registry, counters("stream_snapshots_total", "Snapshots sent, by reason", "reason")),
            changes: add(&registry, counters("changes_total", "Changes of keys seen in etcd, by source", "source")),
            causes: add(&registry, counters("departures_total", "Keys that left, by cause", "cause")),
            lease_samples: add(&registry, counters("lease_lookups_total", "Leases asked, by outcome", "outcome")),
            watch_errors: add(&registry, counters("watch_errors_total", "Watches that failed, by source", "source")),
            writes: add(&registry, counters("writes_total", "Writes through the API that took effect", "action")),
            records: add(&registry, IntGauge::new("records", "Keys known")),
            services: add(&registry, IntGauge::new("services", "Services known")),
            leases: add(&registry, IntGauge::new("leases", "Leases that known keys are on")),
            ring_bytes: add(&registry, IntGauge::new("ring_bytes", "Bytes kept for readers that come back")),
            revision: add(&registry, gauges("source_revision", "The revision of a source", "source")),
            etcd: add(&registry, gauges("etcd_state", "1 for the state of the connection to etcd", "state")),
            registry,
        })
    }

    /// Counts a stream from now on.
    pub fn stream_opened(self: &Arc<Self>) -> StreamGuard {
        self.streams.inc();
        StreamGuard(Arc::clone(self))
    }

    /// How many streams are open.
    pub fn streams_open(&self) -> usize {
        usize::try_from(self.streams.get()).unwrap_or_default()
    }

    /// Counts a snapshot.
    pub fn snapshot_sent(&self, reason: SnapshotReason) {
        let reason = match reason {
            SnapshotReason::Connected => "connected",
            SnapshotReason::Compacted => "compacted",
            SnapshotReason::Restored => "restored",
            SnapshotReason::Lagged => "lagged",
            SnapshotReason::UnknownCursor => "unknown_cursor",
        };
        self.snapshots.with_label_values(&[reason]).inc();
    }

    /// Counts changes seen in a source.
    pub fn changed(&self, source: &str, count: usize) {
        self.changes.with_label_values(&[source]).inc_by(count as u64);
    }

    /// Counts a cause.
    pub fn departed(&self, cause: CauseKind) {
        self.causes.with_label_values(&[cause.as_str()]).inc();
    }

    /// Counts a lease asked.
    pub fn lease_asked(&self, outcome: &str) {
        self.lease_samples.with_label_values(&[outcome]).inc();
    }

    /// Counts a watch that failed.
    pub fn watch_failed(&self, source: &str) {
        self.watch_errors.with_label_values(&[source]).inc();
    }

    /// Counts a write that took effect.
    pub fn written(&self, action: &str) {
        self.writes.with_label_values(&[action]).inc();
    }

    /// Everything as Prometheus text.
    pub fn text(&self, mirror: &Mirror) -> String {
        let view = mirror.view(|catalog| (catalog.len(), catalog.services().count()));
        self.records.set(to_gauge(view.found.0));
        self.services.set(to_gauge(view.found.1));
        self.leases.set(to_gauge(mirror.leases(|book| book.len())));
        self.ring_bytes.set(to_gauge(mirror.ring_bytes()));
        for (source, revision) in view.revisions {
            self.revision.with_label_values(&[&source]).set(revision);
        }
        let etcd = mirror.status().borrow().etcd;
        for (state, name) in
            [(EtcdState::Live, "live"), (EtcdState::Stale, "stale"), (EtcdState::Unreachable, "unreachable")]
        {
            self.etcd.with_label_values(&[name]).set(i64::from(etcd == state));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("a Vec takes every byte");
        String::from_utf8(text).expect("Prometheus text is UTF-8")
    }
}

fn to_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn counters(name: &str, about: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, about), &[label])
}

fn gauges(name: &str, about: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, about), &[label])
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("the names are metric names");
    registry.register(Box::new(collector.clone())).expect("each name is registered once");
    collector
}
