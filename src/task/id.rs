//! The validated names of the task path: task ids and topics.
//!
//! Both become parts of store keys, so every name from outside is checked before it is used.

use std::fmt;
use std::sync::Arc;

use super::time::UnixMs;

/// Why a task id or topic from a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A task id with a forbidden character or of a wrong length.
    #[error("a task id is 1 to 128 characters of A-Z a-z 0-9 _ -")]
    TaskId,
    /// A topic with a forbidden character or of a wrong length.
    #[error("a topic is 1 to 200 characters of A-Z a-z 0-9 . _ -")]
    Topic,
}

/// A task's public name. Ids that this program creates are `task_` and a ULID (48 bits of
/// milliseconds, 80 random bits), so they sort by age and cannot be guessed; ids of other
/// publishers match `[A-Za-z0-9_-]{1,128}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// The id of a task created at `now`, with the low 80 bits of `random`.
    #[must_use]
    pub fn new(now: UnixMs, random: u128) -> Self {
        let ulid = ulid::Ulid::from_parts(now.0, random).to_string();
        Self(format!("task_{}", ulid.to_ascii_lowercase()).into())
    }

    /// Parses an id from a request or another publisher.
    ///
    /// # Errors
    /// [`NameError::TaskId`] for anything that is not `[A-Za-z0-9_-]{1,128}`, so that no store key
    /// is built from an unchecked id.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let well_formed = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if well_formed { Ok(Self(text.into())) } else { Err(NameError::TaskId) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A queue's name, `[A-Za-z0-9._-]{1,200}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Parses a topic name.
    ///
    /// # Errors
    /// [`NameError::Topic`] for anything that is not `[A-Za-z0-9._-]{1,200}`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let well_formed = (1..=200).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if well_formed { Ok(Self(text.into())) } else { Err(NameError::Topic) }
    }

    /// The topic that is shown for a task whose topic cannot be read.
    #[must_use]
    pub fn unknown() -> Self {
        Self("unknown".into())
    }

    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_prefixed_sort_by_time_and_read_back() {
        let early = TaskId::new(UnixMs(1_700_000_000_000), 7);
        let late = TaskId::new(UnixMs(1_700_000_000_001), 3);
        assert!(early.as_str().starts_with("task_") && early < late);
        assert_eq!(TaskId::parse(early.as_str()), Ok(early));
    }

    #[test]
    fn names_from_outside_are_refused_before_they_become_keys() {
        for bad in ["", "a b", "../x", "task*", "a/b", &"x".repeat(129)] {
            assert_eq!(TaskId::parse(bad), Err(NameError::TaskId), "{bad}");
        }
        for bad in ["", "a b", "t*", "a/b", "a:b", &"x".repeat(201)] {
            assert_eq!(Topic::parse(bad), Err(NameError::Topic), "{bad}");
        }
        assert!(Topic::parse("genesis.meta.orchestrate").is_ok());
    }
}
