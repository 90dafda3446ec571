//! Parses the section `rollout` of a route. Gates are parsed in `gates.rs`, promotion windows in
//! `promotion_windows.rs`, shadow traffic in `shadow.rs`.
//!
//! This file checks what concerns the section alone; `check/rollout_plan.rs` and
//! `check/shadow.rs` compare it with the route and its topic.

use crate::cohort_hash::Weight;
use crate::config::parse::addresses::{parse_secret_url, parse_sticky_key};
use crate::config::parse::field_error::FieldError;
use crate::config::parse::gates::{parse_breaker, parse_gates, parse_prometheus};
use crate::config::parse::percent::parse_percent;
use crate::config::parse::promotion_windows::parse_windows;
use crate::config::parse::scalars::{
    count_between, duration_between, one_of_words, parse_text, share_up_to,
};
use crate::config::parse::section::ConfigSection;
use crate::config::parse::shadow::parse_shadow;
use crate::config::yaml::YamlValue;
use crate::config::{
    BaselineMode, GateConfig, GateFailureAction, GateKind, MinSamples, NotificationConfig,
    NotificationTrigger, PinConfig, RatioLimits, RolloutConfig, RolloutMode, SHADOW_MISMATCH_GATE,
    ShadowConfig, StepConfig, StickyKey, min_samples_to_certify,
};

const HOUR_SECS: u64 = 3600;
const DAY_SECS: u64 = 24 * HOUR_SECS;
/// The highest value of `min_samples`, far above the number of requests of any step.
const MAX_COUNT: u64 = 1_000_000_000;

/// Parses the section of the route that is named `route`.
pub(crate) fn parse_rollout(mut section: ConfigSection<'_>, route: &str) -> RolloutConfig {
    let modes = one_of_words(&[("gated", RolloutMode::Gated), ("manual", RolloutMode::Manual)]);
    let mode = section.read_or_default("mode", RolloutMode::Gated, modes);
    let default = RolloutConfig::new(route, parse_allowed_percent(&mut section), mode);
    let shadow = parse_shadow(section.subsection("shadow"));
    let rollout = RolloutConfig {
        steps: parse_steps(&mut section, default.steps),
        salt: section.read_or_default("salt", default.salt, parse_text),
        sticky_keys: parse_sticky_keys(&mut section),
        pin: parse_pins(section.subsection("pin")),
        evaluation_interval: section.read_or_default(
            "interval",
            default.evaluation_interval,
            duration_between(100, HOUR_SECS),
        ),
        soak: section.read_or_default("soak", default.soak, soak_duration()),
        min_samples: parse_min_samples(section.subsection("min_samples"), default.min_samples),
        min_ended_ratio: section.read_or_default(
            "maturity",
            default.min_ended_ratio,
            share_up_to(1.0),
        ),
        max_step_wait: section.read_or_default(
            "max_wait",
            default.max_step_wait,
            duration_between(1000, 365 * DAY_SECS),
        ),
        converge_timeout: section.read_or_default(
            "converge",
            default.converge_timeout,
            duration_between(1000, DAY_SECS),
        ),
        failure_limit: section.read_or_default(
            "failure_limit",
            default.failure_limit,
            count_between(1, 1000),
        ),
        success_streak: section.read_or_default(
            "success_streak",
            default.success_streak,
            count_between(1, 1000),
        ),
        on_fail: section.read_or_default(
            "on_fail",
            default.on_fail,
            one_of_words(&[
                ("rollback", GateFailureAction::Rollback),
                ("pause", GateFailureAction::Pause),
            ]),
        ),
        gates: parse_all_gates(&mut section, default.gates, shadow.as_ref()),
        breaker: parse_breaker(section.subsection("breaker"), default.breaker),
        prometheus: parse_prometheus(&mut section),
        promotion_windows: parse_windows(&mut section),
        notifications: parse_notifications(&mut section),
        shadow,
        ..default
    };
    check_rollout(&section, &rollout);
    if mode == RolloutMode::Gated {
        warn_about_gated_rollout(&section, &rollout);
    }
    rollout
}

fn parse_allowed_percent(rollout: &mut ConfigSection<'_>) -> Weight {
    let weight = rollout.read_or_default("percent", Weight::ZERO, parse_percent);
    if let Some(YamlValue::Text(written)) = rollout.find_node("percent").map(|node| &node.value)
        && (1..100).contains(&weight.basis_points())
        && !written.ends_with('%')
    {
        let hint = format!("write `{written}%` if that is intended, or {}", weight.basis_points());
        rollout.add_warning("percent", format!("{written} is less than one percent"), hint);
    }
    weight
}

fn parse_steps(rollout: &mut ConfigSection<'_>, default: Vec<StepConfig>) -> Vec<StepConfig> {
    const HINT: &str = "write rising weights, such as `[10, 25, 50, 100]`";
    let steps = rollout.read_mixed_list(
        "steps",
        default,
        |text| parse_percent(text).map(StepConfig::new),
        parse_step,
    );
    if steps.iter().any(|step| step.weight == Weight::ZERO) {
        rollout.add_problem("steps", "has a step of 0", HINT);
    } else if let Some(pair) = steps.windows(2).find(|pair| pair[0].weight >= pair[1].weight) {
        let (low, high) = (pair[0].weight.percent(), pair[1].weight.percent());
        rollout.add_problem("steps", format!("does not rise: {low} is followed by {high}"), HINT);
    }
    steps
}

fn parse_step(mut step: ConfigSection<'_>) -> Option<StepConfig> {
    let weight = step.read_required(
        "weight",
        "write the share that the step runs at, such as `weight: 25`",
        parse_percent,
    );
    let default = StepConfig::new(weight.unwrap_or_default());
    let step_config = StepConfig {
        soak: step.read_optional("soak", soak_duration()),
        needs_approval: step.read_or_default(
            "approval",
            false,
            one_of_words(&[("manual", true), ("auto", false)]),
        ),
        baseline: step.read_or_default(
            "baseline",
            default.baseline,
            one_of_words(&[("live", BaselineMode::Live), ("frozen", BaselineMode::Frozen)]),
        ),
        ..default
    };
    weight.map(|_| step_config)
}

fn soak_duration() -> impl Fn(&str) -> Result<std::time::Duration, FieldError> {
    duration_between(0, 90 * DAY_SECS)
}

fn parse_sticky_keys(rollout: &mut ConfigSection<'_>) -> Vec<StickyKey> {
    if let Some(YamlValue::List(_) | YamlValue::Text(_)) =
        rollout.find_node("sticky").map(|node| &node.value)
    {
        let hint = "write `sticky: {keys: [header:x-client-id]}`";
        rollout.add_problem("sticky", "is not a section with `keys`", hint);
        return Vec::new();
    }
    let mut sticky = rollout.subsection("sticky");
    sticky.read_or_default("fallback", (), one_of_words(&[("random", ())]));
    sticky.read_list("keys", Vec::new(), parse_sticky_key)
}

fn parse_pins(mut pin: ConfigSection<'_>) -> PinConfig {
    PinConfig {
        sync_key_values: pin.read_list("sync", Vec::new(), parse_text),
        async_key_values: pin.read_list("async", Vec::new(), parse_text),
    }
}

fn parse_min_samples(mut samples: ConfigSection<'_>, default: MinSamples) -> MinSamples {
    MinSamples {
        async_requests: samples.read_or_default(
            "async",
            default.async_requests,
            count_between(1, MAX_COUNT),
        ),
        sync_requests: samples.read_or_default(
            "sync",
            default.sync_requests,
            count_between(0, MAX_COUNT),
        ),
    }
}

/// The gates of the file, or the default ones, followed by the gate of shadow traffic if there is
/// shadow traffic.
fn parse_all_gates(
    rollout: &mut ConfigSection<'_>,
    default: Vec<GateConfig>,
    shadow: Option<&ShadowConfig>,
) -> Vec<GateConfig> {
    let mut all = parse_gates(rollout).unwrap_or(default);
    if let Some(shadow) = shadow {
        if all.iter().any(|gate| gate.name == SHADOW_MISMATCH_GATE) {
            let message = format!(
                "has a gate `{SHADOW_MISMATCH_GATE}`: shadow traffic adds a gate of that name"
            );
            rollout.add_problem(
                "gates",
                message,
                "write another `name`, and its limit as `shadow.max_mismatch`",
            );
        }
        let limits = RatioLimits { max: Some(shadow.max_mismatch_ratio), ..RatioLimits::default() };
        all.push(GateConfig {
            name: SHADOW_MISMATCH_GATE.to_owned(),
            kind: GateKind::ShadowMismatch(limits),
        });
    }
    all
}

fn parse_notifications(rollout: &mut ConfigSection<'_>) -> Vec<NotificationConfig> {
    const WORDS: [(&str, NotificationTrigger); 4] = [
        ("step", NotificationTrigger::StepCompleted),
        ("rollback", NotificationTrigger::RolledBack),
        ("paused", NotificationTrigger::Paused),
        ("healthy", NotificationTrigger::TargetReached),
    ];
    let parse_one = |mut notify: ConfigSection<'_>| {
        let all = WORDS.map(|(_, trigger)| trigger).to_vec();
        let triggers = notify.read_list("on", all, one_of_words(&WORDS));
        if notify.is_empty_list("on") {
            let hint = "write some of `step`, `rollback`, `paused` and `healthy`, or delete the \
                line for all";
            notify.add_problem("on", "is empty", hint);
        }
        let hint = "write the URL that notifications are posted to";
        let webhook = notify.read_required("webhook", hint, parse_secret_url);
        webhook.map(|webhook_url| NotificationConfig { triggers, webhook_url })
    };
    rollout.read_sections("notify").into_iter().filter_map(parse_one).collect()
}

/// Reports pins without sticky keys, values that are pinned to both paths, and Prometheus gates
/// without a server.
fn check_rollout(section: &ConfigSection<'_>, rollout: &RolloutConfig) {
    let PinConfig { sync_key_values: sync, async_key_values: asynchronous } = &rollout.pin;
    if rollout.sticky_keys.is_empty() && !(sync.is_empty() && asynchronous.is_empty()) {
        let hint = "write a sticky key, such as `sticky: {keys: [header:x-client-id]}`";
        section.add_problem("pin", "needs `sticky.keys`: pins are values of the sticky keys", hint);
    }
    // A pinned value may be a secret, so the message has its position instead.
    if let Some(at) = sync.iter().position(|key| asynchronous.contains(key)) {
        let message = format!("has value number {} of `sync` in `async` too", at + 1);
        section.add_problem("pin", message, "keep one of them");
    }
    let query_gate =
        rollout.gates.iter().find(|gate| matches!(gate.kind, GateKind::PrometheusQuery { .. }));
    if let Some(gate) = query_gate.filter(|_| !section.has_key("prometheus")) {
        let message = format!("is missing, which the gate `{}` needs", gate.name);
        section.add_problem(
            "prometheus",
            message,
            "write `prometheus: {url: http://127.0.0.1:9090}`",
        );
    }
}

/// Warns of settings of a gated rollout that are valid but probably mistakes.
fn warn_about_gated_rollout(section: &ConfigSection<'_>, rollout: &RolloutConfig) {
    // `min_samples` does not count shadow traffic, so it does not concern the shadow gate.
    let sampled_gates =
        rollout.gates.iter().rev().filter(|gate| !matches!(gate.kind, GateKind::ShadowMismatch(_)));
    let with_max = sampled_gates.filter_map(|gate| Some((gate, gate.kind.ratio_limits()?.max?)));
    let strictest = with_max
        .map(|(gate, max)| (min_samples_to_certify(max), &gate.name, max))
        .max_by_key(|(needed, ..)| *needed);
    if let Some((needed, gate, max)) =
        strictest.filter(|(needed, ..)| *needed > rollout.min_samples.async_requests)
    {
        let max = (max * 1e6).round() / 1e4;
        let message = format!(
            "is too low for the gate `{gate}`: to show at most {max} % takes {needed} requests \
                without a failure"
        );
        section.add_warning(
            "min_samples",
            message,
            format!("write `async: {needed}` or more, as the gate waits for them"),
        );
    }
    let soaks = rollout.steps.iter().filter_map(|step| step.soak).chain([rollout.soak]);
    if let Some(soak) = soaks.min().filter(|soak| *soak < rollout.evaluation_interval) {
        let message = format!("is longer than a soak of {}", humantime::format_duration(soak));
        section.add_warning(
            "interval",
            message,
            "write a shorter one: a step can only end at an evaluation",
        );
    }
    let has_margin_only =
        |gate: &&GateConfig| gate.kind.ratio_limits().is_some_and(|limits| limits.max.is_none());
    let is_full_step_live =
        rollout.step_at(Weight::FULL).is_some_and(|step| step.baseline == BaselineMode::Live);
    if let Some(gate) = rollout.gates.iter().find(has_margin_only).filter(|_| is_full_step_live) {
        let message = format!(
            "leaves no sync path at 100 %, which the gate `{}` compares with, as it has no `max`",
            gate.name
        );
        section.add_warning(
            "steps",
            message,
            "write `{weight: 100, baseline: frozen}`, or give the gate a `max`",
        );
    }
}
