//! Tests of whole files: the configuration that comes of one, and the message of every check.

pub(crate) mod rollout;

use std::time::Duration;

use crate::config::parse::*;
use crate::config::{
    ContentForm, DeprecationMode, EnvVars, GroupStartPosition, HandlerConfig, StickyKey, yaml,
};
use crate::task::Topic;

fn parse_config_text(text: &str) -> (Config, Vec<String>, Vec<String>) {
    let mut report = ConfigDiagnostics::default();
    let mut root =
        yaml::parse_document(text.as_bytes(), &mut report.problems).expect("readable YAML");
    crate::config::environment::expand::expand_references(
        &mut root,
        &EnvVars::new(),
        &mut report.problems,
    );
    let config = parse_config(&root, &mut report);
    report.sort_by_position();
    let lines = |list: Vec<crate::config::ConfigProblem>| {
        list.iter().map(|problem| problem.render_line("f")).collect()
    };
    (config, lines(report.problems), lines(report.warnings))
}

/// A valid file with the lines `more` added.
fn config_with(more: &str) -> String {
    format!(
        "upstream: {{url: 'http://127.0.0.1:9000'}}\ntopics: {{t: {{handler: upstream}}}}\n{more}\n"
    )
}

fn config_with_route(more: &str) -> String {
    config_with(&format!("routes: {{r: {{path: /r, topic: t, {more}}}}}"))
}

#[test]
fn the_design_as_written_loads() {
    let (config, problems, warnings) = parse_config_text(
        "
proxy:     {listen: 127.0.0.1:8000, threads: 0, max_body: 8MiB, task_path: /task, trusted: [], \
drain: 30s, drain_delay: 0s, expose: [metrics]}
admin:     {listen: 127.0.0.1:8001, token: ${OMNIDAEMON_ADMIN_TOKEN:-}, hosts: []}
upstream:  {url: http://127.0.0.1:9000, connect_timeout: 5s, timeout: none}   # or urls: [...]; \
timeout is to the first byte
store:     {url: ${REDIS_URL:-sqlite:data/omnidaemon.db}, timeout: 1s, durability: default, \
partitions: 1}
           # redis:// rediss:// redis+sentinel:// redis+cluster:// sqlite:
routes:
  invoke:
    path: /invoke                       # also /invoke/async; {segment} patterns; methods: [POST]
    topic: genesis.meta.orchestrate
    wait: 10s
    on_wait_timeout: accepted
    capture: {drop_headers: []}
    rollout:
      percent: 10                       # the share you allow: edit, save, and traffic moves
      steps: [10, 25, 50, 100]          # phases on the way to it; each is gated
      mode: gated                       # gated | manual (jump to percent at once)
    deprecation: {mode: none, deprecated_at: 2026-12-01T00:00:00Z, sunset_at: 2027-06-01T00:00:00Z,
                  successor: /invoke/async, link: /docs/deprecation, permanent: false}   # none | \
                  announce | redirect | gone
topics:
  genesis.meta.orchestrate: {handler: upstream, timeout: 1h, retries: 3, retry_delay: 5s, agent: \
  omnidaemon, content: string, max_backlog: 100000, reclaim_idle: 3m, start: beginning}
  genesis.build: {handler: {http: http://127.0.0.1:9000/build}, timeout: 10m}
  genesis.qa:    {handler: {command: [python3, examples/qa_agent.py]}, timeout: 15m}
  genesis.research: {handler: external}   # Python OmniDaemon agents consume it
workers:   {count: 5, concurrency: none, drain: 10s}
results:   {ttl: 24h, max_result: 8MiB}
",
    );
    assert_eq!(problems, [""; 0]);
    let external = "f:24:31: topics.genesis.research.handler: is left to other consumers";
    assert!(warnings.len() == 1 && warnings[0].starts_with(external), "{warnings:?}");
    let handlers: Vec<_> = config.topics.values().map(|topic| topic.handler.clone()).collect();
    assert_eq!(
        handlers,
        [
            HandlerConfig::Http("http://127.0.0.1:9000/build".into()),
            HandlerConfig::Upstream,
            HandlerConfig::Command(vec!["python3".into(), "examples/qa_agent.py".into()]),
            HandlerConfig::External,
        ]
    );
    // What is left out of a file that says only the necessary is what this one says.
    let (short, problems, _) = parse_config_text(
        "
upstream: {urls: ['http://127.0.0.1:9000']}
routes: {invoke: {path: /invoke, topic: genesis.meta.orchestrate, rollout: {percent: 10}}}
topics: {genesis.meta.orchestrate: {handler: upstream}}
",
    );
    assert_eq!(problems, [""; 0]);
    let mut expected = Config { topics: short.topics.clone(), ..config.clone() };
    expected.routes[0].deprecation = short.routes[0].deprecation.clone();
    assert_eq!(short, expected);
    let topic = Topic::parse("genesis.meta.orchestrate").expect("a topic");
    assert_eq!(short.topics[&topic], config.topics[&topic]);
}

#[test]
fn a_pure_proxy_needs_only_its_upstream() {
    let (config, problems, _) = parse_config_text("upstream: {url: 'https://api.example.com'}");
    assert_eq!((problems, config.routes.len(), config.topics.len()), (vec![], 0, 0));
    for empty in ["routes:", "topics: ~", "routes: {}", "proxy:"] {
        assert_eq!(
            parse_config_text(
                &config_with(empty).replace("topics: {t: {handler: upstream}}\n", "")
            )
            .1,
            [""; 0],
            "{empty}"
        );
    }
}

#[test]
fn the_less_common_keys_are_read() {
    let (config, problems, warnings) = parse_config_text(&config_with_route(
        "methods: [put, POST], on_wait_timeout: hold, on_unknown: refuse, retry_canaried: true, \
         rollout: {percent: 0.5%, steps: [5, 12.5], salt: s, sticky: {keys: [header:X-Client-Id, \
         cookie:sid], \
         fallback: random}}, deprecation: {mode: off}",
    ));
    assert_eq!((problems, warnings), (vec![], vec![]));
    let route = &config.routes[0];
    let client = StickyKey::Header(http::HeaderName::from_static("x-client-id"));
    assert_eq!(route.rollout.sticky_keys, [client, StickyKey::Cookie("sid".into())]);
    assert_eq!((route.rollout.percent.basis_points(), route.rollout.salt.as_str()), (50, "s"));
    assert_eq!(
        (route.methods.len(), route.retry_canaried, route.deprecation.mode),
        (2, true, DeprecationMode::None)
    );
    for none in ["none", "off", "false", "'off'"] {
        assert_eq!(
            parse_config_text(&config_with_route(&format!("deprecation: {{mode: {none}}}"))).1,
            [""; 0],
            "{none}"
        );
    }
    let (config, problems, _) = parse_config_text(
        "
upstream: {urls: ['http://a:1', 'http://b:2'], timeout: 30s}
proxy: {cors: {origins: ['https://app.example.com']}, expose: [], trusted: [10.0.0.0/8, '::1']}
topics: {t: {handler: external, content: object, agent: mine, start: new}}
store: {url: 'redis://h', durability: default}
",
    );
    assert_eq!(problems, [""; 0]);
    assert_eq!(
        (config.upstream.urls.len(), config.upstream.timeout),
        (2, Some(Duration::from_secs(30)))
    );
    assert_eq!((config.proxy.cors_origins.len(), config.proxy.trusted_networks.len()), (1, 2));
    assert!(
        !config.proxy.expose_metrics
            && config.topics.values().all(|topic| topic.content_form == ContentForm::Object)
    );
    assert!(
        config.topics.values().all(|topic| topic.group_start == GroupStartPosition::NewEntries)
    );
}

#[test]
fn a_file_with_many_mistakes_reports_them_all_at_once() {
    let (_, problems, _) = parse_config_text(
        "proxy:
  lissten: 127.0.0.1:8000
  drain: 15
upstream:
  url: 127.0.0.1:9000
routes:
  invoke:
    path: invoke
    topic: genesis.bild
    wait: 10s
    wait: 20s
    rollout:
      percent: 110
      mode: gatet
topics:
  genesis.build:
    handler: {command: []}
workers:
  count: five
",
    );
    assert_eq!(
        problems,
        [
            "f:2:3: proxy.lissten: is not a known key: did you mean `listen`?",
            "f:3:10: proxy.drain: `15` has no unit: write `15s`",
            "f:5:8: upstream.url: `127.0.0.1:9000` is not an http or https URL: write scheme, \
                host and port, such as \
             `http://127.0.0.1:9000`",
            "f:8:11: routes.invoke.path: `invoke` does not begin with a slash: write a path such \
                as `/invoke` or \
             `/agents/{agent}/invoke`",
            "f:9:12: routes.invoke.topic: `genesis.bild` is not under `topics`: did you mean \
                `genesis.build`?",
            "f:11:5: routes.invoke.wait: is set twice, in line 10 and in line 11: keep one of them",
            "f:13:16: routes.invoke.rollout.percent: 110 is over 100: write a number from 0 to \
                100, to the hundredth",
            "f:14:13: routes.invoke.rollout.mode: `gatet` is not a valid value: did \
                you mean `gated`?",
            "f:17:24: topics.genesis.build.handler.command: names no program: write it with its \
                arguments, such as \
             `[python3, agent.py]`",
            "f:19:10: workers.count: `five` is not a whole number in range: write a whole number \
                from 0 to 1024",
        ]
    );
}

#[test]
#[allow(clippy::too_many_lines)] // a table
fn every_check_says_what_is_wrong_and_what_to_write() {
    let deprecation = |what: &str| config_with_route(&format!("deprecation: {{{what}}}"));
    let rollout = |what: &str| config_with_route(&format!("rollout: {{{what}}}"));
    let cases = [
        (
            config_with("workers: {count: '${NONE}'}"),
            "f:3:18: workers.count: NONE is not set: set it, or write",
        ),
        ("upstream: {url: '${NONE}'}".into(), "f:1:17: upstream.url: NONE is not set"),
        (String::new(), "f: upstream.url: is missing: write the legacy endpoint's server"),
        (
            "upstream: {url: 'http://a', urls: ['http://b']}".into(),
            "upstream.urls: is set beside `url`: keep one",
        ),
        ("upstream: {urls: []}".into(), "f:1:18: upstream.urls: is empty: write the legacy"),
        ("upstream: {url: 'http://u:p@a'}".into(), "upstream.url: has user info"),
        (
            "upstream: {url: 'http://localhost:8000'}".into(),
            "http://localhost:8000 is the proxy itself, which listens on",
        ),
        (
            "upstream: {url: 'http://0.0.0.0:8001'}".into(),
            "http://0.0.0.0:8001 is the admin port, which listens on",
        ),
        (
            "upstream: {url: 'http://[::1]:8000'}\nproxy: {listen: '[::]:8000'}".into(),
            "is the proxy itself",
        ),
        (
            config_with("admin: {listen: 0.0.0.0:8001}"),
            "f:3:17: admin.listen: 0.0.0.0:8001 is not loopback, and there is no token",
        ),
        (
            config_with("admin: {listen: 127.0.0.1:8000}"),
            "admin.listen: 127.0.0.1:8000 is also taken by proxy.listen",
        ),
        (
            config_with("admin: {token: 'a b'}"),
            "admin.token: has characters that a header cannot carry",
        ),
        (
            config_with("admin: {read_token: a}"),
            "admin.read_token: allows less than `admin.token`, but `admin.token` is absent",
        ),
        (
            config_with("admin: {token: a, read_token: a}"),
            "admin.read_token: allows less than `admin.token`, but",
        ),
        (config_with("store: {url: 'sqlite:'}"), "store.url: names no SQLite file"),
        (config_with("store: {url: 'redis://h:x'}"), "store.url: is a malformed Redis URL"),
        (
            config_with("store: {partitions: 2}"),
            "store.partitions: only a Redis Cluster has several: write `partitions: 1`",
        ),
        (config_with("store: {durability: sync}"), "store.durability: `sync`"),
        (
            config_with("proxy: {task_path: /metrics}"),
            "proxy.task_path: is where metrics are served",
        ),
        (config_with("topics: {}"), "topics: is set twice, in line 2 and in line 3"),
        (config_with("'': {}"), "f:3:1: is not a known key"),
        (
            config_with("routes: {r: {path: /r}}"),
            "f:3:10: routes.r.topic: is missing: write one of the names under `topics`",
        ),
        (
            config_with("routes: {a b: {path: /r, topic: t}}"),
            "f:3:10: routes.a b: `a b` is no name",
        ),
        (
            config_with("routes: {r: {path: /task/x, topic: t}}"),
            "routes.r.path: is below /task, where tasks are read",
        ),
        (
            config_with("routes: {r: {path: /metrics, topic: t}}"),
            "routes.r.path: is where metrics are served",
        ),
        (
            config_with("routes: {a: {path: '/r/{x}', topic: t}, b: {path: '/r/{y}', topic: t}}"),
            "f:3:51: routes.b.path: POST `/r/{y}` is already answered by `a`",
        ),
        (
            config_with("routes: {a: {path: /r, topic: t}, b: {path: /r/async, topic: t}}"),
            "b.path: is where `a` takes tasks",
        ),
        (
            config_with("routes: {a: {path: /r/async, topic: t}, b: {path: /r, topic: t}}"),
            "b.path: would take tasks on the path of `a`",
        ),
        (config_with_route("methods: []"), "routes.r.methods: is empty: write `[POST]`"),
        (
            config_with_route("methods: [OPTIONS]"),
            "routes.r.methods: `OPTIONS` is not a method of routes",
        ),
        (
            config_with_route("capture: {drop_headers: [a b]}"),
            "drop_headers: `a b` is not a header's name",
        ),
        (rollout("steps: [50, 25]"), "rollout.steps: does not rise: 50 is followed by 25"),
        (rollout("steps: [0, 25]"), "rollout.steps: has a step of 0"),
        (rollout("steps: [25, 101]"), "rollout.steps: 101 is over 100"),
        (rollout("percent: "), "rollout.percent: is empty: write a number from 0 to 100"),
        (
            rollout("sticky: {keys: [x-client-id]}"),
            "sticky.keys: `x-client-id` is not a sticky key: write `header:",
        ),
        (
            rollout("sticky: [header:x-client-id]"),
            "rollout.sticky: is not a section with `keys`: write `sticky: {keys: \
                [header:x-client-id]}`",
        ),
        (rollout("sticky: {fallback: sync}"), "sticky.fallback: `sync` is not a valid value"),
        (
            deprecation("mode: redirect"),
            "deprecation.successor: is missing, which `mode: redirect` needs",
        ),
        (
            deprecation("mode: redirect, successor: /r"),
            "successor: is the route's own path: a redirect would never end",
        ),
        (
            deprecation(r#"successor: "/a\r\nx: y""#),
            r"successor: `/a\r\nx: y` has characters that a header cannot carry",
        ),
        (deprecation("deprecated_at: 2027-06-01"), "deprecated_at: `2027-06-01` is not a time"),
        (
            deprecation("deprecated_at: 2027-06-01T00:00:00Z, sunset_at: 2027-05-01T00:00:00Z"),
            "sunset_at: is before deprecated_at, 2027-06-01T00:00:00Z",
        ),
        (
            "upstream: {url: 'http://a'}\ntopics: {t: {}}".into(),
            "f:2:10: topics.t.handler: is missing: write `upstream`",
        ),
        (
            "upstream: {url: 'http://a'}\ntopics: {a b: {handler: external}}".into(),
            "topics.a b: `a b` is no topic",
        ),
        (
            "upstream: {url: 'http://a'}\ntopics: {t: {handler: shell}}".into(),
            "handler: `shell` is not a handler",
        ),
        (
            "upstream: {url: 'http://a'}\ntopics: {t: {handler: {}}}".into(),
            "handler: names no handler",
        ),
        (
            "upstream: {url: 'http://a'}\ntopics: {t: {handler: {http: x}}}".into(),
            "handler.http: `x` is not an http",
        ),
        (
            "upstream: {url: 'http://a'}\ntopics: {t: {handler: {command: python3 x.py}}}".into(),
            "handler.command: is the value `python3 x.py`, not a list: write `[python3, x.py]`",
        ),
        (
            "upstream: {url: 'http://a'}\ntopics: {t: {handler: {command: [x], http: 'http://h'}}}"
                .into(),
            "handler: has both `http` and `command`",
        ),
    ];
    for (text, expected) in cases {
        let (_, problems, _) = parse_config_text(&text);
        assert!(
            problems.len() == 1 && problems[0].contains(expected),
            "{text}\n{problems:?}\n{expected}"
        );
    }
}

#[test]
fn unusual_but_valid_settings_are_warnings() {
    for (text, expected) in [
        (
            config_with_route("rollout: {percent: 0.1}"),
            "rollout.percent: 0.1 is less than one percent: write `0.1%` if that is intended, or \
                10",
        ),
        (
            config_with_route("deprecation: {mode: announce}"),
            "deprecation.mode: announces neither the deprecation date nor the sunset date",
        ),
        (
            config_with("workers: {drain: 27s}"),
            "proxy.drain: is shorter than workers.drain and the 4s in which tasks are given \
                back, 31s",
        ),
    ] {
        let (_, problems, warnings) = parse_config_text(&text);
        assert!(
            problems.is_empty() && warnings.len() == 1 && warnings[0].contains(expected),
            "{problems:?} {warnings:?}"
        );
    }
}
