//! What is different between two records of one key. Pure.

use rollcall_shared::Record;

/// A part of a record, as a person tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The version.
    Version,
    /// The endpoints.
    Endpoints,
    /// The metadata.
    Metadata,
    /// The id.
    Id,
    /// The value decodes now, and did not before.
    Repaired,
    /// The value does not decode any more.
    Broken,
    /// A value that does not decode, before and now.
    Value,
    /// The lease.
    Lease,
}

/// What is different between two records of one key.
pub fn between(was: &Record, is: &Record) -> Vec<Part> {
    let mut parts = Vec::new();
    match (was.instance(), is.instance()) {
        (Some(was), Some(is)) => {
            for (part, differs) in [
                (Part::Version, was.version != is.version),
                (Part::Endpoints, was.endpoints != is.endpoints),
                (Part::Metadata, was.metadata != is.metadata),
                (Part::Id, was.id != is.id),
            ] {
                if differs {
                    parts.push(part);
                }
            }
        }
        (None, Some(_)) => parts.push(Part::Repaired),
        (Some(_), None) => parts.push(Part::Broken),
        (None, None) => {
            if was.decoded != is.decoded {
                parts.push(Part::Value);
            }
        }
    }
    if was.lease != is.lease {
        parts.push(Part::Lease);
    }
    parts
}
