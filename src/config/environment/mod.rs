//! What the environment adds to the file: references in values, and variables that override keys.

pub(crate) mod expand;
pub(crate) mod overrides;
