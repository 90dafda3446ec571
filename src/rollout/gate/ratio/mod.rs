//! Gates on a share of requests: failed, answered with a 4xx, deferred or slow; of copies, answered
//! differently.
//!
//! PASS judges the requests that have an outcome, FAIL all that were canaried: tasks that fail at
//! once end before tasks that succeed slowly, and counting open tasks as lost would roll back a
//! healthy canary in its first seconds. 4xx are the clients' fault and are in neither half of the
//! error ratio: such requests tell nothing about the path and would only dilute its failures.

mod conditions;
mod counts;
mod evaluate;
mod evaluation;
mod report;
mod scores;

pub(super) use self::evaluate::evaluate_ratio;
