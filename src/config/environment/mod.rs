//! What the environment adds to the file: `${…}` references in values (`expand.rs`), and variables
//! that override keys (`overrides.rs`).

pub(crate) mod expand;
pub(crate) mod overrides;
