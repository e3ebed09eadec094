//! `rollcall deregister KEY`: removes one instance, and says what it removed.
//!
//! Must not reach beyond the watched prefixes: what else is kept in the same etcd is none of its business.

use std::{io::Write as _, time::Duration};

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};
use rollcall_registry::etcd::{
    connect::{ConnectError, Connection, REQUEST_TIMEOUT},
    lease::{self, LeaseError},
};
use rollcall_shared::{KeyPrefix, LeaseId, Revision};
use tokio::time::timeout;

/// Nothing was removed.
const EXIT_FAILURE: i32 = 1;

/// How often a key that changes while it is being deleted is tried again.
const DELETE_TRIES_MAX: usize = 5;

/// How long etcd may take altogether until this gives up.
const DEADLINE: Duration = Duration::from_secs(15);

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
enum DeregisterError {
    #[error("{0} lies outside of the watched prefixes")]
    Outside(String),
    #[error("{0} does not stand")]
    Absent(String),
    #[error("{0} is permanent: it has no lease to revoke")]
    Permanent(String),
    #[error("lease {lease} also holds {key}, which lies outside of the watched prefixes")]
    Shared { lease: LeaseId, key: String },
    #[error("{0} changes too often to be deleted")]
    Contended(String),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error("etcd: {}", rollcall_registry::etcd::connect::describe(.0))]
    Request(#[source] Box<etcd_client::Error>),
    #[error("etcd did not answer in time")]
    Timeout,
}

/// Removes `key`, or with `revoke_lease` all that its lease holds, and prints it. Answers the exit code.
pub async fn run(connection: Connection, key: &str, revoke_lease: bool, sources: &[KeyPrefix]) -> i32 {
    let removing = async {
        if revoke_lease { revoke(&connection, key, sources).await } else { delete(&connection, key, sources).await }
    };
    let removed = timeout(DEADLINE, removing).await.unwrap_or(Err(DeregisterError::Timeout));
    match removed {
        Ok(lines) => {
            let mut out = std::io::stdout().lock();
            // A reader that has gone away already wants no more of it.
            let _ = lines.iter().try_for_each(|line| writeln!(out, "{line}"));
            0
        }
        Err(error) => {
            eprintln!("rollcall: {error}");
            EXIT_FAILURE
        }
    }
}

fn is_inside(sources: &[KeyPrefix], key: &str) -> bool {
    sources.iter().any(|source| source.holds(key))
}

async fn delete(connection: &Connection, key: &str, sources: &[KeyPrefix]) -> Result<Vec<String>, DeregisterError> {
    for _ in 0..DELETE_TRIES_MAX {
        let (_, mod_revision) = find(connection, key, sources).await?;
        // What is deleted is what was found: a program that registers anew in between keeps its key.
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
            .and_then([TxnOp::delete(key, None)]);
        let client = connection.client().await?;
        let answer = timeout(REQUEST_TIMEOUT, client.kv().txn(txn)).await;
        let answer = answer.map_err(|_| DeregisterError::Timeout)?;
        if answer.map_err(|error| DeregisterError::Request(Box::new(error)))?.succeeded() {
            return Ok(vec![format!("deleted {key}")]);
        }
    }
    Err(DeregisterError::Contended(key.to_owned()))
}

async fn revoke(connection: &Connection, key: &str, sources: &[KeyPrefix]) -> Result<Vec<String>, DeregisterError> {
    let (lease, _) = find(connection, key, sources).await?;
    let lease = lease.ok_or_else(|| DeregisterError::Permanent(key.to_owned()))?;
    let terms = lease::time_to_live(connection, lease, true).await?.ok_or(LeaseError::Gone(lease))?;
    let keys: Vec<_> = terms.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    if let Some(other) = keys.iter().find(|key| !is_inside(sources, key)) {
        return Err(DeregisterError::Shared { lease, key: other.clone() });
    }
    lease::revoke(connection, lease).await?;
    let deleted = keys.iter().map(|key| format!("deleted {key}"));
    Ok(std::iter::once(format!("revoked {lease}")).chain(deleted).collect())
}

async fn find(
    connection: &Connection,
    key: &str,
    sources: &[KeyPrefix],
) -> Result<(Option<LeaseId>, Revision), DeregisterError> {
    if !is_inside(sources, key) {
        return Err(DeregisterError::Outside(key.to_owned()));
    }
    let client = connection.client().await?;
    let answer = timeout(REQUEST_TIMEOUT, client.kv().get(key, Some(GetOptions::new().with_keys_only()))).await;
    let answer = answer.map_err(|_| DeregisterError::Timeout)?;
    let answer = answer.map_err(|error| DeregisterError::Request(Box::new(error)))?;
    let standing = answer.kvs().first().ok_or_else(|| DeregisterError::Absent(key.to_owned()))?;
    Ok((LeaseId::from_etcd(standing.lease()), standing.mod_revision()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_registry::etcd::connect::ConnectConfig;

    #[tokio::test]
    async fn a_key_outside_of_the_prefixes_is_refused_before_etcd_is_asked() {
        let config = ConnectConfig { endpoints: vec!["127.0.0.1:1".into()], ..ConnectConfig::default() };
        let connection = Connection::new(config).unwrap();
        let sources = [KeyPrefix::new("/microservices/").unwrap()];
        for key in ["/microservices", "/microservices/", "/other/a", ""] {
            let refused = delete(&connection, key, &sources).await;
            assert!(matches!(refused, Err(DeregisterError::Outside(_))), "{key:?}");
        }
        assert_eq!(run(connection, "/microservices/a/1", true, &sources).await, EXIT_FAILURE, "etcd is away");
    }
}
