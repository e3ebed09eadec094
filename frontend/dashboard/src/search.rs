//! What the search box means: words that all must match, `key:value`, `!not`, `/expression/`, `state:late`,
//! `layout:kratos`.
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

/// Whether a text holds what a regular expression means; `None` where that is none. The page's is the browser's own.
pub type Pattern = fn(expression: &str, text: &str) -> Option<bool>;

/// A search, read once and matched against many.
#[derive(Debug, Clone)]
pub struct Search {
    terms: Vec<Term>,
    pattern: Pattern,
}

impl Default for Search {
    fn default() -> Self {
        Self { terms: Vec::new(), pattern: |_, _| None }
    }
}

impl PartialEq for Search {
    /// What is searched; not who matches its regular expressions.
    fn eq(&self, other: &Self) -> bool {
        self.terms == other.terms
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    negated: bool,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// In lower case, where it is ASCII.
    Word(String),
    /// A word that holds a `:`: the whole, what stands before it and what stands after it.
    Pair(String, String, String),
    /// Between slashes.
    Expression(String),
}

impl Search {
    /// Reads what was typed. Nothing is wrong with any text; an expression that is none matches nothing.
    pub fn parse(text: &str, pattern: Pattern) -> Self {
        let mut terms = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (negated, term) = rest.strip_prefix('!').map_or((false, rest), |term| (true, term));
            let what;
            if let Some((expression, after)) = expression(term) {
                (what, rest) = (What::Expression(expression.to_owned()), after);
            } else {
                let end = term.find(char::is_whitespace).unwrap_or(term.len());
                what = word(&term[..end]);
                rest = &term[end..];
            }
            rest = rest.trim_start();
            if !matches!(&what, What::Word(word) if word.is_empty()) {
                terms.push(Term { negated, what });
            }
        }
        Self { terms, pattern }
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The first expression in it that is none.
    pub fn wrong_expression(&self) -> Option<&str> {
        self.terms.iter().find_map(|term| match &term.what {
            What::Expression(expression) if (self.pattern)(expression, "").is_none() => Some(expression.as_str()),
            _ => None,
        })
    }

    /// Whether a record in this state is meant.
    pub fn matches(&self, record: &Record, state: RowState) -> bool {
        self.terms.iter().all(|term| term.matches(record, state, self.pattern) != term.negated)
    }

    /// Whether it certainly means nothing that `wider` does not mean, as when somebody types on.
    pub fn narrows(&self, wider: &Self) -> bool {
        !wider.is_empty() && wider.terms.iter().all(|old| self.terms.iter().any(|new| new.implies(old)))
    }
}

/// What stands between a `/` at the beginning and the next one that ends a term, and what follows.
fn expression(text: &str) -> Option<(&str, &str)> {
    let body = text.strip_prefix('/')?;
    let ends = |at: &usize| {
        let after = &body[at + 1..];
        *at > 0 && !body[..*at].ends_with('\\') && (after.is_empty() || after.starts_with(char::is_whitespace))
    };
    let end = body.match_indices('/').map(|(at, _)| at).find(ends)?;
    Some((&body[..end], &body[end + 1..]))
}

fn word(word: &str) -> What {
    let word = word.to_ascii_lowercase();
    match word.split_once(':') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            let (key, value) = (key.to_owned(), value.to_owned());
            What::Pair(word, key, value)
        }
        _ => What::Word(word),
    }
}

impl Term {
    /// Whether what this means is a part of what `wider` means.
    fn implies(&self, wider: &Self) -> bool {
        if self == wider {
            return true;
        }
        match (&self.what, &wider.what) {
            (What::Word(new), What::Word(old)) => !self.negated && !wider.negated && new.contains(old.as_str()),
            _ => false,
        }
    }

    fn matches(&self, record: &Record, state: RowState, pattern: Pattern) -> bool {
        let (word, key, value) = match &self.what {
            What::Word(word) => return stands_in(word, record),
            What::Expression(expression) => return pattern(expression, &text_of(record)).unwrap_or(false),
            What::Pair(word, key, value) => (word, key, value),
        };
        match key.as_str() {
            "state" => return state.as_str() == value || (record.instance().is_none() && value == "malformed"),
            "layout" => return record.layout.as_str() == value,
            "service" | "name" => return holds(&record.service, value),
            "lease" => {
                return match record.lease {
                    Some(lease) => lease.to_string().contains(value.as_str()),
                    None => value == "none",
                };
            }
            "key" => return holds(&record.key, value),
            _ => {}
        }
        if let Some(instance) = record.instance() {
            match key.as_str() {
                "id" => return holds(&instance.id, value),
                "version" => return holds(&instance.version, value),
                _ => {}
            }
            if instance.metadata.iter().any(|(name, text)| name.eq_ignore_ascii_case(key) && holds(text, value)) {
                return true;
            }
        }
        stands_in(word, record)
    }
}

/// What an expression is matched against: a line each for the key, the service and all that the value says.
fn text_of(record: &Record) -> String {
    let mut text = [&record.key, "\n", &record.service].concat();
    let mut line = |parts: &[&str]| {
        text.push('\n');
        for part in parts {
            text.push_str(part);
        }
    };
    if let Some(instance) = record.instance() {
        line(&[&instance.id]);
        line(&[&instance.version]);
        for endpoint in &instance.endpoints {
            line(&[endpoint]);
        }
        for (name, value) in &instance.metadata {
            line(&[name, "=", value]);
        }
    }
    text
}

fn stands_in(word: &str, record: &Record) -> bool {
    // The key mostly holds the service and the id.
    if holds(&record.key, word) || (!record.key.contains(&record.service) && holds(&record.service, word)) {
        return true;
    }
    record.instance().is_some_and(|instance| {
        instance.endpoints.iter().any(|endpoint| holds(endpoint, word))
            || holds(&instance.version, word)
            || instance.metadata.iter().any(|(name, text)| holds(name, word) || holds(text, word))
            || (!record.key.ends_with(&instance.id) && holds(&instance.id, word))
    })
}

/// Whether `text` holds `word`, which is in lower case; the case of ASCII letters makes no difference. (That of others
/// does: the tables for it weigh more than the whole search.)
fn holds(text: &str, word: &str) -> bool {
    let (text, word) = (text.as_bytes(), word.as_bytes());
    let Some((&first, rest)) = word.split_first() else { return true };
    let Some(last_start) = text.len().checked_sub(word.len()) else { return false };
    let upper = first.to_ascii_uppercase();
    text[..=last_start].iter().enumerate().any(|(at, byte)| {
        (*byte == first || *byte == upper) && text[at + 1..at + word.len()].eq_ignore_ascii_case(rest)
    })
}

#[cfg(test)]
mod tests {
    use rollcall_shared::{Decoded, Layout, LeaseId, Raw, ServiceInstance};

    use super::*;

    /// Stands for the browser's: an expression is a word here, and `(` is none.
    fn search(text: &str) -> Search {
        Search::parse(text, |expression, text| (expression != "(").then(|| text.contains(expression)))
    }

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
            ("7f3 payments 7F3 paymentsx", false),
            ("/0.0.7:8000/", true),
            ("/Berlin-ä/ pay", true),
            ("!/Berlin/", false),
            ("/pay ments/", false),
            ("/payments\n7f3/", true),
            ("/(/", false),
            ("/microservices/payments", true),
            ("/microservices", true),
            ("lease:none", false),
        ];
        for (text, expected) in cases {
            assert_eq!(search(text).matches(&record(), RowState::Live), expected, "{text:?}");
        }
        assert!(search("state:late").matches(&record(), RowState::Late));
    }

    #[test]
    fn what_is_malformed_is_found_by_its_key() {
        let mut record = record();
        record.decoded = Decoded::Malformed { why: "why".into(), raw: Raw::Text("{".into()) };
        for text in ["state:malformed", "7f3", "payments", "state:live"] {
            assert!(search(text).matches(&record, RowState::Live), "{text}");
        }
        assert!(!search("zone:berlin").matches(&record, RowState::Live));
    }

    #[test]
    fn what_is_typed_on_narrows() {
        for (wider, text, expected) in [
            ("pa", "pay", true),
            ("pa", "spay x", true),
            ("pa zone:b", "zone:b pay", true),
            ("", "pay", false),
            ("pay", "pa", false),
            ("!pa", "!pay", false),
            ("!pa", "!pa x", true),
            ("zone:b", "zone:be", false),
            ("state:li", "state:live", false),
            ("/pa/", "/pay/", false),
            ("zone:", "zone:b", false),
        ] {
            assert_eq!(search(text).narrows(&search(wider)), expected, "{wider:?} to {text:?}");
        }
    }

    #[test]
    fn an_expression_that_is_none_is_named() {
        assert_eq!(search("pay /(/").wrong_expression(), Some("("));
        assert_eq!(search("pay /x/").wrong_expression(), None);
    }
}
