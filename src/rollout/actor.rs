//! Who changed a rollout: the controller, an edit of the configuration file, or an operator.

use std::fmt;

/// The names of the two actors that are no operators; no operator may use them.
pub const RESERVED_ACTOR_NAMES: [&str; 2] = [CONTROLLER_NAME, CONFIG_FILE_NAME];

const CONTROLLER_NAME: &str = "controller";
const CONFIG_FILE_NAME: &str = "file";

/// Who changed a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The rollout controller, on evidence or on time.
    Controller,
    /// An edit of the configuration file.
    ConfigFile,
    /// An operator, by the name that their command gave.
    Operator(String),
}

// === impl Actor ===

impl Actor {
    /// The name in the history, the API and notifications: `controller`, `file`, or the operator's.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Controller => CONTROLLER_NAME,
            Self::ConfigFile => CONFIG_FILE_NAME,
            Self::Operator(name) => name,
        }
    }

    /// The stored word for the kind of actor: `controller`, `file` or `operator`.
    #[must_use]
    pub fn kind_code(&self) -> &'static str {
        match self {
            Self::Controller => CONTROLLER_NAME,
            Self::ConfigFile => CONFIG_FILE_NAME,
            Self::Operator(_) => "operator",
        }
    }

    /// The actor of a record: by its kind where the record has one (`kind_code`), else by its name,
    /// since records of earlier releases have the name alone.
    #[must_use]
    pub fn from_record(kind: Option<&str>, name: &str) -> Self {
        match kind.unwrap_or(name) {
            CONTROLLER_NAME => Self::Controller,
            CONFIG_FILE_NAME => Self::ConfigFile,
            _ => Self::Operator(name.to_owned()),
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_named_controller_is_not_the_controller() {
        let read = Actor::from_record;
        assert_eq!(read(Some("operator"), "controller"), Actor::Operator("controller".into()));
        assert_eq!(read(None, "controller"), Actor::Controller);
        assert_eq!(read(None, "file"), Actor::ConfigFile);
        assert_eq!(read(None, "ann"), Actor::Operator("ann".into()));
        for actor in [Actor::Controller, Actor::ConfigFile, Actor::Operator("ann".into())] {
            assert_eq!(read(Some(actor.kind_code()), actor.name()), actor);
        }
    }
}
