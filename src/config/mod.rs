//! The configuration: the file format, its checks and the types that the rest of the program reads.
//!
//! `load.rs` runs the stages: text → tree with line numbers (`yaml/`) → variables and overrides
//! (`environment/`) → [`Config`] (`parse/`, then `check/`). Every stage adds to one list of
//! problems, so that all mistakes of a file are reported at once, each with line, field and what to
//! write instead. A loaded [`Config`] is complete: defaults are filled in, and a field is an
//! `Option` only where the setting may be absent. Key names and defaults are documented in
//! `config/omnidaemon.yaml`. `watch.rs` notices edits of the file, and `plan_fields.rs` compares
//! rollout plans between replicas.

pub(crate) mod check;
mod diagnostics;
pub(crate) mod environment;
mod load;
pub(crate) mod model;
mod parse;
mod plan_fields;
mod watch;
mod yaml;

use std::collections::BTreeMap;

pub use self::load::{
    LoadedConfig, find_restart_only_changes, load_file, load_for_upstream, render_init_file,
};
pub use self::plan_fields::{GatesDigest, PlanFieldHashes, plan_fields};
pub use self::watch::watch_for_changes;
pub use crate::config::check::self_upstream::find_self_upstreams;
pub use crate::config::diagnostics::{ConfigProblem, ConfigProblems};
pub use crate::config::environment::expand::EnvVars;
pub use crate::config::model::gate_type::GateType;
pub use crate::config::model::network::Cidr;
pub use crate::config::model::promotion_window::{
    PromotionWindow, is_promotion_allowed, next_promotion_opening,
};
pub use crate::config::model::rollout::{
    BaselineMode, BreakerConfig, EmptyResultPolicy, GateConfig, GateFailureAction, GateKind,
    LatencyMeasure, MinSamples, NotificationConfig, NotificationTrigger, PinConfig,
    PrometheusConfig, RatioLimits, RolloutConfig, RolloutMode, SHADOW_MISMATCH_GATE, StepConfig,
    StickyKey, default_gates, default_latency_gate, min_samples_to_certify,
};
pub use crate::config::model::route::{
    DeprecationConfig, DeprecationMode, PathPattern, RouteConfig, SaturationAction,
    UnknownEnqueueAction, WaitTimeoutAction,
};
pub use crate::config::model::secret::Secret;
pub use crate::config::model::servers::{AdminConfig, ProxyConfig, UpstreamConfig, UpstreamUrl};
pub use crate::config::model::shadow::ShadowConfig;
pub use crate::config::model::store::{StoreConfig, StoreDurability, StoreUrl};
pub use crate::config::model::task_duration::max_task_duration;
pub use crate::config::model::topic::{
    ContentForm, GroupStartPosition, HandlerConfig, TopicConfig,
};
pub use crate::config::model::webhooks::{AllowedWebhookHost, WebhooksConfig, is_public_address};
pub use crate::config::model::workers::{ResultsConfig, WorkersConfig};
pub(crate) use crate::config::parse::command_check::check_program;
use crate::task::Topic;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The data plane: the port that clients call.
    pub proxy: ProxyConfig,
    /// The admin plane: health, metrics and API.
    pub admin: AdminConfig,
    /// The servers of the legacy endpoint.
    pub upstream: UpstreamConfig,
    /// The store that keeps tasks and rollout state.
    pub store: StoreConfig,
    /// Routes in the order of the file; the first match wins.
    pub routes: Vec<RouteConfig>,
    /// Topics by name.
    pub topics: BTreeMap<Topic, TopicConfig>,
    /// The workers inside `serve`, and the defaults of `omnidaemon worker`.
    pub workers: WorkersConfig,
    /// How long results are kept, and how large they may be.
    pub results: ResultsConfig,
    /// The hosts that a task's end may be posted to.
    pub webhooks: WebhooksConfig,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_store_urls_are_masked() {
        let url = StoreUrl::Redis(Secret::new("redis://u:p@ss@h:6379/0"));
        assert_eq!(format!("{url} {url:?}"), "redis://***@h:6379/0 redis://***@h:6379/0");
    }

    #[test]
    fn networks_contain_their_addresses_and_no_others() {
        let ten = Cidr { network_address: "10.0.0.0".parse().expect("ip"), prefix_length: 8 };
        assert!(
            ten.contains("10.9.9.9".parse().expect("ip"))
                && ten.contains("::ffff:10.1.1.1".parse().expect("ip"))
        );
        assert!(
            !ten.contains("11.0.0.1".parse().expect("ip"))
                && !ten.contains("::1".parse().expect("ip"))
        );
        assert!(
            Cidr { network_address: "0.0.0.0".parse().expect("ip"), prefix_length: 0 }
                .contains("1.2.3.4".parse().expect("ip"))
        );
    }
}
