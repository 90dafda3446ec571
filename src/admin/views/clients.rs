//! `rollouts/{route}/clients` of the API: the callers of a deprecated route.

use serde::{Deserialize, Serialize};

use crate::store::DeprecatedCaller;

/// `GET rollouts/{route}/clients`: the callers of a deprecated route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientsDocument {
    /// The route.
    pub route: String,
    /// The callers, the latest first.
    pub clients: Vec<ClientDocument>,
}

/// A caller of a deprecated route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientDocument {
    /// Its name: from a header of its requests, a digest of its key, or its agent and address.
    pub client: String,
    /// How often it called.
    pub calls: u64,
    /// When it last called, RFC 3339.
    pub last_call: Option<String>,
    /// The same, milliseconds since the Unix epoch.
    pub last_call_ms: u64,
}

impl From<&DeprecatedCaller> for ClientDocument {
    fn from(caller: &DeprecatedCaller) -> Self {
        Self {
            client: caller.name.clone(),
            calls: caller.call_count,
            last_call: caller.last_called_at.to_rfc3339(),
            last_call_ms: caller.last_called_at.0,
        }
    }
}
