#![doc = include_str!("../README.md")]
//!
//! # Where what stands
//! - [`options`] is where to begin: [`Options`] and the [`Registry`] made of them.
//! - [`registrar`] registers instances and keeps them registered; [`etcd::keepalive`] renews their leases.
//! - [`discovery`] finds them; [`balance`] chooses among them, and `call` calls who was chosen (features `grpc`, `http`).
//! - [`lifecycle`] ends a program in the order that costs no call.
//! - [`etcd::connect`] holds the connection, [`etcd::source`] lists and watches one prefix, [`etcd::watcher`] makes of
//!   both one stream that never ends and never loses an event, [`etcd::lease`] asks leases how long they have left.

mod backoff;
pub mod balance;
#[cfg(any(feature = "grpc", feature = "http"))]
pub mod call;
pub mod discovery;
pub mod etcd;
pub mod lifecycle;
pub mod options;
pub mod registrar;

pub use discovery::{DiscoverError, Discovery, DiscoveryConfig, Instances, LossGuard, Scope, ServiceView, Watcher};
pub use lifecycle::{Ended, Lifecycle};
pub use options::{Options, OptionsError, Registry};
pub use registrar::{RegisterError, Registrar, RegistrarConfig, Registration, RegistrationState};
pub use rollcall_shared::{FieldError, KeyPrefix, Layout, LeaseId, ServiceInstance};
