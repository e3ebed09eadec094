//! Everything that speaks to etcd.

pub mod connect;
pub mod entry;
pub mod keepalive;
pub mod lease;
pub mod source;
pub mod ttl;
pub mod watcher;
