//! What one can do to a lease: grant, ask, renew once, revoke. No state; keeping leases alive is `keepalive`'s.

use std::time::Duration;

use etcd_client::LeaseTimeToLiveOptions;
use rollcall_shared::LeaseId;

pub use super::connect::is_member_failure;
use super::connect::{AskError, ConnectError, Connection, EtcdClient};

/// Why a lease could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The lease does not exist, or no longer.
    #[error("lease {0} is gone")]
    Gone(LeaseId),
    /// etcd refused, or the connection failed.
    #[error("etcd: {}", super::connect::describe(.0))]
    Request(#[source] Box<etcd_client::Error>),
    /// No answer in time.
    #[error("etcd did not answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The member that answered leads no more, or not yet, and keeps no time of leases.
    #[error("etcd changes its leader and does not know how much of lease {0} is left")]
    Unsettled(LeaseId),
}

/// What a member says is left of each lease while it keeps no time of them, in seconds: Go's longest duration, since
/// its lessor's `Remaining` has no end then. No lease is granted that much.
const FOREVER_S: i64 = i64::MAX / 1_000_000_000;

/// What etcd knows of a living lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The TTL it was granted, in seconds.
    pub granted_s: i64,
    /// The whole seconds left unless it is renewed.
    pub remaining_s: i64,
    /// Its keys, where they were asked for.
    pub keys: Vec<Vec<u8>>,
}

/// Every member is asked, one after the other. Only one where the answer is worth as much as it is young.
const ALL: usize = usize::MAX;

/// Asks one member after the other until one answers, but so many at the most.
async fn request<T, F>(
    connection: &Connection,
    lease: LeaseId,
    members_max: usize,
    ask: impl Fn(EtcdClient) -> F,
) -> Result<T, LeaseError>
where
    F: Future<Output = Result<T, etcd_client::Error>>,
{
    connection.ask(members_max, ask).await.map_err(|error| match error {
        AskError::Connect(error) => LeaseError::Connect(error),
        AskError::Request(error) => match *error {
            etcd_client::Error::GRpcStatus(status) if status.code() == tonic::Code::NotFound => LeaseError::Gone(lease),
            error => LeaseError::Request(Box::new(error)),
        },
        AskError::Timeout(after) => LeaseError::Timeout(after),
    })
}

/// Grants a lease of `ttl_s` seconds; etcd may grant more, never less.
///
/// # Errors
/// As [`LeaseError`] says; never [`LeaseError::Gone`] or [`LeaseError::Unsettled`].
pub async fn grant(connection: &Connection, ttl_s: i64) -> Result<(LeaseId, i64), LeaseError> {
    let answer =
        request(connection, LeaseId(0), ALL, |client| async move { client.lease().grant(ttl_s, None).await }).await?;
    Ok((LeaseId(answer.id()), answer.ttl()))
}

/// How much of `lease` is left; `None` where it is gone. Needs read permission on each of its keys.
///
/// # Errors
/// As [`LeaseError`] says; never [`LeaseError::Gone`].
pub async fn time_to_live(
    connection: &Connection,
    lease: LeaseId,
    with_keys: bool,
) -> Result<Option<LeaseTerms>, LeaseError> {
    let answer = request(connection, lease, 1, |client| async move {
        let options = with_keys.then(|| LeaseTimeToLiveOptions::new().with_keys());
        client.lease().time_to_live(lease.0, options).await
    })
    .await;
    match answer {
        // etcd answers −1 for a lease that it does not know.
        Ok(answer) if answer.ttl() < 0 => Ok(None),
        Ok(answer) if answer.ttl() >= FOREVER_S => Err(LeaseError::Unsettled(lease)),
        Ok(answer) => Ok(Some(LeaseTerms {
            granted_s: answer.granted_ttl(),
            remaining_s: answer.ttl(),
            keys: answer.keys().to_vec(),
        })),
        Err(LeaseError::Gone(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Renews `lease` once and says the TTL it has now, in seconds.
///
/// # Errors
/// As [`LeaseError`] says.
pub async fn keep_alive_once(connection: &Connection, lease: LeaseId) -> Result<i64, LeaseError> {
    let answer = request(connection, lease, 1, |client| async move {
        // The crate checks this first answer itself, and drops it.
        match client.lease().keep_alive(lease.0).await {
            Ok(_) => Ok(Some(client.lease().time_to_live(lease.0, None).await?.ttl())),
            Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await?;
    answer.filter(|ttl| *ttl >= 0).ok_or(LeaseError::Gone(lease))
}

/// Revokes `lease`, and with it every key on it.
///
/// # Errors
/// As [`LeaseError`] says.
pub async fn revoke(connection: &Connection, lease: LeaseId) -> Result<(), LeaseError> {
    request(connection, lease, ALL, |client| async move { client.lease().revoke(lease.0).await }).await.map(drop)
}
