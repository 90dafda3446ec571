//! `rollout:` of a route, gates and windows aside (`gates.rs`, `windows.rs`). What it has to do with the route and its
//! topic is looked at in `plan.rs`.

use super::addresses::{secret_url, sticky_key};
use super::gates::{breaker, gates, prometheus};
use super::section::Section;
use super::shadow::shadow;
use super::values::{Wrong, count, duration, percent, share, text, word};
use super::windows::windows;
use crate::cohort::Weight;
use crate::config::yaml::Value;
use crate::config::{
    Baseline, Gate, GateKind, Limits, MinSamples, Notice, Notify, OnFail, Pin, Rollout, RolloutMode, SHADOW_MISMATCH,
    Shadow, Step, StickyKey, samples_to_certify,
};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// More requests, or gates in a row, than anybody waits for.
const MANY: u64 = 1_000_000_000;

/// Reads the section of the route with that name.
pub(super) fn rollout(mut section: Section<'_>, route: &str) -> Rollout {
    let modes = word(&[("gated", RolloutMode::Gated), ("manual", RolloutMode::Manual)]);
    let mode = section.read("mode", RolloutMode::Gated, modes);
    let default = Rollout::new(route, allowed(&mut section), mode);
    let shadow = shadow(section.section("shadow"));
    let rollout = Rollout {
        steps: steps(&mut section, default.steps),
        salt: section.read("salt", default.salt, text),
        sticky: sticky(&mut section),
        pin: pin(section.section("pin")),
        interval: section.read("interval", default.interval, duration(100, HOUR)),
        soak: section.read("soak", default.soak, soak()),
        min_samples: min_samples(section.section("min_samples"), default.min_samples),
        maturity: section.read("maturity", default.maturity, share(1.0)),
        max_wait: section.read("max_wait", default.max_wait, duration(1000, 365 * DAY)),
        converge: section.read("converge", default.converge, duration(1000, DAY)),
        failure_limit: section.read("failure_limit", default.failure_limit, count(1, 1000)),
        success_streak: section.read("success_streak", default.success_streak, count(1, 1000)),
        on_fail: section.read(
            "on_fail",
            default.on_fail,
            word(&[("rollback", OnFail::Rollback), ("pause", OnFail::Pause)]),
        ),
        gates: all_gates(&mut section, default.gates, shadow.as_ref()),
        breaker: breaker(section.section("breaker"), default.breaker),
        prometheus: prometheus(&mut section),
        windows: windows(&mut section),
        notify: notify(&mut section),
        shadow,
        ..default
    };
    check(&section, &rollout);
    if mode == RolloutMode::Gated {
        warn(&section, &rollout);
    }
    rollout
}

fn allowed(rollout: &mut Section<'_>) -> Weight {
    let weight = rollout.read("percent", Weight::ZERO, percent);
    if let Some(Value::Text(written)) = rollout.node("percent").map(|node| &node.value)
        && (1..100).contains(&weight.basis_points())
        && !written.ends_with('%')
    {
        let hint = format!("write `{written}%` where it is meant so, or {}", weight.basis_points());
        rollout.warning("percent", format!("{written} is less than one percent"), hint);
    }
    weight
}

fn steps(rollout: &mut Section<'_>, default: Vec<Step>) -> Vec<Step> {
    const HINT: &str = "write rising weights, such as `[10, 25, 50, 100]`";
    let steps = rollout.mixed("steps", default, |text| percent(text).map(Step::new), step);
    if steps.iter().any(|step| step.weight == Weight::ZERO) {
        rollout.problem("steps", "has a step of 0", HINT);
    } else if let Some(pair) = steps.windows(2).find(|pair| pair[0].weight >= pair[1].weight) {
        let (low, high) = (pair[0].weight.percent(), pair[1].weight.percent());
        rollout.problem("steps", format!("does not rise: {low} is followed by {high}"), HINT);
    }
    steps
}

fn step(mut step: Section<'_>) -> Option<Step> {
    let weight = step.require("weight", "write the share that the step runs at, such as `weight: 25`", percent);
    let default = Step::new(weight.unwrap_or_default());
    let read = Step {
        soak: step.optional("soak", soak()),
        approval: step.read("approval", false, word(&[("manual", true), ("auto", false)])),
        baseline: step.read(
            "baseline",
            default.baseline,
            word(&[("live", Baseline::Live), ("frozen", Baseline::Frozen)]),
        ),
        ..default
    };
    weight.map(|_| read)
}

fn soak() -> impl Fn(&str) -> Result<std::time::Duration, Wrong> {
    duration(0, 90 * DAY)
}

fn sticky(rollout: &mut Section<'_>) -> Vec<StickyKey> {
    if let Some(Value::List(_) | Value::Text(_)) = rollout.node("sticky").map(|node| &node.value) {
        let hint = "write `sticky: {keys: [header:x-client-id]}`";
        rollout.problem("sticky", "is not a section with `keys`", hint);
        return Vec::new();
    }
    let mut sticky = rollout.section("sticky");
    sticky.read("fallback", (), word(&[("random", ())]));
    sticky.list("keys", Vec::new(), sticky_key)
}

fn pin(mut pin: Section<'_>) -> Pin {
    Pin { sync: pin.list("sync", Vec::new(), text), asynchronous: pin.list("async", Vec::new(), text) }
}

fn min_samples(mut samples: Section<'_>, default: MinSamples) -> MinSamples {
    MinSamples {
        asynchronous: samples.read("async", default.asynchronous, count(1, MANY)),
        sync: samples.read("sync", default.sync, count(0, MANY)),
    }
}

/// Those of the file or the default ones, and after them that of shadow traffic.
fn all_gates(rollout: &mut Section<'_>, default: Vec<Gate>, shadow: Option<&Shadow>) -> Vec<Gate> {
    let mut all = gates(rollout).unwrap_or(default);
    if let Some(shadow) = shadow {
        if all.iter().any(|gate| gate.name == SHADOW_MISMATCH) {
            let message = format!("has a gate `{SHADOW_MISMATCH}`: one of that name stands there by itself");
            rollout.problem("gates", message, "write another `name`, and its limit as `shadow.max_mismatch`");
        }
        let limits = Limits { max: Some(shadow.max_mismatch), ..Limits::default() };
        all.push(Gate { name: SHADOW_MISMATCH.to_owned(), kind: GateKind::ShadowMismatch(limits) });
    }
    all
}

fn notify(rollout: &mut Section<'_>) -> Vec<Notify> {
    const WORDS: [(&str, Notice); 4] = [
        ("step", Notice::Step),
        ("rollback", Notice::Rollback),
        ("paused", Notice::Paused),
        ("healthy", Notice::Healthy),
    ];
    let one = |mut notify: Section<'_>| {
        let on = notify.list("on", WORDS.map(|(_, notice)| notice).to_vec(), word(&WORDS));
        if notify.is_empty("on") {
            let hint = "write some of `step`, `rollback`, `paused` and `healthy`, or delete the line for all";
            notify.problem("on", "is empty", hint);
        }
        let webhook = notify.require("webhook", "write the URL that is told", secret_url);
        webhook.map(|webhook| Notify { on, webhook })
    };
    rollout.sections("notify").into_iter().filter_map(one).collect()
}

/// What cannot be.
fn check(section: &Section<'_>, rollout: &Rollout) {
    let Pin { sync, asynchronous } = &rollout.pin;
    if rollout.sticky.is_empty() && !(sync.is_empty() && asynchronous.is_empty()) {
        let hint = "write what tells clients apart, such as `sticky: {keys: [header:x-client-id]}`";
        section.problem("pin", "has nothing to go by: pins are values of the sticky keys", hint);
    }
    // A key may be a secret: it is not shown.
    if let Some(at) = sync.iter().position(|key| asynchronous.contains(key)) {
        let message = format!("has number {} of `sync` also in `async`", at + 1);
        section.problem("pin", message, "keep one of them");
    }
    let asks = rollout.gates.iter().find(|gate| matches!(gate.kind, GateKind::Prometheus { .. }));
    if let Some(gate) = asks.filter(|_| !section.has("prometheus")) {
        let message = format!("is missing, which the gate `{}` needs", gate.name);
        section.problem("prometheus", message, "write `prometheus: {url: http://127.0.0.1:9090}`");
    }
}

/// What is odd in a plan that is climbed.
fn warn(section: &Section<'_>, rollout: &Rollout) {
    let counted = rollout.gates.iter().rev().filter(|gate| !matches!(gate.kind, GateKind::ShadowMismatch(_)));
    let strictest = counted.filter_map(|gate| Some((gate, gate.kind.limits()?.max?)));
    let needed = strictest.map(|(gate, max)| (samples_to_certify(max), &gate.name, max)).max_by_key(|most| most.0);
    if let Some((needed, gate, max)) = needed.filter(|most| most.0 > rollout.min_samples.asynchronous) {
        let max = (max * 1e6).round() / 1e4;
        let message = format!("cannot show `{gate}`, at most {max} %: without a single failure that takes {needed}");
        section.warning("min_samples", message, format!("write `async: {needed}` or more, as the gate waits for them"));
    }
    let soaks = rollout.steps.iter().filter_map(|step| step.soak).chain([rollout.soak]);
    if let Some(soak) = soaks.min().filter(|soak| *soak < rollout.interval) {
        let message = format!("is longer than a soak of {}", humantime::format_duration(soak));
        section.warning("interval", message, "write a shorter one: a step ends at a look, and not between two");
    }
    let compared = |gate: &&Gate| gate.kind.limits().is_some_and(|limits| limits.max.is_none());
    let live = rollout.step_at(Weight::FULL).is_some_and(|step| step.baseline == Baseline::Live);
    if let Some(gate) = rollout.gates.iter().find(compared).filter(|_| live) {
        let message = format!("leaves no sync path at 100 %, and the gate `{}` has only a margin over it", gate.name);
        section.warning("steps", message, "write `{weight: 100, baseline: frozen}`, or give the gate a `max`");
    }
}
