//! A topic of a scenario.

use serde_json::{Value, json};

use crate::support::server::ConfigTree;

/// One entry of `topics`.
#[derive(Clone)]
pub struct Topic {
    name: String,
    settings: ConfigTree,
}

/// A topic that the legacy endpoint handles.
pub fn topic(name: &str) -> Topic {
    let mut settings = ConfigTree::empty();
    settings.set("handler", "upstream");
    Topic { name: name.to_owned(), settings }
}

impl Topic {
    /// A program handles it.
    pub fn command<const N: usize>(self, words: [&str; N]) -> Self {
        self.yaml("handler", json!({"command": words.as_slice()}))
    }

    /// A line of shell handles it.
    pub fn shell(self, script: &str) -> Self {
        self.command(["sh", "-c", script])
    }

    /// A line of Python handles it.
    pub fn python(self, script: &str) -> Self {
        self.command(["python3", "-c", script])
    }

    /// A service at this URL handles it.
    pub fn http(self, url: &str) -> Self {
        self.yaml("handler", json!({"http": url}))
    }

    /// Agents outside of omnidaemon handle it.
    pub fn external(self) -> Self {
        self.yaml("handler", "external")
    }

    /// How often a failed task is tried again.
    pub fn retries(self, count: u32) -> Self {
        self.yaml("retries", count)
    }

    /// The mean pause before the first retry.
    pub fn retry_delay(self, duration: &str) -> Self {
        self.yaml("retry_delay", duration)
    }

    /// How long an attempt may take.
    pub fn timeout(self, duration: &str) -> Self {
        self.yaml("timeout", duration)
    }

    /// How many tasks may wait.
    pub fn max_backlog(self, tasks: u32) -> Self {
        self.yaml("max_backlog", tasks)
    }

    /// Sets any other key.
    pub fn yaml(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.settings.set(key, value);
        self
    }

    pub(super) fn into_parts(self) -> (String, Value) {
        (self.name, self.settings.into_value())
    }
}
