//! A line to the stream of events that breaks and comes back, without its transport: bytes in, what is to be told out.
//!
//! Owns: the cursor, whether what comes fits onto what came, how long to wait before coming back, and the fold of one
//! service into its list of instances. Must not know: how bytes come, or what time it is.

use std::collections::{BTreeMap, VecDeque};

use rollcall_shared::{Catalog, FoldError, RegistryEvent, Revision, api::ByeEvent};
use serde::Deserialize;

use crate::{
    acts, json,
    sse::{Parser, Said, TooLong},
};

/// After how long without a byte the line counts as broken, in milliseconds: the server speaks at least every 10 s.
#[cfg(feature = "js")]
pub(crate) const SILENCE_MS_MAX: u32 = 25_000;

/// How long to wait before coming back, where the server says nothing of it, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The longest wait that failures alone lead to, in milliseconds: whoever is back is to be noticed within seconds.
const BACKOFF_MS_MAX: u64 = 4_000;

/// The longest wait that a server can ask for, in milliseconds.
const RETRY_MS_MAX: u64 = 300_000;

/// Why a line is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// It carries no events.
    #[error(transparent)]
    Stream(#[from] TooLong),
    /// It carries something that this client cannot read.
    #[error("the server said something that cannot be read: {0}")]
    Unreadable(#[from] json::Unreadable),
    /// Something is missing.
    #[error(transparent)]
    Gap(#[from] FoldError),
}

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// An event: its name, its JSON, and the cursor that covers all up to it, where it brings one.
    Event {
        /// Its name, `message` for what is ordered.
        kind: String,
        /// What it says.
        data: String,
        /// Where to go on from.
        cursor: Option<String>,
    },
    /// All instances of the service, as a JSON list; of several, each list by its service's name.
    List(String),
}

/// A line, through all its connections. What is still to be told outlives each of them.
#[derive(Debug)]
pub(crate) struct Line {
    address: String,
    cursor: Option<String>,
    parser: Parser,
    fold: Fold,
    told: VecDeque<Told>,
    failures: u32,
    /// Whether what came last could not be taken: a snapshot alone, after which it may come again, mends nothing.
    is_doubtful: bool,
    retry_ms: u64,
    bye_ms: Option<u64>,
}

/// What is kept of what was told.
#[derive(Debug)]
enum Fold {
    /// How far each source was told.
    Positions(Positions),
    /// Everything of some services.
    Services { names: Names, catalog: Box<Catalog>, is_known: bool, list: String },
}

/// Which services are told of, and how.
#[derive(Debug)]
pub(crate) enum Names {
    /// One, as a list.
    One(String),
    /// Several, by name.
    Each(Vec<String>),
}

/// How far each source was told, and which part of a snapshot is due.
#[derive(Debug, Default)]
struct Positions {
    revisions: BTreeMap<String, Revision>,
    part_due: u32,
}

/// What places an event among the others.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    source: Option<String>,
    after: Option<Revision>,
    revision: Option<Revision>,
    revisions: Option<BTreeMap<String, Revision>>,
    part: Option<u32>,
    more: Option<bool>,
}

impl Line {
    /// A line that tells the events at `address`, whose query is not empty, from a cursor on where there is one.
    pub(crate) fn events(address: String, since: Option<String>) -> Self {
        Self::new(address, since, Fold::Positions(Positions::default()))
    }

    /// A line that tells the instances of the services whose events are at `address`.
    pub(crate) fn services(address: String, names: Names) -> Self {
        Self::new(
            address,
            None,
            Fold::Services { names, catalog: Box::default(), is_known: false, list: String::new() },
        )
    }

    fn new(address: String, cursor: Option<String>, fold: Fold) -> Self {
        Self {
            address,
            cursor,
            parser: Parser::default(),
            fold,
            told: VecDeque::new(),
            failures: 0,
            is_doubtful: false,
            retry_ms: RETRY_MS,
            bye_ms: None,
        }
    }

    /// Begins a connection: where it goes, with the cursor in need of `encode`.
    pub(crate) fn connect(&mut self, encode: impl Fn(&str) -> String) -> String {
        self.parser = Parser::default();
        self.bye_ms = None;
        match &self.cursor {
            Some(cursor) => [&self.address, "&since=", &encode(cursor)].concat(),
            None => self.address.clone(),
        }
    }

    /// Takes what came. After an error the connection is to be closed; the next one begins with a snapshot.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let mut said = Vec::new();
        let mut outcome = self.parser.push(bytes, &mut |what| said.push(what)).map_err(Broken::from);
        for what in said {
            let taken = match what {
                Said::Retry(retry_ms) => {
                    self.retry_ms = retry_ms.min(RETRY_MS_MAX);
                    Ok(())
                }
                Said::Event { kind, data, id } => self.take(kind, data, id),
            };
            if taken.is_err() {
                self.cursor = None;
                self.is_doubtful = true;
                outcome = taken;
                break;
            }
        }
        if let Fold::Positions(positions) = &mut self.fold
            && outcome.is_err()
        {
            *positions = Positions::default();
        }
        outcome
    }

    /// What is to be told next.
    pub(crate) fn next(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// The connection is broken, or came to none: how long to wait, in milliseconds. `random` is from 0 to 1.
    pub(crate) fn wait_ms(&mut self, random: f64) -> f64 {
        let failures = self.failures;
        self.failures = (failures + 1).min(8);
        if let Fold::Positions(positions) = &mut self.fold {
            // A snapshot that was cut off comes again from its first part.
            positions.part_due = 0;
        }
        if let Some(bye_ms) = self.bye_ms.take() {
            // The server parts its readers itself.
            return milliseconds(bye_ms);
        }
        let ceiling = milliseconds((self.retry_ms << failures).min(BACKOFF_MS_MAX.max(self.retry_ms)));
        ceiling * (0.5 + random / 2.0)
    }

    fn take(&mut self, kind: String, data: String, id: Option<String>) -> Result<(), Broken> {
        if kind != "message" {
            if kind == "bye" {
                let bye: ByeEvent = json::read(&data)?;
                self.bye_ms = Some(bye.reconnect_ms.min(RETRY_MS_MAX));
            } else if matches!(self.fold, Fold::Positions(_)) {
                self.told.push_back(Told::Event { kind, data, cursor: None });
            }
            return Ok(());
        }
        // An event without an id repeats the one before it; what is the same covers nothing new.
        let cursor = id.filter(|id| !id.is_empty() && self.cursor.as_ref() != Some(id));
        let is_snapshot;
        match &mut self.fold {
            Fold::Positions(positions) => {
                let head: Head = json::read(&data)?;
                is_snapshot = head.kind == "snapshot";
                if positions.apply(head)? {
                    self.told.push_back(Told::Event { kind, data, cursor: cursor.clone() });
                }
            }
            Fold::Services { names, catalog, is_known, list } => {
                let event: RegistryEvent = json::read(&data)?;
                let changes = catalog.apply(&event)?;
                is_snapshot = matches!(event, RegistryEvent::Snapshot(_));
                let is_whole = matches!(&event, RegistryEvent::Snapshot(snapshot) if !snapshot.more);
                let is_first = is_whole && !std::mem::replace(is_known, *is_known || is_whole);
                if is_first || !changes.is_empty() {
                    let now = names.written(catalog);
                    if is_first || now != *list {
                        // Who reads slowly gets the last list alone.
                        self.told.clear();
                        self.told.push_back(Told::List(now.clone()));
                        *list = now;
                    }
                }
            }
        }
        if !(is_snapshot && self.is_doubtful) {
            (self.failures, self.is_doubtful) = (0, false);
        }
        if cursor.is_some() {
            self.cursor = cursor;
        }
        Ok(())
    }
}

impl Names {
    fn written(&self, catalog: &Catalog) -> String {
        let list = |name: &String| {
            let records = catalog.service(name).into_iter().flatten();
            acts::instances(records.filter_map(|(_, record)| record.instance()))
        };
        match self {
            Self::One(name) => list(name),
            Self::Each(names) => {
                let mut out = String::from("{");
                for (index, name) in names.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    json::quote(name, &mut out);
                    out.push(':');
                    out.push_str(&list(name));
                }
                out.push('}');
                out
            }
        }
    }
}

impl Positions {
    /// Whether what comes is new.
    fn apply(&mut self, head: Head) -> Result<bool, FoldError> {
        match (&*head.kind, head.source, head.after, head.revision, head.revisions) {
            ("snapshot", _, _, _, Some(revisions)) => {
                let got = head.part.unwrap_or_default();
                if got != 0 && got != self.part_due {
                    return Err(FoldError::MissingPart { expected: self.part_due, got });
                }
                if head.more == Some(true) {
                    self.part_due = got + 1;
                } else {
                    self.part_due = 0;
                    self.revisions.extend(revisions);
                }
            }
            ("delta", Some(source), Some(after), Some(revision), _) => {
                let Some(at) = self.revisions.get_mut(&source) else { return Err(FoldError::UnknownSource(source)) };
                if revision <= *at {
                    return Ok(false);
                }
                if after > *at {
                    return Err(FoldError::Gap { origin: source, at: *at, after });
                }
                *at = revision;
            }
            ("progress", _, _, _, Some(revisions)) => {
                for (source, revision) in revisions {
                    // That of a cursor which somebody brought along is the first that is heard of its sources.
                    let at = self.revisions.entry(source).or_insert(revision);
                    *at = (*at).max(revision);
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

fn milliseconds(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAPSHOT: &str =
        r#"{"type":"snapshot","reason":"connected","revisions":{"/m/":5},"records":[],"part":0,"more":false}"#;

    fn message(id: &str, data: &str) -> String {
        if id.is_empty() { format!("data: {data}\n\n") } else { format!("id: {id}\ndata: {data}\n\n") }
    }

    fn delta(after: i64, revision: i64, changes: &str) -> String {
        format!(r#"{{"type":"delta","source":"/m/","after":{after},"revision":{revision},"changes":[{changes}]}}"#)
    }

    fn record(service: &str, id: &str, revision: i64, endpoint: &str) -> String {
        format!(
            r#"{{"key":"/m/{service}/{id}","source":"/m/","layout":"kratos","service":"{service}","lease":null,"create_revision":1,"mod_revision":{revision},"instance":{{"id":"{id}","name":"{service}","version":"v\"1","metadata":{{"a":"b"}},"endpoints":["{endpoint}"]}}}}"#
        )
    }

    fn snapshot(records: &[String], revision: i64, part: u32, more: bool) -> String {
        let records = records.join(",");
        format!(
            r#"{{"type":"snapshot","reason":"connected","revisions":{{"/m/":{revision}}},"records":[{records}],"part":{part},"more":{more}}}"#
        )
    }

    fn told(line: &mut Line) -> Vec<Told> {
        std::iter::from_fn(|| line.next()).collect()
    }

    fn event(data: &str, cursor: Option<&str>) -> Told {
        Told::Event { kind: "message".into(), data: data.into(), cursor: cursor.map(str::to_owned) }
    }

    fn connect(line: &mut Line) -> String {
        line.connect(|text| text.replace('+', "%2B"))
    }

    fn events() -> Line {
        let mut line = Line::events("/e?ttl=1".into(), None);
        assert_eq!(connect(&mut line), "/e?ttl=1");
        line
    }

    #[test]
    fn what_was_told_is_not_told_again_and_the_cursor_goes_along() {
        let mut line = events();
        line.push(message("a+", SNAPSHOT).as_bytes()).unwrap();
        let six = delta(5, 6, "");
        line.push(message("b", &six).as_bytes()).unwrap();
        line.push(message("b", &six).as_bytes()).unwrap();
        let cause = r#"{"type":"cause","key":"k","revision":6,"cause":"expired","evidence":"e"}"#;
        line.push(message("", cause).as_bytes()).unwrap();
        assert_eq!(told(&mut line), [event(SNAPSHOT, Some("a+")), event(&six, Some("b")), event(cause, None)]);
        assert_eq!(connect(&mut line), "/e?ttl=1&since=b");
        let mut line = events();
        line.push(message("a+", SNAPSHOT).as_bytes()).unwrap();
        assert_eq!(connect(&mut line), "/e?ttl=1&since=a%2B");
        // What came half is not there.
        line.push(b"id: b\ndata: {\"type\":\"progress\"").unwrap();
        assert_eq!(connect(&mut line), "/e?ttl=1&since=a%2B");
        line.push(message("c", &delta(5, 7, "")).as_bytes()).unwrap();
        assert_eq!(told(&mut line), [event(SNAPSHOT, Some("a+")), event(&delta(5, 7, ""), Some("c"))]);
    }

    #[test]
    fn a_cursor_that_was_brought_along_is_gone_on_from() {
        let mut line = Line::events("/e?a=1".into(), Some("old".into()));
        assert_eq!(connect(&mut line), "/e?a=1&since=old");
        let progress = r#"{"type":"progress","revisions":{"/m/":4}}"#;
        line.push(message("old", progress).as_bytes()).unwrap();
        line.push(message("new", &delta(4, 9, "")).as_bytes()).unwrap();
        assert_eq!(told(&mut line), [event(progress, None), event(&delta(4, 9, ""), Some("new"))]);
    }

    #[test]
    fn where_something_is_missing_it_starts_over() {
        let missing = snapshot(&[], 9, 2, false);
        for wrong in [delta(7, 8, ""), delta(5, 6, "").replace("/m/", "/n/"), missing, "{\"type\":".into(), "[]".into()]
        {
            let mut line = events();
            line.push(message("a", SNAPSHOT).as_bytes()).unwrap();
            line.push(message("b", &wrong).as_bytes()).unwrap_err();
            assert_eq!(told(&mut line), [event(SNAPSHOT, Some("a"))], "{wrong}");
            assert_eq!(connect(&mut line), "/e?ttl=1", "without a cursor, so with a snapshot: {wrong}");
            line.push(message("c", SNAPSHOT).as_bytes()).unwrap();
            assert_eq!(told(&mut line), [event(SNAPSHOT, Some("c"))]);

            let mut line = Line::services("/e?service=h".into(), Names::One("h".into()));
            connect(&mut line);
            line.push(message("a", SNAPSHOT).as_bytes()).unwrap();
            line.push(message("b", &wrong).as_bytes()).unwrap_err();
            assert_eq!(connect(&mut line), "/e?service=h", "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_taken_is_not_asked_for_at_once_again_and_again() {
        let mut line = events();
        for wait in [1000.0, 2000.0, 4000.0, 4000.0] {
            line.push(message("a", SNAPSHOT).as_bytes()).unwrap();
            line.push(message("b", "{}").as_bytes()).unwrap_err();
            assert!((line.wait_ms(1.0) - wait).abs() < 0.5);
            connect(&mut line);
        }
        line.push(message("a", SNAPSHOT).as_bytes()).unwrap();
        line.push(message("b", &delta(5, 6, "")).as_bytes()).unwrap();
        assert!((line.wait_ms(1.0) - 1000.0).abs() < 0.5);
    }

    #[test]
    fn a_snapshot_that_was_cut_off_comes_again() {
        let (first, last) = (snapshot(&[], 9, 0, true), snapshot(&[], 9, 1, false));
        let mut line = events();
        line.push(message("", &first).as_bytes()).unwrap();
        line.wait_ms(0.0);
        assert_eq!(connect(&mut line), "/e?ttl=1");
        line.push(message("", &first).as_bytes()).unwrap();
        line.push(message("a", &last).as_bytes()).unwrap();
        assert_eq!(told(&mut line), [event(&first, None), event(&first, None), event(&last, Some("a"))]);
    }

    #[test]
    fn named_events_are_told_and_bye_is_heeded() {
        let mut line = events();
        line.push(b"retry: 1200\n\nevent: status\ndata: {\"etcd\":\"live\",\"for_s\":1}\n\n").unwrap();
        let status = Told::Event { kind: "status".into(), data: r#"{"etcd":"live","for_s":1}"#.into(), cursor: None };
        assert_eq!(told(&mut line), [status]);
        line.push(b"event: bye\ndata: {\"reconnect_ms\":1420}\n\n").unwrap();
        assert_eq!(told(&mut line), []);
        let same = |a: f64, b: f64| assert!((a - b).abs() < 0.5, "{a} is not {b}");
        same(line.wait_ms(0.3), 1420.0);
        connect(&mut line);
        same(line.wait_ms(1.0), 2400.0);
        same(line.wait_ms(1.0), 4000.0);
        for _ in 0..100 {
            same(line.wait_ms(0.0), 2000.0);
        }
        line.push(message("a", SNAPSHOT).as_bytes()).unwrap();
        same(line.wait_ms(1.0), 1200.0);
        line.push(format!("retry: 15000\n\nretry: {}0\n\n", "").as_bytes()).unwrap();
        line.push(b"retry: 15000\n\n").unwrap();
        same(line.wait_ms(1.0), 15_000.0);
        line.push(b"retry: 18446744073709551615\n\n").unwrap();
        same(line.wait_ms(1.0), 300_000.0);
    }

    #[test]
    fn a_service_is_told_whole_first_and_at_every_change() {
        let mut line = Line::services("/e?service=h".into(), Names::One("h".into()));
        connect(&mut line);
        let instance = |id: &str, endpoint: &str| {
            format!(r#"{{"id":"{id}","name":"h","version":"v\"1","metadata":{{"a":"b"}},"endpoints":["{endpoint}"]}}"#)
        };
        line.push(message("", &snapshot(&[record("h", "1", 2, "http://a:1")], 5, 0, true)).as_bytes()).unwrap();
        assert_eq!(told(&mut line), [], "half a snapshot is no list");
        line.push(message("a", &snapshot(&[], 5, 1, false)).as_bytes()).unwrap();
        assert_eq!(told(&mut line), [Told::List(format!("[{}]", instance("1", "http://a:1")))]);
        line.push(b"event: status\ndata: {}\n\n").unwrap();
        let put =
            |revision, record: String| message("b", &delta(revision - 1, revision, &format!("{{\"put\":{record}}}")));
        line.push(put(6, record("h", "1", 6, "http://a:1")).as_bytes()).unwrap();
        assert_eq!(told(&mut line), [], "the same instances");
        line.push(put(7, record("h", "0", 7, "http://b:1")).as_bytes()).unwrap();
        line.push(put(8, record("h", "1", 8, "http://c:1")).as_bytes()).unwrap();
        let both = format!("[{},{}]", instance("0", "http://b:1"), instance("1", "http://c:1"));
        assert_eq!(told(&mut line), [Told::List(both)], "by key, and the last list alone");
        // A snapshot after an outage that brings nothing new says nothing.
        let again = [record("h", "0", 7, "http://b:1"), record("h", "1", 8, "http://c:1")];
        line.push(message("c", &snapshot(&again, 9, 0, false)).as_bytes()).unwrap();
        assert_eq!(told(&mut line), []);
        line.push(message("d", &snapshot(&[], 10, 0, false)).as_bytes()).unwrap();
        assert_eq!(told(&mut line), [Told::List("[]".into())]);
        assert_eq!(connect(&mut line), "/e?service=h&since=d");
    }

    #[test]
    fn several_services_are_told_by_name() {
        let mut line = Line::services("/e".into(), Names::Each(vec!["h".into(), "g\"".into()]));
        connect(&mut line);
        line.push(message("a", &snapshot(&[record("h", "1", 2, "http://a:1")], 5, 0, false)).as_bytes()).unwrap();
        let Some(Told::List(list)) = line.next() else { panic!("a list comes first") };
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!((&list["h"][0]["id"], &list["g\""]), (&"1".into(), &serde_json::json!([])));
        assert_eq!(list.as_object().unwrap().len(), 2);
    }

    #[test]
    fn a_service_without_instances_is_told_too() {
        let mut line = Line::services("/e?service=h".into(), Names::One("h".into()));
        connect(&mut line);
        line.push(message("a", SNAPSHOT).as_bytes()).unwrap();
        assert_eq!(told(&mut line), [Told::List("[]".into())]);
    }
}
