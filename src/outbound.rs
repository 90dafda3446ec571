//! What every client of this program has in common, whoever it calls: whom TLS trusts, and how a
//! failure is put.
//!
//! How each client pools, waits and retries is its own: a proxied request, a task, a question to
//! Prometheus and a command of an operator want different things of a connection.

use std::error::Error;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// The system's root certificates, read anew. A machine without any still speaks plain HTTP.
pub(crate) fn load_native_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(errors = ?found.errors, "no trusted root certificates were found: no https URL can be called");
    }
    roots
}

/// TLS that trusts `roots`, and shows no certificate of its own.
pub(crate) fn build_tls_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has every default version")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The innermost reason: "connection refused" rather than "client error".
pub(crate) fn format_root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
