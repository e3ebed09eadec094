//! What follows when something is done to an instance, by what wrote its key: measured on the frameworks' own programs.
//!
//! Pure. The words are [`crate::words`]'; this decides which of them, when a click is not enough, and what changed
//! meanwhile.

use std::{collections::BTreeMap, sync::Arc};

use rollcall_shared::{Decoded, Layout, Raw, Record, ServiceInstance, api, api::InstanceEdit};

use crate::words::{self, Word};

/// The metadata that says how many calls an instance gets: a base-10 integer, where there is none 100 in go-kratos, and
/// 10 in Kitex and Hertz.
pub const WEIGHT: &str = "weight";

/// What is done to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Its key is deleted; its lease lives on.
    Delete,
    /// Its lease is revoked, and all its keys go with it.
    Revoke,
    /// Its weight becomes 0: it stays registered and gets no more calls.
    Drain,
    /// Its weight becomes what it was before.
    Undrain,
}

/// Whether programs that read this layout share calls out by weight.
pub fn knows_weight(layout: Layout) -> bool {
    matches!(layout, Layout::Kratos | Layout::Kitex | Layout::Hertz)
}

/// Whether a weight of 0 keeps callers away from what is written in this layout. In Kitex and Hertz it reads as 10.
pub fn can_drain(layout: Layout) -> bool {
    layout == Layout::Kratos
}

/// Whether it is registered, and drained.
pub fn is_drained(record: &Record) -> bool {
    let weight = record.instance().and_then(|instance| instance.metadata.get(WEIGHT));
    can_drain(record.layout) && weight.is_some_and(|weight| weight.parse() == Ok(0_i64))
}

/// The edit that gives an instance this weight; `None` takes it away, which means 100.
pub fn weighed(instance: &ServiceInstance, weight: Option<&str>) -> InstanceEdit {
    let mut metadata = instance.metadata.clone();
    match weight {
        Some(weight) => metadata.insert(WEIGHT.to_owned(), weight.to_owned()),
        None => metadata.remove(WEIGHT),
    };
    InstanceEdit { metadata: Some(metadata), ..InstanceEdit::default() }
}

/// What the server is asked for. `keys` is the number of keys that the lease was shown to hold; `before` is what stood
/// there before it was drained, where that is known.
pub fn request(act: Act, record: &Record, keys: usize, before: Option<&Record>) -> api::Act {
    let (key, mod_revision) = (record.key.clone(), record.mod_revision);
    let instance = match (act, record.lease, record.instance()) {
        (Act::Revoke, Some(lease), _) => return api::Act::Revoke { lease, keys },
        (Act::Delete | Act::Revoke, ..) => return api::Act::Deregister { key, mod_revision },
        (Act::Drain, _, Some(instance)) => weighed(instance, Some("0")),
        (Act::Undrain, _, Some(instance)) => {
            // Under another lease it is another life of the key: the one before says nothing of it.
            let before = before.filter(|before| before.lease == record.lease).and_then(Record::instance);
            weighed(instance, before.and_then(|before| before.metadata.get(WEIGHT)).map(String::as_str))
        }
        // The server says why that cannot be.
        (Act::Drain | Act::Undrain, _, None) => InstanceEdit::default(),
    };
    api::Act::Edit { key, mod_revision, instance }
}

/// A field that is another one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The field, as a person calls it.
    pub field: String,
    /// What stood there; empty where nothing did.
    pub was: String,
    /// What stands there; empty where nothing does.
    pub is: String,
}

/// What differs between two records of one key, field by field.
pub fn changes(was: &Record, is: &Record) -> Vec<Changed> {
    let mut changes = Vec::new();
    let mut tell = |field: String, was: String, is: String| {
        if was != is {
            changes.push(Changed { field, was, is });
        }
    };
    let lease =
        |record: &Record| record.lease.map_or_else(|| words::PERMANENT.text().to_owned(), |lease| lease.to_string());
    match (&was.decoded, &is.decoded) {
        (Decoded::Instance(was), Decoded::Instance(is)) => {
            tell(words::VERSION.text().to_owned(), was.version.clone(), is.version.clone());
            tell(words::ENDPOINTS.text().to_owned(), was.endpoints.join(", "), is.endpoints.join(", "));
            let value =
                |metadata: &BTreeMap<String, String>, name: &str| metadata.get(name).cloned().unwrap_or_default();
            for name in was.metadata.keys().chain(is.metadata.keys().filter(|name| !was.metadata.contains_key(*name))) {
                tell(name.clone(), value(&was.metadata, name), value(&is.metadata, name));
            }
        }
        (was, is) => tell(words::VALUE.text().to_owned(), raw(was), raw(is)),
    }
    tell(words::LEASE.text().to_owned(), lease(was), lease(is));
    changes
}

fn raw(decoded: &Decoded) -> String {
    match decoded {
        Decoded::Instance(instance) => instance.endpoints.join(", "),
        Decoded::Malformed { raw: Raw::Text(text), .. } => text.clone(),
        Decoded::Malformed { why, .. } => why.clone(),
    }
}

/// By whose hand an instance that was taken out came back.
pub fn returned(taken: &Record, now: &Record) -> Word {
    if now.key != taken.key {
        words::BACK_NEW_KEY
    } else if now.lease == taken.lease {
        words::BACK_SAME_LEASE
    } else {
        words::BACK_NEW_LEASE
    }
}

/// Whether `now` is the instance that was taken out, come back: its key, or its address in its service.
pub fn is_return(taken: &Record, now: &Record) -> bool {
    if now.key == taken.key {
        return now.mod_revision > taken.mod_revision;
    }
    now.create_revision > taken.mod_revision
        && now.source == taken.source
        && address(now).1.is_some()
        && address(now) == address(taken)
}

/// Where an instance is, in which service.
pub fn address(record: &Record) -> (&str, Option<&str>) {
    let first = record.instance().and_then(|instance| instance.endpoints.first());
    (&record.service, first.map(String::as_str))
}

/// Records by where they are; of several at one address, the one that came last.
pub fn by_address<'a>(
    records: impl Iterator<Item = &'a Arc<Record>>,
) -> BTreeMap<(&'a str, Option<&'a str>), &'a Arc<Record>> {
    let mut found: BTreeMap<_, &Arc<Record>> = BTreeMap::new();
    for record in records {
        let last = found.entry(address(record)).or_insert(record);
        if last.create_revision < record.create_revision {
            *last = record;
        }
    }
    found
}

/// What the person is told before the click.
pub fn sentence(layout: Layout, act: Act, has_lease: bool) -> &'static str {
    match (layout, act) {
        (_, Act::Drain) if can_drain(layout) => words::AFTER_DRAIN.text(),
        (_, Act::Drain) => words::CANNOT_DRAIN.text(),
        (_, Act::Undrain) => words::AFTER_UNDRAIN.text(),
        _ if !has_lease => words::AFTER_PERMANENT.text(),
        (Layout::Kratos, Act::Delete) => words::AFTER_KRATOS_DELETE.text(),
        (Layout::Kratos, Act::Revoke) => words::AFTER_KRATOS_REVOKE.text(),
        (Layout::GoMicro, Act::Delete) => words::AFTER_GO_MICRO_DELETE.text(),
        (Layout::GoMicro, Act::Revoke) => words::AFTER_GO_MICRO_REVOKE.text(),
        (Layout::GoZero, Act::Delete) => words::AFTER_GO_ZERO_DELETE.text(),
        (Layout::GoZero, Act::Revoke) => words::AFTER_GO_ZERO_REVOKE.text(),
        (Layout::Kitex, _) => words::AFTER_KITEX.text(),
        (Layout::Hertz, _) => words::AFTER_HERTZ.text(),
        (Layout::GoKit, _) => words::AFTER_GO_KIT.text(),
        (Layout::Grpc, _) => words::AFTER_GRPC.text(),
        (Layout::Plain, _) => words::AFTER_PLAIN.text(),
    }
}

/// What else is to be said where it is the service's last instance.
pub fn last_one(layout: Layout) -> Option<&'static str> {
    matches!(layout, Layout::Kratos | Layout::Kitex).then_some(words::AFTER_LAST_KEEPS_TRAFFIC.text())
}

/// Whether the service's name has to be typed: the last live instance, or more than half of them.
pub fn needs_the_name(live: usize, taken: usize) -> bool {
    taken > 0 && (live <= taken || taken * 2 > live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_framework_has_its_own_sentence() {
        assert!(sentence(Layout::Kratos, Act::Delete, true).contains("restarts"));
        assert!(sentence(Layout::GoZero, Act::Delete, true).contains("at once"));
        assert!(sentence(Layout::Kitex, Act::Delete, true).contains("30 s"));
        assert_ne!(
            sentence(Layout::Kratos, Act::Delete, true),
            sentence(Layout::Kratos, Act::Revoke, true),
            "a kratos program comes back after a revoke"
        );
        for layout in Layout::ALL {
            for act in [Act::Delete, Act::Revoke] {
                let text = sentence(layout, act, true);
                assert!(text.ends_with('.') && !text.contains('!'), "{text}");
            }
            assert_eq!(sentence(layout, Act::Delete, false), words::AFTER_PERMANENT.text());
        }
        assert!(last_one(Layout::Kratos).is_some() && last_one(Layout::GoKit).is_none());
    }

    fn record(key: &str, lease: i64, revision: i64, metadata: &[(&str, &str)]) -> Record {
        Record {
            key: key.into(),
            source: "/microservices/".into(),
            layout: Layout::Kratos,
            service: "pay".into(),
            lease: rollcall_shared::LeaseId::from_etcd(lease),
            create_revision: revision,
            mod_revision: revision,
            decoded: Decoded::Instance(ServiceInstance {
                id: "1".into(),
                name: "pay".into(),
                version: "v1".into(),
                metadata: metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
                endpoints: vec!["http://10.0.0.1:80".into()],
            }),
            warning: None,
        }
    }

    #[test]
    fn draining_is_a_weight_of_0_and_undraining_what_was_before() {
        let live = record("k", 7, 1, &[("zone", "a"), ("weight", "30")]);
        assert!(!is_drained(&live));
        let edit = weighed(live.instance().unwrap(), Some("0"));
        let drained = edit.over(live.instance().unwrap());
        assert_eq!(drained.metadata["weight"], "0");
        assert_eq!(drained.metadata["zone"], "a");
        let drained = Record { decoded: Decoded::Instance(drained), ..live.clone() };
        assert!(is_drained(&drained));
        assert!(!is_drained(&Record { layout: Layout::Kitex, ..drained.clone() }), "there it reads as 10");
        let back = weighed(drained.instance().unwrap(), None).over(drained.instance().unwrap());
        assert_eq!(back.metadata.get("weight"), None);
    }

    #[test]
    fn nothing_is_deleted_that_was_to_be_drained() {
        let decoded = Decoded::Malformed { why: "it ends too early".into(), raw: Raw::Text("{".into()) };
        let broken = Record { decoded, ..record("k", 7, 2, &[]) };
        for act in [Act::Drain, Act::Undrain] {
            let sent = request(act, &broken, 1, None);
            assert!(matches!(sent, api::Act::Edit { mod_revision: 2, .. }), "{sent:?}");
        }
        assert!(matches!(request(Act::Delete, &broken, 1, None), api::Act::Deregister { mod_revision: 2, .. }));
        assert!(matches!(request(Act::Revoke, &broken, 3, None), api::Act::Revoke { keys: 3, .. }));
    }

    #[test]
    fn a_weight_is_put_back_only_in_the_life_it_was_noted_in() {
        let before = record("k", 7, 1, &[("weight", "30")]);
        let weight = |lease| match request(Act::Undrain, &record("k", lease, 2, &[("weight", "0")]), 1, Some(&before)) {
            api::Act::Edit { instance, .. } => instance.metadata.unwrap().remove(WEIGHT),
            other => panic!("{other:?}"),
        };
        assert_eq!(weight(7).as_deref(), Some("30"));
        assert_eq!(weight(8), None);
    }

    #[test]
    fn what_changed_meanwhile_is_told_field_by_field() {
        let was = record("k", 7, 1, &[("zone", "a"), ("weight", "30")]);
        let is = record("k", 8, 5, &[("zone", "b"), ("new", "x")]);
        let told: Vec<_> = changes(&was, &is).into_iter().map(|it| [it.field, it.was, it.is].join("|")).collect();
        assert_eq!(told, ["weight|30|", "zone|a|b", "new||x", "Lease|0000000000000007|0000000000000008"]);
        assert_eq!(changes(&was, &was), []);
    }

    #[test]
    fn who_brought_it_back_is_told_by_its_key_and_lease() {
        let taken = record("k/1", 7, 5, &[]);
        for (now, word) in [
            (record("k/1", 7, 9, &[]), Some(words::BACK_SAME_LEASE)),
            (record("k/1", 8, 9, &[]), Some(words::BACK_NEW_LEASE)),
            (record("k/2", 8, 9, &[]), Some(words::BACK_NEW_KEY)),
            (record("k/1", 7, 5, &[]), None),
            (record("k/2", 8, 4, &[]), None),
        ] {
            assert_eq!(is_return(&taken, &now).then(|| returned(&taken, &now)), word, "{now:?}");
        }
    }

    #[test]
    fn what_came_last_to_an_address_stands_for_it() {
        let records = [record("k/1", 7, 5, &[]), record("k/2", 8, 9, &[]), record("k/3", 8, 6, &[])].map(Arc::new);
        let found = by_address(records.iter());
        assert_eq!(found.len(), 1);
        assert_eq!(found[&address(&records[0])].key, "k/2");
        let elsewhere = Record { service: "other".into(), ..record("k/4", 9, 9, &[]) };
        assert_eq!(found.get(&address(&elsewhere)), None);
    }

    #[test]
    fn the_last_one_or_more_than_half_asks_for_the_name() {
        for (live, taken, expected) in
            [(1, 1, true), (2, 1, false), (3, 1, false), (3, 2, true), (4, 2, false), (2, 2, true), (5, 0, false)]
        {
            assert_eq!(needs_the_name(live, taken), expected, "{taken} of {live}");
        }
    }
}
