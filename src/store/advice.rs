//! What could be better about how a store is set up, for whoever runs it.

use std::fmt;

/// One thing that should be changed on a store's server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAdvice {
    /// `host:port` of the server.
    pub server: String,
    /// The setting that it is about, as the server names it.
    pub setting: &'static str,
    /// What is wrong, and what that can cost.
    pub problem: String,
    /// What to type on the server, in this order; nothing where the server has no command for it.
    pub commands: Vec<String>,
}

impl fmt::Display for ServerAdvice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.server, self.problem)?;
        if self.commands.is_empty() {
            Ok(())
        } else {
            write!(formatter, ": {}", self.commands.join(", then "))
        }
    }
}
