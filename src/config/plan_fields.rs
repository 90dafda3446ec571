//! The plan of a rollout as one text per config key, so that replicas of different builds can
//! compare their plans field by field.
//!
//! The texts are form 1, and two rules keep them comparable between builds. An encoding is never
//! edited: a changed encoding gets a new key, such as `steps.2`. A field that has its form-1
//! default is left out, and those defaults are the constants of this file, not the ones of
//! [`RolloutConfig::new`]: a build that lacks a field and a build where the field is unset agree.
//! Every struct is destructured without `..`, so a new config field does not compile until it has
//! an entry here.
//!
//! Encodings: weights in basis points, durations in nanoseconds, fractions as the bits of the
//! `f64` in hexadecimal, lists as JSON arrays of strings. Secrets, and the sticky-key values of
//! `pin` (which may be secrets), appear as truncated SHA-256 hashes only.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    BaselineMode, BreakerConfig, EmptyResultPolicy, GateConfig, GateFailureAction, GateKind,
    LatencyMeasure, MinSamples, NotificationConfig, NotificationTrigger, PinConfig,
    PrometheusConfig, PromotionWindow, RatioLimits, RolloutConfig, Secret, ShadowConfig,
    StepConfig, StickyKey, default_latency_gate,
};
use crate::cohort_hash::Weight;

/// The form of [`plan_fields`] and [`GatesDigest`] that this build writes.
const PLAN_FORM: u8 = 1;

/// The form-1 default of `steps`: 10, 25, 50 and 100 %.
const DEFAULT_STEPS: &str = concat!(
    r#"[["1000","baseline=live"],["2500","baseline=live"],"#,
    r#"["5000","baseline=live"],["10000","baseline=frozen"]]"#
);
/// The form-1 default of `gates`: `errors`, `client_errors` and `deferred`.
const DEFAULT_GATES: &str = concat!(
    r#"[["errors","error_ratio","max=3f847ae147ae147b","margin=3f747ae147ae147b"],"#,
    r#"["client_errors","client_error_ratio","margin=3f947ae147ae147b"],"#,
    r#"["deferred","deferred_ratio","max=3f847ae147ae147b"]]"#
);
/// The encoding of an empty list.
const EMPTY_LIST: &str = "[]";
/// The value of a field that has no default: no encoding is empty.
const NO_DEFAULT: &str = "";

/// The keys that [`RolloutConfig::gates_digest`] covers.
const GATES_DIGEST_KEYS: [&str; 5] =
    ["gates", "min_samples.async", "min_samples.sync", "maturity", "shadow.compare.ignore"];

/// A digest of the settings that a soak verifies: gates, `min_samples`, `maturity` and the parts
/// of an answer that shadow traffic ignores. Digests of different forms cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatesDigest {
    /// The form of the plan fields that were hashed.
    pub form: u8,
    /// XXH3-64 over the fields.
    pub hash: u64,
}

/// A plan as replicas exchange it: for each config key that differs from its form-1 default, the
/// hexadecimal XXH3-64 of its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanFieldHashes(pub BTreeMap<String, String>);

/// The entries of one plan, without those that have their default.
#[derive(Default)]
struct PlanFields(BTreeMap<&'static str, String>);

/// The plan's text for each config key below `rollout:` that does not have its form-1 default.
#[must_use]
pub fn plan_fields(rollout: &RolloutConfig) -> BTreeMap<&'static str, String> {
    let RolloutConfig {
        percent,
        steps,
        mode,
        salt,
        sticky_keys,
        pin,
        evaluation_interval,
        soak,
        min_samples,
        min_ended_ratio,
        max_step_wait,
        converge_timeout,
        failure_limit,
        success_streak,
        on_fail,
        gates,
        breaker,
        prometheus,
        promotion_windows,
        notifications,
        shadow,
    } = rollout;
    let mut fields = PlanFields::default();
    fields.add("percent", encode_weight(*percent), NO_DEFAULT);
    fields.add("steps", encode_list(steps.iter().map(encode_step)), DEFAULT_STEPS);
    fields.add("mode", mode.as_str().to_owned(), "gated");
    fields.add("salt", salt.clone(), NO_DEFAULT);
    fields.add(
        "sticky.keys",
        encode_texts(sticky_keys.iter().map(encode_sticky_key).collect()),
        EMPTY_LIST,
    );
    fields.add_pins(pin);
    fields.add("interval", encode_duration(*evaluation_interval), "30000000000");
    fields.add("soak", encode_duration(*soak), "1800000000000");
    fields.add_min_samples(*min_samples);
    fields.add("maturity", encode_number(*min_ended_ratio), "3fefae147ae147ae"); // 0.99
    fields.add("max_wait", encode_duration(*max_step_wait), "86400000000000");
    fields.add("converge", encode_duration(*converge_timeout), "120000000000");
    fields.add("failure_limit", failure_limit.to_string(), "2");
    fields.add("success_streak", success_streak.to_string(), "2");
    fields.add("on_fail", encode_failure_action(*on_fail).to_owned(), "rollback");
    fields.add_gates(gates);
    fields.add_breaker(*breaker);
    if let Some(prometheus) = prometheus {
        fields.add_prometheus(prometheus);
    }
    fields.add("windows", encode_list(promotion_windows.iter().map(encode_window)), EMPTY_LIST);
    fields.add("notify", encode_list(notifications.iter().map(encode_notification)), EMPTY_LIST);
    if let Some(shadow) = shadow {
        fields.add_shadow(shadow);
    }
    fields.0
}

// === impl RolloutConfig ===

impl RolloutConfig {
    /// A digest of the settings that a soak verifies; editing one of them restarts the soak.
    #[must_use]
    pub fn gates_digest(&self) -> GatesDigest {
        let fields = plan_fields(self);
        let mut text = String::new();
        for key in GATES_DIGEST_KEYS {
            if let Some(field) = fields.get(key) {
                text.extend([key, "=", field, "\n"]);
            }
        }
        GatesDigest { form: PLAN_FORM, hash: xxh3_64(text.as_bytes()) }
    }
}

// === impl PlanFieldHashes ===

impl PlanFieldHashes {
    /// The hashes of a plan's fields.
    #[must_use]
    pub fn new(rollout: &RolloutConfig) -> Self {
        let hash = |(key, text): (&str, String)| (key.to_owned(), hash_text(&text));
        Self(plan_fields(rollout).into_iter().map(hash).collect())
    }

    /// The keys whose hashes differ, or that only one of the two plans has, in order.
    #[must_use]
    pub fn differing_keys(&self, other: &Self) -> Vec<String> {
        let keys = self.0.keys().chain(other.0.keys());
        let mut differing: Vec<String> =
            keys.filter(|key| self.0.get(*key) != other.0.get(*key)).cloned().collect();
        differing.sort_unstable();
        differing.dedup();
        differing
    }

    /// One hexadecimal hash over all fields and their form.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut text = format!("{PLAN_FORM}\n");
        for (key, hash) in &self.0 {
            text.extend([key, "=", hash, "\n"]);
        }
        hash_text(&text)
    }
}

// === impl PlanFields ===

impl PlanFields {
    fn add(&mut self, key: &'static str, text: String, default: &str) {
        if text != default {
            self.0.insert(key, text);
        }
    }

    fn add_pins(&mut self, pin: &PinConfig) {
        let PinConfig { sync_key_values, async_key_values } = pin;
        let values = [("pin.sync", sync_key_values), ("pin.async", async_key_values)];
        for (key, values) in values {
            let hashes = values.iter().map(|value| hash_secret(key, value)).collect();
            self.add(key, encode_texts(hashes), EMPTY_LIST);
        }
    }

    fn add_min_samples(&mut self, samples: MinSamples) {
        let MinSamples { async_requests, sync_requests } = samples;
        self.add("min_samples.async", async_requests.to_string(), "300");
        self.add("min_samples.sync", sync_requests.to_string(), "300");
    }

    /// Form 1 is older than the default gate `latency`: after the other default gates it is left
    /// out, so that a build without it agrees. The same gates with and without it are one plan.
    fn add_gates(&mut self, gates: &[GateConfig]) {
        let latency = default_latency_gate(gates);
        let is_encoded =
            |gate: &&GateConfig| latency.is_none_or(|latency| !std::ptr::eq(latency, *gate));
        let text = encode_list(gates.iter().filter(is_encoded).map(encode_gate));
        self.add("gates", text, DEFAULT_GATES);
    }

    fn add_breaker(&mut self, breaker: BreakerConfig) {
        let BreakerConfig { window, min_requests, max_error_ratio } = breaker;
        self.add("breaker.window", encode_duration(window), "30000000000");
        self.add("breaker.min_requests", min_requests.to_string(), "20");
        let max_error_ratio = encode_number(max_error_ratio);
        self.add("breaker.max_error_ratio", max_error_ratio, "3fe0000000000000"); // 0.5
    }

    fn add_prometheus(&mut self, prometheus: &PrometheusConfig) {
        let PrometheusConfig { url, query_timeout, max_sample_age, unavailable_grace } = prometheus;
        self.add("prometheus.url", encode_secret("prometheus.url", url), NO_DEFAULT);
        self.add("prometheus.timeout", encode_duration(*query_timeout), "5000000000");
        self.add("prometheus.max_staleness", encode_duration(*max_sample_age), "60000000000");
        self.add("prometheus.grace", encode_duration(*unavailable_grace), "600000000000");
    }

    fn add_shadow(&mut self, shadow: &ShadowConfig) {
        let ShadowConfig { percent, side_effects_allowed, ignored_pointers, max_mismatch_ratio } =
            shadow;
        self.add("shadow.percent", encode_weight(*percent), NO_DEFAULT);
        let side_effects = if *side_effects_allowed { "allowed" } else { "refused" };
        self.add("shadow.side_effects", side_effects.to_owned(), "refused");
        let ignored = encode_texts(ignored_pointers.clone());
        self.add("shadow.compare.ignore", ignored, EMPTY_LIST);
        let max_mismatch = encode_number(*max_mismatch_ratio);
        self.add("shadow.max_mismatch", max_mismatch, "3f847ae147ae147b"); // 0.01
    }
}

// === encodings of form 1 ===

fn encode_step(step: &StepConfig) -> Vec<String> {
    let StepConfig { weight, soak, needs_approval, baseline } = step;
    let mut parts = vec![encode_weight(*weight)];
    parts.extend(soak.map(|soak| format!("soak={}", encode_duration(soak))));
    if *needs_approval {
        parts.push("approval=manual".to_owned());
    }
    let baseline = match baseline {
        BaselineMode::Live => "live",
        BaselineMode::Frozen => "frozen",
    };
    parts.push(format!("baseline={baseline}"));
    parts
}

fn encode_sticky_key(key: &StickyKey) -> String {
    match key {
        StickyKey::Header(name) => format!("header:{name}"),
        StickyKey::Cookie(name) => format!("cookie:{name}"),
    }
}

fn encode_failure_action(action: GateFailureAction) -> &'static str {
    match action {
        GateFailureAction::Rollback => "rollback",
        GateFailureAction::Pause => "pause",
    }
}

fn encode_gate(gate: &GateConfig) -> Vec<String> {
    let GateConfig { name, kind } = gate;
    let mut parts = vec![name.clone()];
    let mut add_type = |word: &str| parts.push(word.to_owned());
    match kind {
        GateKind::ErrorRatio(_) => add_type("error_ratio"),
        GateKind::ClientErrorRatio(_) => add_type("client_error_ratio"),
        GateKind::DeferredRatio(_) => add_type("deferred_ratio"),
        GateKind::SlowRatio { .. } | GateKind::SlowerThanSync(_) => add_type("slow_ratio"),
        GateKind::ShadowMismatch(_) => add_type("shadow_mismatch"),
        GateKind::QueueOldest { .. } => add_type("queue_oldest"),
        GateKind::QueueDepth { .. } => add_type("queue_depth"),
        GateKind::PrometheusQuery { .. } => add_type("prometheus"),
    }
    parts.extend(encode_gate_settings(kind));
    parts
}

fn encode_gate_settings(kind: &GateKind) -> Vec<String> {
    match kind {
        GateKind::ErrorRatio(limits)
        | GateKind::ClientErrorRatio(limits)
        | GateKind::DeferredRatio(limits)
        | GateKind::ShadowMismatch(limits) => encode_limits(limits),
        GateKind::SlowRatio { threshold, measure, limits } => {
            let mut parts = vec![format!("threshold={}", encode_duration(*threshold))];
            parts.extend(match measure {
                LatencyMeasure::EndToEnd => None,
                LatencyMeasure::Acknowledgement => Some("of=acknowledgement".to_owned()),
            });
            parts.extend(encode_limits(limits));
            parts
        }
        GateKind::SlowerThanSync(limits) => {
            let mut parts = vec!["threshold=sync_p95".to_owned()];
            parts.extend(encode_limits(limits));
            parts
        }
        GateKind::QueueOldest { max } => vec![format!("max={}", encode_duration(*max))],
        GateKind::QueueDepth { max } => vec![format!("max={max}")],
        GateKind::PrometheusQuery { query, min, max, on_empty_result } => {
            let mut parts = vec![format!("query={query}")];
            parts.extend(min.map(|min| format!("min={}", encode_number(min))));
            parts.extend(max.map(|max| format!("max={}", encode_number(max))));
            parts.extend(match on_empty_result {
                EmptyResultPolicy::Inconclusive => None,
                EmptyResultPolicy::Pass => Some("on_empty=pass".to_owned()),
            });
            parts
        }
    }
}

fn encode_limits(limits: &RatioLimits) -> Vec<String> {
    let RatioLimits { max, margin, tolerated_ratio, alpha } = limits;
    let (tolerated_ratio, alpha) = (encode_number(*tolerated_ratio), encode_number(*alpha));
    let mut parts = Vec::new();
    parts.extend(max.map(|max| format!("max={}", encode_number(max))));
    parts.extend(margin.map(|margin| format!("margin={}", encode_number(margin))));
    if tolerated_ratio != "3ff4000000000000" {
        parts.push(format!("tolerated_ratio={tolerated_ratio}")); // the default is 1.25
    }
    if alpha != "3f847ae147ae147b" {
        parts.push(format!("alpha={alpha}")); // the default is 0.01
    }
    parts
}

fn encode_window(window: &PromotionWindow) -> Vec<String> {
    let PromotionWindow { weekdays, minutes_of_day: (from, to), time_zone } = window;
    let days: String = weekdays.iter().map(ToString::to_string).collect();
    let zone = time_zone.iana_name().map_or_else(|| "unnamed".to_owned(), str::to_owned);
    vec![days, format!("{from}-{to}"), zone]
}

fn encode_notification(notification: &NotificationConfig) -> Vec<String> {
    let NotificationConfig { triggers, webhook_url } = notification;
    let mut words: Vec<&str> = triggers.iter().map(|trigger| encode_trigger(*trigger)).collect();
    words.sort_unstable();
    words.dedup();
    vec![words.join(","), encode_secret("notify.webhook", webhook_url)]
}

fn encode_trigger(trigger: NotificationTrigger) -> &'static str {
    match trigger {
        NotificationTrigger::StepCompleted => "step",
        NotificationTrigger::RolledBack => "rollback",
        NotificationTrigger::Paused => "paused",
        NotificationTrigger::TargetReached => "healthy",
    }
}

/// A secret by its source: the `${file:…}` text that it is read from, so that replicas whose
/// files rotate at different moments agree, or else its own text.
fn encode_secret(key: &str, secret: &Secret) -> String {
    match secret.file_template() {
        Some(template) => format!("file:{}", hash_secret(key, template)),
        None => format!("text:{}", hash_secret(key, secret.expose())),
    }
}

/// The first 8 bytes of SHA-256 over the key's name, a zero byte and the text, in hexadecimal.
fn hash_secret(key: &str, text: &str) -> String {
    let hash = Sha256::new().chain_update(key).chain_update([0]).chain_update(text).finalize();
    let first = hash.iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte));
    format!("{first:016x}")
}

fn hash_text(text: &str) -> String {
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

fn encode_weight(weight: Weight) -> String {
    weight.basis_points().to_string()
}

fn encode_duration(duration: Duration) -> String {
    duration.as_nanos().to_string()
}

fn encode_number(number: f64) -> String {
    format!("{:016x}", number.to_bits())
}

fn encode_texts(texts: Vec<String>) -> String {
    serde_json::Value::from(texts).to_string()
}

fn encode_list(items: impl Iterator<Item = Vec<String>>) -> String {
    serde_json::Value::from(items.collect::<Vec<_>>()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RolloutMode;

    fn gated_rollout() -> RolloutConfig {
        RolloutConfig::new("invoke", Weight::from_basis_points(5_000), RolloutMode::Gated)
    }

    fn prometheus_at(url: Secret) -> PrometheusConfig {
        PrometheusConfig {
            url,
            query_timeout: Duration::from_secs(5),
            max_sample_age: Duration::from_mins(1),
            unavailable_grace: Duration::from_mins(10),
        }
    }

    fn differing_keys(one: &RolloutConfig, other: &RolloutConfig) -> Vec<String> {
        PlanFieldHashes::new(one).differing_keys(&PlanFieldHashes::new(other))
    }

    /// When a default of [`RolloutConfig::new`] changes, this list grows by its key: the constants
    /// of form 1 stay as they are.
    #[test]
    fn a_plan_without_settings_has_only_the_fields_that_have_no_default() {
        let keys: Vec<&str> = plan_fields(&gated_rollout()).into_keys().collect();
        assert_eq!(keys, ["percent", "salt"]);
        let prometheus = RolloutConfig {
            prometheus: Some(prometheus_at(Secret::new("http://127.0.0.1:9090"))),
            ..gated_rollout()
        };
        assert_eq!(differing_keys(&gated_rollout(), &prometheus), ["prometheus.url"]);
    }

    /// Releases before the gate `latency` have the other three as their default: while both run,
    /// no replica is held as one with another file, and no soak begins again.
    #[test]
    fn the_default_latency_gate_makes_no_other_plan() {
        let mut before = gated_rollout();
        before.gates.retain(|gate| gate.name != "latency");
        assert_eq!((before.gates.len(), gated_rollout().gates.len()), (3, 4));
        assert_eq!(differing_keys(&before, &gated_rollout()), Vec::<String>::new());
        assert_eq!(before.gates_digest(), gated_rollout().gates_digest());
        let mut alone = gated_rollout();
        alone.gates.retain(|gate| gate.name == "latency");
        assert_eq!(differing_keys(&alone, &before), ["gates"]);
    }

    #[test]
    fn every_edited_setting_is_named() {
        let edited = RolloutConfig {
            soak: Duration::from_mins(31),
            steps: vec![StepConfig::new(Weight::FULL)],
            mode: RolloutMode::Manual,
            min_samples: MinSamples { async_requests: 300, sync_requests: 0 },
            ..gated_rollout()
        };
        let expected = ["min_samples.sync", "mode", "soak", "steps"];
        assert_eq!(differing_keys(&gated_rollout(), &edited), expected);
        assert_eq!(differing_keys(&edited, &gated_rollout()), expected);
    }

    #[test]
    fn a_changed_secret_url_is_a_different_plan() {
        let with_url = |url| RolloutConfig {
            prometheus: Some(prometheus_at(Secret::new(url))),
            ..gated_rollout()
        };
        let (one, other) = (with_url("http://u:p@a:9090"), with_url("http://u:q@a:9090"));
        assert_eq!(differing_keys(&one, &other), ["prometheus.url"]);
        let webhook = |url| {
            let webhook_url = Secret::new(url);
            let triggers = vec![NotificationTrigger::Paused];
            let notifications = vec![NotificationConfig { triggers, webhook_url }];
            RolloutConfig { notifications, ..gated_rollout() }
        };
        let (one, other) = (webhook("http://a/hook?token=1"), webhook("http://a/hook?token=2"));
        assert_eq!(differing_keys(&one, &other), ["notify"]);
    }

    #[test]
    fn a_secret_that_rotates_in_its_file_is_the_same_plan() {
        let read_from_file = |text: &str| {
            let mut secret = Secret::new(text);
            secret.set_file_template("http://u:${file:/run/token}@a:9090".to_owned());
            RolloutConfig { prometheus: Some(prometheus_at(secret)), ..gated_rollout() }
        };
        let (old, new) = (read_from_file("http://u:1@a:9090"), read_from_file("http://u:2@a:9090"));
        assert_eq!(differing_keys(&old, &new), Vec::<String>::new());
    }

    #[test]
    fn no_text_of_a_plan_shows_a_secret_or_a_pinned_client() {
        let mut rollout = gated_rollout();
        rollout.prometheus = Some(prometheus_at(Secret::new("http://user:hunter2@a:9090")));
        rollout.pin.async_key_values = vec!["hunter2".to_owned()];
        let texts: String = plan_fields(&rollout).into_values().collect();
        assert!(!texts.contains("hunter2"), "{texts}");
    }

    #[test]
    fn texts_with_separators_cannot_imitate_another_plan() {
        let keys = |names: &[&str]| {
            let cookies = names.iter().map(|name| StickyKey::Cookie((*name).to_owned()));
            RolloutConfig { sticky_keys: cookies.collect(), ..gated_rollout() }
        };
        let (one, other) = (keys(&["a", "b"]), keys(&["a\",\"cookie:b"]));
        assert_eq!(differing_keys(&one, &other), ["sticky.keys"]);
    }

    /// The numbers are those that a stored rollout keeps: a build that computes another digest of
    /// the same form restarts every soak.
    #[test]
    fn digests_are_the_same_in_every_build() {
        let rollout = gated_rollout();
        let stricter = RolloutConfig { min_ended_ratio: 1.0, ..gated_rollout() };
        let digests = [&rollout, &stricter].map(|rollout| {
            let GatesDigest { form, hash } = rollout.gates_digest();
            format!("{form} {hash:016x} {}", PlanFieldHashes::new(rollout).digest())
        });
        let expected =
            ["1 2d06800538d394c2 e6e4a8e3efc94961", "1 fba5b81054d468ae 1c80bc6a5672623d"];
        assert_eq!(digests, expected);
    }

    #[test]
    fn only_an_edit_of_what_a_soak_verifies_changes_the_gates_digest() {
        let rollout = gated_rollout();
        let unrelated = RolloutConfig { soak: Duration::ZERO, salt: "x".into(), ..gated_rollout() };
        assert_eq!(rollout.gates_digest(), unrelated.gates_digest());
        let mature = RolloutConfig { min_ended_ratio: 0.9, ..gated_rollout() };
        let mut gates = gated_rollout();
        gates.gates.remove(0);
        let mut samples = gated_rollout();
        samples.min_samples.sync_requests = 1;
        for edited in [mature, gates, samples] {
            assert_ne!(rollout.gates_digest(), edited.gates_digest());
        }
    }
}
