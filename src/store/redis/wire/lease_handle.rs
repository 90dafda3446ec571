//! The handle of a lease: [`Lease::store_handle`] as the Redis store writes it.

use crate::store::Lease;

/// A stream entry and a lease of it, as text `<entry id>/<lease number>`.
pub(crate) struct LeaseHandle {
    /// The stream entry's id.
    pub(crate) entry_id: String,
    /// The number of the lease, raised whenever a lease of the entry begins or ends.
    pub(crate) lease_number: u64,
}

impl LeaseHandle {
    /// Reads the handle of a lease.
    pub(crate) fn from_lease(lease: &Lease) -> Self {
        Self::parse(&lease.store_handle)
    }

    /// Reads a handle. Text that is none becomes a handle that fits no record.
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
