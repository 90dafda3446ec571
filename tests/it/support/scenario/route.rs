//! A route of a scenario.

use serde_json::{Value, json};

use crate::support::server::ConfigTree;

/// One entry of `routes`.
#[derive(Clone)]
pub struct Route {
    name: String,
    settings: ConfigTree,
}

/// A route at `/name` into topic `t`, 0 % asynchronous, whose percentage is set by hand.
pub fn route(name: &str) -> Route {
    let mut settings = ConfigTree::empty();
    settings.set("path", format!("/{name}"));
    settings.set("topic", "t");
    settings.set("rollout", json!({"percent": 0, "mode": "manual"}));
    Route { name: name.to_owned(), settings }
}

impl Route {
    /// The path, where it is not the route's name.
    pub fn path(self, path: &str) -> Self {
        self.yaml("path", path)
    }

    /// The topic, where it is not `t`.
    pub fn topic(self, topic: &str) -> Self {
        self.yaml("topic", topic)
    }

    /// How long a call waits for its task.
    pub fn wait(self, duration: &str) -> Self {
        self.yaml("wait", duration)
    }

    /// How much goes onto the queue; nothing where this is not called.
    pub fn percent(self, percent: u8) -> Self {
        if percent == 0 { self } else { self.yaml("rollout.percent", percent) }
    }

    /// Takes the place of the whole `rollout` section, as a gated rollout needs it.
    pub fn rollout(self, rollout: Value) -> Self {
        self.yaml("rollout", rollout)
    }

    /// Sets any other key by its path below the route.
    pub fn yaml(mut self, path: &str, value: impl Into<Value>) -> Self {
        self.settings.set(path, value);
        self
    }

    pub(super) fn into_parts(self) -> (String, Value) {
        (self.name, self.settings.into_value())
    }
}
