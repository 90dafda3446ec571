mod climb;
mod edits;
mod failures;
mod fixture;
mod random_walks;
