//! Tests of the section `rollout`: its values and defaults, and each problem and warning.

use crate::cohort_hash::Weight;
use crate::config::parse::tests::*;
use crate::config::{
    BaselineMode, EmptyResultPolicy, GateConfig, GateFailureAction, GateKind, LatencyMeasure,
    MinSamples, NotificationTrigger, PinConfig, RatioLimits, RolloutConfig, RolloutMode,
    ShadowConfig, StepConfig,
};

fn config_with_rollout(what: &str) -> String {
    config_with_route(&format!("rollout: {{{what}}}"))
}

fn config_with_gates(what: &str) -> String {
    config_with_rollout(&format!("gates: [{what}]"))
}

/// The rollout of a file without problems and warnings.
fn parse_valid_rollout(text: &str) -> RolloutConfig {
    let (config, problems, warnings) = parse_config_text(text);
    assert_eq!((problems, warnings), (vec![], vec![]), "{text}");
    config.routes[0].rollout.clone()
}

/// The first example of `docs/rollout-config.md`, which has every key.
fn documented_example() -> String {
    let page = include_str!("../../../../docs/rollout-config.md");
    let (_, rest) = page.split_once("```yaml\n").expect("an example");
    let (yaml, _) = rest.split_once("```").expect("its end");
    let indented: String = yaml.lines().flat_map(|line| ["    ", line, "\n"]).collect();
    config_with(&format!("routes:\n  r:\n    path: /r\n    topic: t\n{indented}"))
        .replace("handler: upstream", "handler: upstream, timeout: 30m")
}

#[test]
fn the_documented_example_is_read_whole() {
    let rollout = parse_valid_rollout(&documented_example());
    let weight = Weight::from_basis_points;
    let (hours, minutes, seconds) =
        (Duration::from_hours, Duration::from_mins, Duration::from_secs);
    assert_eq!(
        (rollout.percent, rollout.mode, rollout.salt.as_str()),
        (weight(1_000), RolloutMode::Gated, "invoke-2026")
    );
    assert_eq!(
        rollout.steps,
        [
            StepConfig::new(weight(1_000)),
            StepConfig { soak: Some(hours(2)), ..StepConfig::new(weight(2_500)) },
            StepConfig {
                soak: Some(hours(6)),
                needs_approval: true,
                ..StepConfig::new(weight(5_000))
            },
            StepConfig { baseline: BaselineMode::Frozen, ..StepConfig::new(weight(10_000)) },
        ]
    );
    assert_eq!(rollout.sticky_keys.len(), 2);
    assert_eq!(
        rollout.pin,
        PinConfig {
            sync_key_values: vec!["billing".into()],
            async_key_values: vec!["staging".into(), "qa".into()]
        }
    );
    assert_eq!(
        [
            rollout.evaluation_interval,
            rollout.soak,
            rollout.max_step_wait,
            rollout.converge_timeout
        ],
        [seconds(30), minutes(30), hours(24), minutes(2)]
    );
    assert_eq!(rollout.min_samples, MinSamples { async_requests: 300, sync_requests: 300 });
    assert_eq!(
        (rollout.failure_limit, rollout.success_streak, rollout.on_fail),
        (2, 2, GateFailureAction::Rollback)
    );
    let ratio = |max, margin| RatioLimits { max, margin, ..RatioLimits::default() };
    let gate = |name: &str, kind| GateConfig { name: name.into(), kind };
    assert_eq!(
        rollout.gates,
        [
            gate("errors", GateKind::ErrorRatio(ratio(Some(0.01), Some(0.005)))),
            gate("client_errors", GateKind::ClientErrorRatio(ratio(None, Some(0.02)))),
            gate("deferred", GateKind::DeferredRatio(ratio(Some(0.01), None))),
            gate("latency", GateKind::SlowerThanSync(RatioLimits::SYNC_P95)),
            gate(
                "e2e",
                GateKind::SlowRatio {
                    threshold: seconds(2),
                    measure: LatencyMeasure::EndToEnd,
                    limits: ratio(Some(0.05), Some(0.01))
                }
            ),
            gate("oldest", GateKind::QueueOldest { max: seconds(30) }),
            gate("depth", GateKind::QueueDepth { max: 1_000 }),
            gate(
                "lag",
                GateKind::PrometheusQuery {
                    query: "max(omnidaemon_queue_oldest_seconds)".into(),
                    min: None,
                    max: Some(30.0),
                    on_empty_result: EmptyResultPolicy::Inconclusive
                }
            ),
        ]
    );
    let prometheus = rollout.prometheus.expect("a section");
    assert_eq!(
        (prometheus.url.expose(), prometheus.unavailable_grace),
        ("http://127.0.0.1:9090", minutes(10))
    );
    assert_eq!(
        (
            rollout.promotion_windows[0].weekdays.as_slice(),
            rollout.promotion_windows[0].minutes_of_day
        ),
        (&[0, 1, 2, 3, 4][..], (540, 1020))
    );
    assert_eq!(
        rollout.notifications[0].triggers,
        [
            NotificationTrigger::Paused,
            NotificationTrigger::RolledBack,
            NotificationTrigger::StepCompleted,
            NotificationTrigger::TargetReached
        ]
    );
}

#[test]
fn a_rollout_with_only_a_percent_is_gated_with_the_default_gates() {
    let expected = RolloutConfig::new("r", Weight::from_basis_points(1_000), RolloutMode::Gated);
    assert_eq!(parse_valid_rollout(&config_with_rollout("percent: 10")), expected);
    assert_eq!(
        parse_valid_rollout(&config_with_rollout("percent: 10, steps: [10, 25, 50, 100]")).steps,
        expected.steps
    );
}

#[test]
fn the_same_file_gives_an_equal_plan() {
    assert_eq!(
        parse_valid_rollout(&documented_example()),
        parse_valid_rollout(&documented_example())
    );
    assert_ne!(
        parse_valid_rollout(&documented_example()),
        parse_valid_rollout(
            &documented_example().replace("tz: Europe/Berlin", "tz: Europe/Vienna")
        )
    );
}

#[test]
fn a_slow_ratio_may_be_held_against_the_p95_of_the_sync_path() {
    let gates = |limits: &str| {
        let gate = format!("gates: [{{type: slow_ratio, threshold: sync_p95{limits}}}]");
        parse_valid_rollout(&config_with_rollout(&gate)).gates[0].kind.clone()
    };
    assert_eq!(gates(""), GateKind::SlowerThanSync(RatioLimits::SYNC_P95));
    let wider = RatioLimits { margin: Some(0.1), ..RatioLimits::SYNC_P95 };
    assert_eq!(gates(", max: 5%, margin: 10%"), GateKind::SlowerThanSync(wider));
}

#[test]
fn gates_have_a_default_name_and_notifications_have_all_triggers() {
    let rollout = parse_valid_rollout(&config_with_rollout(
        "gates: [{type: queue_depth, max: 5}, {type: slow_ratio, threshold: 500ms, of: \
            acknowledgement, margin: 1%, alpha: 0.02}], \
         notify: [{webhook: 'https://user:canary@hooks.example.com/x?y'}]",
    ));
    let names: Vec<_> = rollout.gates.iter().map(|gate| gate.name.as_str()).collect();
    assert_eq!(
        (names, rollout.notifications[0].triggers.len()),
        (vec!["queue_depth", "slow_ratio"], 4)
    );
    assert!(!format!("{rollout:?}").contains("canary"));
}

#[test]
#[allow(clippy::too_many_lines)] // a table
fn an_invalid_rollout_is_refused_with_a_hint() {
    let ratio = "type: error_ratio, max: 1%";
    for (text, expected) in [
        (
            config_with_rollout("steps: [{weight: 25}, {weight: 10}]"),
            "rollout.steps: does not rise: 25 is followed by 10: write rising",
        ),
        (config_with_rollout("steps: [10, {weight: 0}]"), "rollout.steps: has a step of 0"),
        (config_with_rollout("steps: [{weight: 101}]"), "rollout.steps[0].weight: 101 is over 100"),
        (
            config_with_rollout("steps: [10, {soak: 1h}]"),
            "rollout.steps[1].weight: is missing: write the share that the step runs at",
        ),
        (
            config_with_rollout("steps: [{weight: 25, sok: 1h}]"),
            "rollout.steps[0].sok: is not a known key: did you mean `soak`?",
        ),
        (
            config_with_rollout("steps: [{weight: 25, approval: maybe}]"),
            "steps[0].approval: `maybe` is not a valid value",
        ),
        (config_with_rollout("soak: 30"), "rollout.soak: `30` has no unit: write `30s`"),
        (
            config_with_rollout("failure_limit: 0"),
            "rollout.failure_limit: 0 is below 1: write a whole number from 1 to 1000",
        ),
        (config_with_rollout("success_streak: 0"), "rollout.success_streak: 0 is below 1"),
        (config_with_rollout("maturity: 1"), "rollout.maturity: `1` has no `%`: write `1%`"),
        (config_with_rollout("min_samples: {async: 0}"), "rollout.min_samples.async: 0 is below 1"),
        (
            config_with_rollout("min_samples: 300"),
            "rollout.min_samples: is the value `300`, not a section",
        ),
        (
            config_with_rollout("pin: {async: [qa]}"),
            "rollout.pin: needs `sticky.keys`: pins are values of the sticky keys: write",
        ),
        (
            config_with_rollout(
                "sticky: {keys: [header:x]}, pin: {sync: [a, canary], async: [canary]}",
            ),
            "rollout.pin: has value number 2 of `sync` in `async` too: keep one of them",
        ),
        (
            config_with_gates(""),
            "rollout.gates: is empty: write at least one gate, or delete the line for the default \
                gates",
        ),
        (
            config_with_rollout("gates: {errors: 1%}"),
            "rollout.gates: is a section, not a list: write one `- {key: value}` line",
        ),
        (
            config_with_gates("errors"),
            "rollout.gates: has the value `errors`, not a section: write `{key: value}`",
        ),
        (
            config_with_gates("{name: x}"),
            "gates[0].type: is missing: write one of `error_ratio`, `client_error_ratio`,",
        ),
        (
            config_with_gates("{type: eror_ratio, max: 1%}"),
            "gates[0].type: `eror_ratio` is not a type of gates: did you mean `error_ratio`?",
        ),
        (
            config_with_gates("{type: error_ratio}"),
            "gates[0]: has neither `max` nor `margin`: write the highest share",
        ),
        (
            config_with_gates("{type: error_ratio, max: 5}"),
            "gates[0].max: `5` has no `%`: write `5%`",
        ),
        (
            config_with_gates("{type: error_ratio, max: 0%}"),
            "gates[0].max: `0%` is not over 0: write a share such as",
        ),
        (
            config_with_gates("{type: error_ratio, max: 1%, tolerated_ratio: 2}"),
            "gates[0].tolerated_ratio: 2 is over 1.9",
        ),
        (
            config_with_gates("{type: error_ratio, max: 1%, alpha: 50%}"),
            "gates[0].alpha: `50%` is too much",
        ),
        (
            config_with_gates("{type: error_ratio, maximum: 1%, margin: 1%}"),
            "gates[0].maximum: is not a known key",
        ),
        (
            config_with_gates("{type: error_ratio, max: 1%, threshold: 2s}"),
            "gates[0].threshold: is a key of `slow_ratio`, not of `error_ratio`: delete it, or \
                write another `type`",
        ),
        (
            config_with_gates("{type: deferred_ratio, max: 1%, margin: 1%}"),
            "gates[0].margin: is a key of `error_ratio`, `client_error_ratio`, `slow_ratio`, not \
                of `deferred_ratio`",
        ),
        (
            config_with_gates(&format!("{{{ratio}}}, {{{ratio}}}")),
            "gates[1].name: `error_ratio` is the name of an earlier gate",
        ),
        (config_with_gates(&format!("{{name: a b, {ratio}}}")), "gates[0].name: `a b` is no name"),
        (
            config_with_gates("{type: slow_ratio, threshold: 3s, max: 5%}"),
            "gates[0].threshold: `3s` is not a bound of the buckets in which durations are \
                counted: write `2s` or `5s`",
        ),
        (
            config_with_gates("{type: slow_ratio, threshold: 1ms, max: 5%}"),
            "are counted: write `5ms`",
        ),
        (
            config_with_gates("{type: slow_ratio, threshold: 2h, max: 5%}"),
            "are counted: write `1h`",
        ),
        (
            config_with_gates("{type: slow_ratio, max: 5%}"),
            "gates[0].threshold: is missing: write the duration above which a request is slow",
        ),
        (
            config_with_gates("{type: queue_oldest, max: 30}"),
            "gates[0].max: `30` has no unit: write `30s`",
        ),
        (
            config_with_gates("{type: queue_depth}"),
            "gates[0].max: is missing: write the most tasks that may wait",
        ),
        (
            config_with_gates("{name: lag, type: prometheus, query: up, max: 1}"),
            "rollout.prometheus: is missing, which the gate `lag` needs: write `prometheus: {url:",
        ),
        (
            config_with_rollout(
                "prometheus: {url: 'http://h'}, gates: [{type: prometheus, query: up}]",
            ),
            "gates[0]: has neither `min` nor `max`",
        ),
        (
            config_with_rollout(
                "prometheus: {url: 'http://h'}, gates: [{type: prometheus, query: up, min: 2, \
                    max: 1}]",
            ),
            "gates[0].min: 2 is over `max`, 1: no value passes",
        ),
        (
            config_with_rollout(
                "prometheus: {url: 'http://h'}, gates: [{type: prometheus, query: up, max: 30s}]",
            ),
            "gates[0].max: `30s` is not a number",
        ),
        (
            config_with_rollout("prometheus: {timeout: 5s}"),
            "rollout.prometheus.url: is missing: write its address",
        ),
        (
            config_with_rollout("prometheus: {url: '127.0.0.1:9090'}"),
            "rollout.prometheus.url: is not an http or https URL",
        ),
        (
            config_with_rollout("prometheus: {url: 'http://h/?canary'}"),
            "rollout.prometheus.url: has a query or fragment",
        ),
        (
            config_with_rollout("breaker: {max_error_ratio: 50}"),
            "rollout.breaker.max_error_ratio: `50` has no `%`: write `50%`",
        ),
        (
            config_with_rollout("windows: [{days: mon-fri}]"),
            "windows[0].tz: is missing: write the time zone of its hours",
        ),
        (config_with_rollout("windows: [{tz: UTC}]"), "windows[0]: has neither `days` nor `hours`"),
        (
            config_with_rollout("windows: [{days: [], tz: UTC}]"),
            "windows[0].days: is empty: the window would never open",
        ),
        (
            config_with_rollout("windows: [{days: weekdays, tz: UTC}]"),
            "windows[0].days: `weekdays` are no days: write `mon-fri`",
        ),
        (
            config_with_rollout("windows: [{hours: '09:00-09:00', tz: UTC}]"),
            "windows[0].hours: `09:00-09:00` never opens",
        ),
        (
            config_with_rollout("windows: [{days: sat, tz: Mars/Phobos}]"),
            "windows[0].tz: `Mars/Phobos` is not a time zone",
        ),
        (
            config_with_rollout("notify: [{on: [step]}]"),
            "notify[0].webhook: is missing: write the URL that notifications are posted to",
        ),
        (
            config_with_rollout("notify: [{webhook: 'ftp://canary'}]"),
            "notify[0].webhook: is not an http or https URL: write a URL",
        ),
        (
            config_with_rollout("notify: [{on: [], webhook: 'http://h'}]"),
            "notify[0].on: is empty: write some of",
        ),
        (
            config_with_rollout("notify: [{on: [stepp], webhook: 'http://h'}]"),
            "notify[0].on: `stepp` is not a valid value",
        ),
    ] {
        let (_, problems, _) = parse_config_text(&text);
        assert!(
            problems.len() == 1 && problems[0].contains(expected),
            "{text}\n{problems:?}\n{expected}"
        );
        assert!(!problems[0].contains("canary"), "{problems:?}");
    }
}

#[test]
fn likely_mistakes_of_a_plan_are_warnings_in_gated_mode_only() {
    for (more, what, expected) in [
        (
            "",
            "min_samples: {async: 100}",
            "rollout.min_samples: is too low for the gate `errors`: to show at most 1 % takes 268 \
                requests without a failure: write `async: 268`",
        ),
        (
            "",
            "gates: [{type: error_ratio, max: 0.1%}]",
            "rollout.min_samples: is too low for the gate `error_ratio`: to show at most 0.1 % \
                takes 2704 requests",
        ),
        ("", "interval: 1h", "rollout.interval: is longer than a soak of 30m: write a shorter one"),
        (
            "",
            "soak: 59m",
            "f:3:50: routes.r.rollout.soak: is shorter than the 1h that a task of `t` may take: \
                write 1h or more",
        ),
        (
            "retry_canaried: true, ",
            "steps: [10, {weight: 50, soak: 4h}]",
            "routes.r.rollout.steps[1].soak: is shorter than the 4h 35s that a task of `t` may \
                take",
        ),
        (
            "",
            "steps: [{weight: 100, baseline: live}]",
            "rollout.steps: leaves no sync path at 100 %, which the gate `client_errors` compares \
                with, as it has no `max`: write",
        ),
        (
            "wait: 0s, ",
            "percent: 10",
            "routes.r.wait: tells every client to poll, so that the gate `deferred` cannot pass",
        ),
        (
            "wait: 5s, ",
            "gates: [{name: ack, type: slow_ratio, of: acknowledgement, threshold: 10s, max: 5%}]",
            "routes.r.rollout.gates: `ack` always holds: no client waits longer for its answer \
                than `wait`, 5s",
        ),
    ] {
        let text = |mode: &str| config_with_route(&format!("{more}rollout: {{{what}{mode}}}"));
        let (_, problems, warnings) = parse_config_text(&text(""));
        assert!(
            problems.is_empty() && warnings.len() == 1 && warnings[0].contains(expected),
            "{problems:?} {warnings:?}"
        );
        assert_eq!(parse_config_text(&text(", mode: manual")).2, [""; 0], "{what}");
    }
    for fine in [
        "soak: 1h",
        "soak: 10s, interval: 1s, mode: manual",
        "min_samples: {async: 268, sync: 0}",
        "steps: [{weight: 100}], gates: [{type: error_ratio, margin: 1%}]",
    ] {
        parse_valid_rollout(&config_with_rollout(fine));
    }
    parse_valid_rollout(&config_with_route(
        "wait: 0s, on_wait_timeout: hold, rollout: {percent: 10}",
    ));
}

/// A file with shadow traffic: `route` has keys of the route, `shadow` those of its section, and
/// the handler of the topic is a program.
fn config_with_shadow(route: &str, shadow: &str) -> String {
    config_with_route(&format!("{route}rollout: {{shadow: {{{shadow}}}}}"))
        .replace("handler: upstream", "handler: {command: [/bin/cat]}")
}

#[test]
fn a_share_of_the_sync_path_is_copied_and_none_is_the_default() {
    assert_eq!(
        parse_valid_rollout(&config_with_rollout(
            "shadow: {percent: 0, compare: {ignore: [/timestamp]}}"
        ))
        .shadow,
        None
    );
    assert_eq!(
        parse_valid_rollout(&config_with_shadow("methods: [POST, GET], ", "side_effects: refused"))
            .shadow,
        None
    );
    let most = ShadowConfig {
        percent: Weight::FULL,
        side_effects_allowed: true,
        ignored_pointers: vec![],
        max_mismatch_ratio: 0.01,
    };
    assert_eq!(
        parse_valid_rollout(&config_with_shadow("", "percent: 100, side_effects: allowed"))
            .shadow
            .as_ref(),
        Some(&most)
    );
    let ignoring =
        "percent: 0.5%, side_effects: allowed, max_mismatch: 2%, compare: {ignore: [/a~1b/0, '/']}";
    let percent = Weight::from_basis_points(50);
    let expected = ShadowConfig {
        percent,
        ignored_pointers: vec!["/a~1b/0".into(), "/".into()],
        max_mismatch_ratio: 0.02,
        ..most
    };
    assert_eq!(parse_valid_rollout(&config_with_shadow("", ignoring)).shadow, Some(expected));
    let gated = parse_valid_rollout(&config_with_shadow(
        "",
        "percent: 5, side_effects: allowed, max_mismatch: 0.1%",
    ));
    let names: Vec<_> = gated.gates.iter().map(|gate| gate.name.as_str()).collect();
    assert_eq!(
        names,
        ["errors", "client_errors", "deferred", "latency", "shadow_mismatch"],
        "the gate of shadow traffic is the last one"
    );
    assert_eq!(
        gated.gates[4].kind,
        GateKind::ShadowMismatch(RatioLimits { max: Some(0.001), ..RatioLimits::default() })
    );
}

#[test]
fn shadow_traffic_that_would_do_harm_or_copy_nothing_is_refused_with_a_hint() {
    let upstream = config_with_rollout("shadow: {percent: 5, side_effects: allowed}");
    let post = config_with_shadow("", "percent: 5");
    for (text, expected) in [
        (
            upstream,
            "f:3:62: routes.r.rollout.shadow.percent: copies to `t`, whose handler is the \
                upstream: it would run them \
             twice: give the topic another handler, or write `percent: 0`",
        ),
        (
            post,
            "shadow.percent: runs a copy of POST requests, so that their side effects may happen \
                twice: write \
                `side_effects: allowed`",
        ),
        (
            config_with_shadow("methods: [GET, POST], ", "percent: 5, side_effects: refused"),
            "shadow.percent: runs a copy of POST requests",
        ),
        (
            config_with_shadow("methods: [GET], ", "percent: 5"),
            "shadow.percent: copies POST alone, and `methods` has none: add POST to it, or write \
                `percent: 0`",
        ),
        (
            config_with_shadow(
                "",
                "percent: 5, side_effects: allowed}, gates: [{name: shadow_mismatch, type: \
                    queue_depth, max: 1}], pin: {",
            ),
            "rollout.gates: has a gate `shadow_mismatch`: shadow traffic adds a gate of that \
                name: write another `name`",
        ),
        (config_with_rollout("shadow: {percent: 101}"), "shadow.percent: 101 is over 100"),
        (
            config_with_rollout("shadow: {side_effects: none}"),
            "shadow.side_effects: `none` is not a valid value",
        ),
        (config_with_rollout("shadow: {max_mismatch: 5}"), "shadow.max_mismatch: `5` has no `%`"),
        (
            config_with_rollout("shadow: {compare: {ignore: [timestamp]}}"),
            "shadow.compare.ignore: `timestamp` is no JSON pointer to a part of an answer: write \
                one such as `/timestamp`",
        ),
        (
            config_with_rollout("shadow: {compare: {ignore: ['']}}"),
            "compare.ignore: `` is no JSON pointer to a part",
        ),
        (
            config_with_rollout("shadow: {compare: {ignore: [/a, /b~2]}}"),
            "compare.ignore: `/b~2` has a `~` that is neither",
        ),
        (
            config_with_rollout("shadow: {compare: {ignore: [/a~]}}"),
            "compare.ignore: `/a~` has a `~` that is neither",
        ),
    ] {
        let (_, problems, _) = parse_config_text(&text);
        assert!(
            problems.len() == 1 && problems[0].contains(expected),
            "{text}\n{problems:?}\n{expected}"
        );
    }
}
