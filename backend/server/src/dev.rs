//! What `rollcall dev` adds to a server: a private, real etcd, and a fleet of instances to look at.

pub mod demo;
pub mod etcd;
