//! The certificates that this machine trusts, read once for all connections of a client.

use rustls::RootCertStore;
use tracing::debug;

/// The machine's certificates cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this machine has no certificates to check those of servers against: {why}")]
pub struct RootsError {
    /// What went wrong where they were looked for.
    pub why: String,
}

/// Reads them from the disk.
pub(super) fn read() -> Result<RootCertStore, RootsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    debug!(added, ignored, errors = ?found.errors, "read the certificates of this machine");
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none were found".to_owned(), ToString::to_string);
        return Err(RootsError { why });
    }
    Ok(roots)
}
