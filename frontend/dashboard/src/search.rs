//! What the search box means: words that all must match, `key:value`, `!not`, `state:late`, `layout:kratos`.
//!
//! Pure. Owns: the language of the search. Must not know: where it is typed, or what is shown.

use rollcall_shared::Record;

/// How an instance is doing, as the page shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    /// It is registered, and its lease is renewed in time.
    Live,
    /// A renewal is overdue.
    Late,
    /// It has left and is shown for a while.
    Gone,
}

impl RowState {
    /// The state's word, as `data-state` and the search have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Late => "late",
            Self::Gone => "gone",
        }
    }
}

/// A search, read once and matched against many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    negated: bool,
    /// Lower case, where it is ASCII.
    word: String,
    /// Where the word holds a `:` that parts it in two: what stands before and after it.
    pair: Option<(String, String)>,
}

impl Search {
    /// Reads what was typed. Nothing is wrong with any text.
    pub fn parse(text: &str) -> Self {
        let terms = text
            .split_whitespace()
            .filter_map(|word| {
                let (negated, word) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
                let word = word.to_ascii_lowercase();
                let pair = word
                    .split_once(':')
                    .filter(|(key, value)| !key.is_empty() && !value.is_empty())
                    .map(|(key, value)| (key.to_owned(), value.to_owned()));
                (!word.is_empty()).then_some(Term { negated, word, pair })
            })
            .collect();
        Self { terms }
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether a record in this state is meant.
    pub fn matches(&self, record: &Record, state: RowState) -> bool {
        self.terms.iter().all(|term| term.matches(record, state) != term.negated)
    }
}

impl Term {
    fn matches(&self, record: &Record, state: RowState) -> bool {
        if let Some((key, value)) = &self.pair {
            match key.as_str() {
                "state" => return state.as_str() == value || (record.instance().is_none() && value == "malformed"),
                "layout" => return record.layout.as_str() == value,
                "service" | "name" => return holds(&record.service, value),
                "lease" => return record.lease.is_some_and(|lease| lease.to_string().contains(value.as_str())),
                "key" => return holds(&record.key, value),
                _ => {}
            }
            let Some(instance) = record.instance() else { return holds(&record.key, &self.word) };
            match key.as_str() {
                "id" => return holds(&instance.id, value),
                "version" => return holds(&instance.version, value),
                _ => {}
            }
            if instance.metadata.iter().any(|(name, text)| name.eq_ignore_ascii_case(key) && holds(text, value)) {
                return true;
            }
        }
        self.stands_in(record)
    }

    fn stands_in(&self, record: &Record) -> bool {
        let word = &self.word;
        if holds(&record.service, word) || holds(&record.key, word) {
            return true;
        }
        record.instance().is_some_and(|instance| {
            holds(&instance.id, word)
                || holds(&instance.version, word)
                || instance.endpoints.iter().any(|endpoint| holds(endpoint, word))
                || instance.metadata.iter().any(|(name, text)| holds(name, word) || holds(text, word))
        })
    }
}

/// Whether `text` holds `word`, which is in lower case; the case of ASCII letters makes no difference. (That of others
/// does: the tables for it weigh more than the whole search.)
fn holds(text: &str, word: &str) -> bool {
    let (text, word) = (text.as_bytes(), word.as_bytes());
    word.is_empty() || text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use rollcall_shared::{Decoded, Layout, LeaseId, Raw, ServiceInstance};

    use super::*;

    fn record() -> Record {
        Record {
            key: "/microservices/payments/7f3".into(),
            source: "/microservices/".into(),
            layout: Layout::Kratos,
            service: "payments".into(),
            lease: LeaseId::from_etcd(0x7b),
            create_revision: 1,
            mod_revision: 1,
            decoded: Decoded::Instance(ServiceInstance {
                id: "7f3".into(),
                name: "payments".into(),
                version: "v1.2".into(),
                metadata: [("zone".to_owned(), "Berlin-ä".to_owned())].into(),
                endpoints: vec!["http://10.0.0.7:8000".into()],
            }),
            warning: None,
        }
    }

    #[test]
    fn every_word_must_stand_somewhere() {
        let cases = [
            ("", true),
            ("pay 7F3", true),
            ("pay orders", false),
            ("V1.2", true),
            ("10.0.0.7:8000", true),
            ("http://10.0.0.7", true),
            ("zone:berlin", true),
            ("zone:paris", false),
            ("ä", true),
            ("!orders", true),
            ("!pay", false),
            ("!zone:paris state:live", true),
            ("state:late", false),
            ("layout:kratos", true),
            ("layout:kitex", false),
            ("lease:7b", true),
            ("id:7f version:v1", true),
            ("id:8", false),
            ("!", true),
        ];
        for (text, expected) in cases {
            assert_eq!(Search::parse(text).matches(&record(), RowState::Live), expected, "{text:?}");
        }
        assert!(Search::parse("state:late").matches(&record(), RowState::Late));
    }

    #[test]
    fn what_is_malformed_is_found_by_its_key() {
        let mut record = record();
        record.decoded = Decoded::Malformed { why: "why".into(), raw: Raw::Text("{".into()) };
        for text in ["state:malformed", "7f3", "payments", "state:live"] {
            assert!(Search::parse(text).matches(&record, RowState::Live), "{text}");
        }
        assert!(!Search::parse("zone:berlin").matches(&record, RowState::Live));
    }
}
