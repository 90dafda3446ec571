//! The form of [`Lease::store_handle`] in the Redis store: `<entry id>/<lease number>`.

use crate::store::Lease;

/// A lease of a stream entry.
pub(crate) struct LeaseHandle {
    /// The stream entry's id.
    pub(crate) entry_id: String,
    /// The lease number, which rises whenever a lease of the entry begins or ends.
    pub(crate) lease_number: u64,
}

impl LeaseHandle {
    /// Parses the handle of a lease.
    pub(crate) fn from_lease(lease: &Lease) -> Self {
        Self::parse(&lease.store_handle)
    }

    /// Parses a handle. A text without a valid lease number gets the lease number 0, which no lease
    /// has, so that the store refuses the handle.
    pub(crate) fn parse(text: &str) -> Self {
        let (entry_id, number) = text.split_once('/').unwrap_or((text, "0"));
        Self { entry_id: entry_id.to_owned(), lease_number: number.parse().unwrap_or(0) }
    }
}

impl std::fmt::Display for LeaseHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.entry_id, self.lease_number)
    }
}
