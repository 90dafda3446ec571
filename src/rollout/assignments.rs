//! How requests were assigned to the paths, before anything became of them.

/// How requests were assigned to the paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssignmentCounts {
    /// Requests that were assigned to the async path at random.
    pub async_random: u64,
    /// Requests that were assigned to the sync path at random.
    pub sync_random: u64,
    /// Requests that were assigned to the path that the bucket of their sticky key does not belong
    /// to, at the weight that the rollout wants.
    pub mismatched: u64,
}

// === impl AssignmentCounts ===

impl AssignmentCounts {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.async_random += other.async_random;
        self.sync_random += other.sync_random;
        self.mismatched += other.mismatched;
    }

    /// The counts since `earlier`; zero where counts were lost.
    #[must_use]
    pub fn delta_since(&self, earlier: &Self) -> Self {
        Self {
            async_random: self.async_random.saturating_sub(earlier.async_random),
            sync_random: self.sync_random.saturating_sub(earlier.sync_random),
            mismatched: self.mismatched.saturating_sub(earlier.mismatched),
        }
    }

    /// Requests that were assigned at random.
    #[must_use]
    pub fn random_requests(&self) -> u64 {
        self.async_random + self.sync_random
    }
}
