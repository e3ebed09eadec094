//! What every reqwest of a test needs that is built where calls over TLS are: a provider of cryptography.

/// Chooses one for this program, where none is chosen yet.
pub fn choose() {
    // Another test of this program chose it already: then it is the same.
    let _chosen = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
}
