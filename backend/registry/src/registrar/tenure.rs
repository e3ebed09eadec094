//! What one registration holds in etcd: its key, its lease, and whose they are.
//!
//! Owns: each transaction, and what an answer, or none, says of the key. Must not know when it is to be written: that is
//! the task's that tends it.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use rollcall_shared::{Decoded, LeaseId, Revision};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{RegisterError, RegistrarConfig};
use crate::{
    backoff::Backoff,
    etcd::{
        connect::{AskError, EtcdClient},
        keepalive::{LeaseKeeping, LeaseState},
        lease::{self, LeaseError},
    },
};

/// How often a write is tried at once where the key changes between reading and writing it.
const WRITE_TRIES_MAX: usize = 4;

/// A key, what shall stand under it, and the lease it is held by.
#[derive(Debug)]
pub(super) struct Tenure {
    pub(super) keeping: LeaseKeeping,
    config: Arc<RegistrarConfig>,
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    lease: Option<(LeaseId, watch::Receiver<LeaseState>)>,
    /// The lease before this one: a thawing etcd shows its key for some milliseconds more.
    former_lease: Option<LeaseId>,
    /// Whether the key was written, under the lease of now.
    pub(super) written: bool,
    /// Whether the last try found the key to be somebody else's.
    contested: bool,
    /// Whether a write was sent that was not answered: it may have been carried out.
    uncertain: bool,
    /// When the key that was written came to be: by this one's hand or, where it was taken over, by another's.
    created: Option<Revision>,
    lease_out: watch::Sender<Option<LeaseId>>,
}

/// What one transaction found.
enum Found {
    Written { revision: Revision },
    Other(Standing),
    Nothing,
}

/// What stands under the key.
struct Standing {
    lease: Option<LeaseId>,
    create_revision: Revision,
    mod_revision: Revision,
    value: Vec<u8>,
}

impl Tenure {
    /// Nothing is written yet, and no lease is granted.
    pub(super) fn new(keeping: LeaseKeeping, config: Arc<RegistrarConfig>, key: String, value: Vec<u8>) -> Self {
        Self {
            keeping,
            config,
            key,
            value,
            lease: None,
            former_lease: None,
            written: false,
            contested: false,
            uncertain: false,
            created: None,
            lease_out: watch::channel(None).0,
        }
    }

    /// The lease of now, and each after it.
    pub(super) fn leases(&self) -> watch::Receiver<Option<LeaseId>> {
        self.lease_out.subscribe()
    }

    pub(super) fn lease_id(&self) -> Option<LeaseId> {
        self.lease.as_ref().map(|(lease, _)| *lease)
    }

    /// The next state of the lease; never for a permanent key. `None` where the hub has ended.
    pub(super) async fn lease_changed(&mut self) -> Option<LeaseState> {
        match &mut self.lease {
            Some((_, state)) => {
                // The last state is read also where it came before the channel closed.
                let open = state.changed().await.is_ok();
                let last = state.borrow_and_update().clone();
                (open || last == LeaseState::Lost).then_some(last)
            }
            None => std::future::pending().await,
        }
    }

    /// Renews the lease no longer.
    pub(super) fn give_up_lease(&mut self) -> Option<LeaseId> {
        let (lease, _) = self.lease.take()?;
        self.keeping.release(lease);
        self.former_lease = Some(lease);
        self.lease_out.send_replace(None);
        Some(lease)
    }

    /// The lease is gone, and with it the key.
    pub(super) fn lose_lease(&mut self) -> Option<LeaseId> {
        self.written = false;
        self.give_up_lease()
    }

    /// Makes the key stand with the value wanted, under a living lease.
    pub(super) async fn establish(&mut self) -> Result<(), RegisterError> {
        if self.lease.as_ref().is_some_and(|(_, state)| *state.borrow() == LeaseState::Lost) {
            self.lose_lease();
        }
        if let (Some(ttl_s), None) = (self.config.ttl_s, &self.lease) {
            // Once somebody else's key was met, it is asked for before a lease is granted: waiting for it to go leaves
            // no leases behind.
            if self.contested
                && let Found::Other(standing) = self.transact(Expected::Never).await?
            {
                self.check_owner(standing)?;
            }
            let (lease, granted_ttl_s) = lease::grant(self.keeping.connection(), ttl_s).await?;
            self.lease = Some((lease, self.keeping.keep(lease, granted_ttl_s)));
            self.lease_out.send_replace(Some(lease));
        }
        let mut expected = Expected::Absent;
        let mut met = None;
        for _ in 0..WRITE_TRIES_MAX {
            expected = match self.transact(expected).await {
                Ok(Found::Written { revision }) => {
                    self.created = met.or(Some(revision));
                    self.written = true;
                    self.contested = false;
                    return Ok(());
                }
                Ok(Found::Nothing) => {
                    met = None;
                    Expected::Absent
                }
                Ok(Found::Other(standing)) => {
                    let mod_revision = standing.mod_revision;
                    met = Some(standing.create_revision);
                    if let Err(error) = self.check_owner(standing) {
                        self.contested = true;
                        if !self.written
                            && let Some(lease) = self.give_up_lease()
                        {
                            // Where this fails, the lease runs out by itself.
                            let _ = lease::revoke(self.keeping.connection(), lease).await;
                        }
                        return Err(error);
                    }
                    Expected::Revision(mod_revision)
                }
                Err(error) => {
                    if is_lease_not_found(&error) {
                        self.lose_lease();
                    }
                    return Err(error);
                }
            };
        }
        Err(RegisterError::Contended { key: self.key.clone() })
    }

    fn check_owner(&self, standing: Standing) -> Result<(), RegisterError> {
        let Standing { lease, create_revision, value, .. } = standing;
        let own = match lease {
            Some(_) => lease == self.lease_id() || lease == self.former_lease,
            // Without a lease there is but the key itself to know it by.
            None if self.config.ttl_s.is_some() => false,
            None => self.created == Some(create_revision) || (self.uncertain && value == self.value),
        };
        if own || self.config.takeover {
            return Ok(());
        }
        let RegistrarConfig { layout, prefix, .. } = &*self.config;
        let instance = match layout.decode(prefix, &self.key, &value).decoded {
            Decoded::Instance(instance) => Some(Box::new(instance)),
            Decoded::Malformed { .. } => None,
        };
        Err(RegisterError::Standing { key: self.key.clone(), lease, value, instance })
    }

    /// Writes the key where it is as expected, and otherwise says what stands there.
    async fn transact(&mut self, expected: Expected) -> Result<Found, RegisterError> {
        let key = self.key.as_str();
        let compare = match expected {
            Expected::Absent => Compare::version(key, CompareOp::Equal, 0),
            Expected::Revision(revision) => Compare::mod_revision(key, CompareOp::Equal, revision),
            Expected::Never => Compare::version(key, CompareOp::Less, 0),
        };
        let put = self.lease_id().map_or_else(PutOptions::new, |lease| PutOptions::new().with_lease(lease.0));
        let txn = Txn::new()
            .when([compare])
            .and_then([TxnOp::put(key, self.value.as_slice(), Some(put))])
            .or_else([TxnOp::get(key, None)]);
        let answer = match expected {
            Expected::Never => self.send(txn).await?,
            Expected::Absent | Expected::Revision(_) => {
                // Also where nobody waits for the answer any more.
                self.uncertain = true;
                let answer = self.send(txn).await;
                self.uncertain = answer.as_ref().is_err_and(RegisterError::is_passing);
                answer?
            }
        };
        if answer.succeeded() {
            return Ok(Found::Written { revision: answer.header().map_or(0, etcd_client::ResponseHeader::revision) });
        }
        let standing = answer.op_responses().into_iter().find_map(|answer| match answer {
            TxnOpResponse::Get(answer) => answer.kvs().first().map(|kv| Standing {
                lease: LeaseId::from_etcd(kv.lease()),
                create_revision: kv.create_revision(),
                mod_revision: kv.mod_revision(),
                value: kv.value().to_vec(),
            }),
            _ => None,
        });
        Ok(standing.map_or(Found::Nothing, Found::Other))
    }

    /// Removes what this registration left in etcd, and nothing else. Tried as long as one request may take: a member that
    /// is just being changed for another is no reason to leave a key behind.
    pub(super) async fn leave(&mut self, how: Leaving) -> Result<(), RegisterError> {
        let lease = self.give_up_lease();
        let deadline = Instant::now() + self.keeping.connection().request_timeout();
        let mut backoff = Backoff::new();
        loop {
            match self.remove(how, lease).await {
                Err(error) if error.is_passing() && Instant::now() < deadline => sleep(backoff.rest()).await,
                outcome => return outcome,
            }
        }
    }

    async fn remove(&self, how: Leaving, lease: Option<LeaseId>) -> Result<(), RegisterError> {
        let key = self.key.as_str();
        let own = match (how, lease) {
            // What was sent and not answered may come after a delete: only the end of the lease ends that, too.
            (Leaving::DeleteKey, Some(lease)) if !self.uncertain => {
                // The comparison leaves alone what somebody else has put there meanwhile.
                vec![Compare::lease(key, CompareOp::Equal, lease.0)]
            }
            (_, Some(lease)) => {
                return match lease::revoke(self.keeping.connection(), lease).await {
                    Ok(()) | Err(LeaseError::Gone(_)) => Ok(()),
                    Err(error) => Err(error.into()),
                };
            }
            (_, None) if self.config.ttl_s.is_some() => return Ok(()),
            (_, None) => match self.created {
                Some(created) => vec![Compare::create_revision(key, CompareOp::Equal, created)],
                None if self.uncertain => vec![
                    Compare::lease(key, CompareOp::Equal, 0),
                    Compare::value(key, CompareOp::Equal, self.value.as_slice()),
                ],
                None => return Ok(()),
            },
        };
        self.send(Txn::new().when(own).and_then([TxnOp::delete(key, None)])).await.map(drop)
    }

    async fn send(&self, txn: Txn) -> Result<etcd_client::TxnResponse, RegisterError> {
        let connection = self.keeping.connection();
        let answer = connection
            .ask(usize::MAX, |client: EtcdClient| {
                let txn = txn.clone();
                async move { client.kv().txn(txn).await }
            })
            .await;
        answer.map_err(|error| match error {
            AskError::Connect(error) => RegisterError::Connect(error),
            AskError::Request(source) => RegisterError::Write { key: self.key.clone(), source },
            AskError::Timeout(after) => RegisterError::Timeout(after),
        })
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.give_up_lease();
    }
}

/// What a transaction takes the key to be.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Absent,
    Revision(Revision),
    /// Nothing that can be: the transaction only reads.
    Never,
}

fn is_lease_not_found(error: &RegisterError) -> bool {
    match error {
        RegisterError::Write { source, .. } => {
            matches!(&**source, etcd_client::Error::GRpcStatus(status) if status.code() == tonic::Code::NotFound)
        }
        _ => false,
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Leaving {
    RevokeLease,
    DeleteKey,
}
