//! What could be better about how a store is set up, for whoever runs it.

use std::fmt;

/// One thing that should be changed on a store's server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// `host:port` of the server.
    pub server: String,
    /// The setting that it is about, as the server names it.
    pub about: &'static str,
    /// What is wrong, and what that can cost.
    pub problem: String,
    /// What to type on the server, in this order; nothing where the server has no command for it.
    pub run: Vec<String>,
}

impl fmt::Display for Advice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.server, self.problem)?;
        if self.run.is_empty() { Ok(()) } else { write!(formatter, ": {}", self.run.join(", then ")) }
    }
}
