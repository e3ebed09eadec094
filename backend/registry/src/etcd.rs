//! Everything that speaks to etcd.

pub mod connect;
pub mod entry;
pub mod lease;
pub mod source;
pub mod watcher;
