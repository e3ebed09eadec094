//! A service registry on etcd: the client library of Rollcall for Rust services. Knows no HTTP.
//!
//! - [`etcd::connect`] holds the connection, [`etcd::source`] lists and watches one prefix, [`etcd::watcher`] makes of
//!   both one stream that never ends and never loses an event, [`etcd::lease`] asks leases how long they have left.
//! - [`registrar`] registers instances and keeps them registered; [`etcd::keepalive`] renews their leases.

mod backoff;
pub mod balance;
pub mod discovery;
pub mod etcd;
pub mod registrar;

pub use discovery::{DiscoverError, Discovery, DiscoveryConfig, Instances, LossGuard, Scope, ServiceView, Watcher};
pub use registrar::{RegisterError, Registrar, RegistrarConfig, Registration, RegistrationState};
