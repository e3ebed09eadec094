//! (under construction)
pub async fn run(_: rollcall_registry::etcd::connect::Connection, c: tokio_util::sync::CancellationToken) { c.cancelled().await }
