//! How a rollout's state is written down: JSON with a schema version; N reads N−1.

use serde::{Deserialize, Serialize};

use crate::cohort::Weight;
use crate::rollout::State;
use crate::store::StoreError;
use crate::task::UnixMs;

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u8,
    weight_bp: u16,
    changed_ms: u64,
    reason: String,
}

/// The state as text.
pub(super) fn write(state: &State) -> String {
    let stored = Stored {
        v: VERSION,
        weight_bp: state.weight.basis_points(),
        changed_ms: state.changed.0,
        reason: state.reason.clone(),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// The state of a text.
pub(super) fn read(text: &str) -> Result<State, StoreError> {
    let stored: Stored = serde_json::from_str(text).map_err(|error| StoreError::Malformed(error.to_string()))?;
    if stored.v > VERSION {
        return Err(StoreError::Malformed(format!("rollout state of schema version {}", stored.v)));
    }
    Ok(State {
        weight: Weight::from_basis_points(stored.weight_bp),
        changed: UnixMs(stored.changed_ms),
        reason: stored.reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_read_back_and_a_later_schema_is_refused() {
        let state = State { weight: Weight::FULL, changed: UnixMs(7), reason: "x".into() };
        assert_eq!(read(&write(&state)), Ok(state.clone()));
        assert!(read(&write(&state).replace("\"v\":1", "\"v\":2")).is_err());
    }
}
