//! The shape of the sources, read off them: floors and inner modules, no import circles, and plain
//! words in names.

mod circles;
mod floors;
mod names;
pub(crate) mod source_tree;
mod words;
