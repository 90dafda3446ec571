//! Queries to Prometheus for `prometheus` gates, and the names of the metrics that a query reads.

mod promql;
mod query;

pub use self::promql::extract_metric_names;
pub(super) use self::query::query_gates;
pub use self::query::{fetch_metric_names, query_prometheus};
