//! TLS of outgoing connections: which root certificates are trusted.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Reads the system's root certificates. Without any, plain HTTP still works.
pub(crate) fn load_native_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            errors = ?found.errors,
            "no trusted root certificates were found: no https URL can be called"
        );
    }
    roots
}

/// A TLS configuration that trusts `roots` and presents no client certificate.
pub(crate) fn build_tls_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has every default version")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
