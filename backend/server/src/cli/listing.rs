//! `rollcall ls` and `rollcall watch`: what the server knows, in a terminal. The same mirror and the same reader as the
//! server's, without HTTP in between.

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use rollcall_registry::etcd::{
    connect::Connection,
    entry::View,
    source::{EtcdSource, Source as _, SourceError},
    watcher::SourceEvent,
};
use rollcall_shared::{Cause, Change, KeyPrefix, Record, RegistryEvent, SnapshotReason};
use tokio_util::sync::CancellationToken;

use crate::{
    feed::Feed,
    metrics::Metrics,
    mirror::{Mirror, SourceConfig, frame::Selected},
    sse::{Context, Reader, Request},
};

/// Prints the instances once. Answers the exit code.
pub async fn ls(connection: Connection, sources: Vec<SourceConfig>, service: Option<String>, json: bool) -> i32 {
    match list(&connection, sources).await {
        Ok(mirror) => {
            let records = mirror.view(|catalog| match &service {
                None => catalog.records().cloned().collect::<Vec<_>>(),
                Some(name) => {
                    catalog.service(name).map(|records| records.values().cloned().collect()).unwrap_or_default()
                }
            });
            let lines = if json { json_lines(&records.found) } else { table(&records.found) };
            print_lines(&lines);
            0
        }
        Err(error) => {
            eprintln!("rollcall: {error}");
            1
        }
    }
}

async fn list(connection: &Connection, sources: Vec<SourceConfig>) -> Result<Arc<Mirror>, SourceError> {
    let prefixes: Vec<KeyPrefix> = sources.iter().map(|source| source.prefix.clone()).collect();
    let mirror = Arc::new(Mirror::new(sources));
    for (index, prefix) in prefixes.iter().enumerate() {
        let source = EtcdSource::new(connection.clone(), prefix.clone(), &prefixes);
        let (mut entries, mut from, mut at) = (Vec::new(), None, None);
        loop {
            let page = source.list(from, at).await?;
            at = at.or(Some(page.store_revision));
            entries.extend(page.entries);
            from = page.next;
            if from.is_none() {
                let position = View::new(at.unwrap_or_default(), &entries).position();
                let reason = SnapshotReason::Connected;
                mirror.apply(index, SourceEvent::Snapshot { reason, cluster: page.cluster, position, entries });
                break;
            }
        }
    }
    Ok(mirror)
}

/// Prints the instances as they change, until it is stopped. Answers the exit code.
pub async fn watch(
    connection: Connection,
    sources: Vec<SourceConfig>,
    service: Option<String>,
    json: bool,
    shutdown: CancellationToken,
) -> i32 {
    let mirror = Arc::new(Mirror::new(sources));
    let metrics = Metrics::new();
    let feed = Feed::start(&mirror, &connection, &metrics);
    let context = Context { mirror, connection, metrics, shutdown };
    let selected = Selected(service.into_iter().collect());
    let mut reader = Reader::new(context, Request { selected: selected.into(), cursor: None, ttl: false });
    let mut lines = Vec::new();
    while let Some(bytes) = reader.next().await {
        lines.clear();
        for message in plain_messages(&bytes) {
            if json {
                lines.push(message.to_owned());
            } else if let Ok(event) = serde_json::from_str(message) {
                sentences(&event, &mut lines);
            }
        }
        if !print_lines(&lines) {
            break;
        }
    }
    feed.stop().await;
    0
}

/// The data of the ordered messages among `bytes`, which hold whole messages of the stream.
fn plain_messages(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let text = str::from_utf8(bytes).expect("the stream is made of JSON");
    text.split("\n\n")
        .filter(|message| !message.starts_with("event:"))
        .filter_map(|message| message.lines().find_map(|line| line.strip_prefix("data: ")))
}

fn sentences(event: &RegistryEvent, lines: &mut Vec<String>) {
    match event {
        RegistryEvent::Snapshot(snapshot) => lines.extend(snapshot.records.iter().map(|record| line('=', record))),
        RegistryEvent::Delta(delta) => lines.extend(delta.changes.iter().map(|change| match change {
            Change::Put(record) => line(if record.create_revision == record.mod_revision { '+' } else { '~' }, record),
            Change::Delete(departure) => line('-', &departure.last),
        })),
        RegistryEvent::Cause(Cause { key, cause, evidence, .. }) => {
            lines.push(format!("? {}: {}: {}", printable(key), cause.as_str(), printable(evidence)));
        }
        RegistryEvent::Progress(_) => {}
    }
}

fn line(sign: char, record: &Record) -> String {
    format!("{sign} {}", cells(record).join("  "))
}

fn cells(record: &Record) -> [String; 6] {
    let lease = record.lease.map_or_else(|| "permanent".to_owned(), |lease| lease.to_string());
    let (id, version, endpoints) = match record.instance() {
        Some(instance) => (instance.id.clone(), instance.version.clone(), instance.endpoints.join(" ")),
        None => (record.key.clone(), String::new(), "malformed".to_owned()),
    };
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { printable(&text) };
    [dash(record.service.clone()), dash(id), dash(version), record.layout.to_string(), lease, dash(endpoints)]
}

/// What others wrote must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

fn json_lines(records: &[Arc<Record>]) -> Vec<String> {
    records.iter().map(|record| serde_json::to_string(&**record).expect("the model has string keys only")).collect()
}

fn table(records: &[Arc<Record>]) -> Vec<String> {
    let head = ["SERVICE", "ID", "VERSION", "LAYOUT", "LEASE", "ENDPOINTS"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(records.iter().map(|record| cells(record))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..6).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

/// Prints `lines`; `false` where nobody reads any more.
fn print_lines(lines: &[String]) -> bool {
    let mut out = io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush()).is_ok()
}
