mod capacity;
mod climb;
mod edits;
mod failures;
mod fixture;
mod latency;
mod random_walks;
mod sample_ratio;
