//! The sections whose keys are fixed: `proxy`, `admin`, `upstream`, `store`, `workers`, `results` and `webhooks`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::addresses::{
    cidr, host, listen, origin, own_path, store as store_url, upstream as upstream_url, webhook_host,
};
use super::section::Section;
use super::values::{count, duration, duration_or_none, size, token, word};
use crate::config::{Admin, Durability, Proxy, Results, Store, StoreUrl, Upstream, Webhooks, Workers};

const HOUR: u64 = 3600;
const YEAR: u64 = 366 * 24 * HOUR;
/// What Redis keeps in one value.
const LARGEST: usize = 512 << 20;

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(super) fn proxy(mut proxy: Section<'_>) -> Proxy {
    Proxy {
        listen: proxy.read("listen", loopback(8000), listen),
        threads: proxy.read("threads", 0, count(0, 1024)),
        max_body: proxy.read("max_body", 8 << 20, size(1, LARGEST)),
        task_path: proxy.read("task_path", "/task".into(), own_path),
        trusted: proxy.list("trusted", Vec::new(), cidr),
        drain: proxy.read("drain", Duration::from_secs(15), duration(0, HOUR)),
        drain_delay: proxy.read("drain_delay", Duration::ZERO, duration(0, HOUR)),
        expose_metrics: !proxy.list("expose", vec![()], word(&[("metrics", ())])).is_empty(),
        cors_origins: proxy.section("cors").list("origins", Vec::new(), origin),
        public_url: proxy.optional("public_url", upstream_url),
    }
}

pub(super) fn admin(mut admin: Section<'_>) -> Admin {
    Admin {
        listen: admin.read("listen", loopback(8001), listen),
        token: admin.read("token", None, token),
        read_token: admin.read("read_token", None, token),
        hosts: admin.list("hosts", Vec::new(), host),
    }
}

pub(super) fn upstream(mut upstream: Section<'_>) -> Upstream {
    let one = upstream.node("url").is_some();
    let several = upstream.node("urls").is_some();
    let mut urls = upstream.list("urls", Vec::new(), upstream_url);
    urls.extend(upstream.optional("url", upstream_url));
    let hint = "write the legacy endpoint's server, such as `url: http://127.0.0.1:9000`";
    match (one, several) {
        (true, true) => upstream.problem("urls", "is set beside `url`", "keep one of them"),
        (false, false) => upstream.problem("url", "is missing", hint),
        (false, true) if upstream.is_empty("urls") => upstream.problem("urls", "is empty", hint),
        _ => {}
    }
    Upstream {
        urls,
        connect_timeout: upstream.read("connect_timeout", Duration::from_secs(5), duration(1, HOUR)),
        timeout: upstream.read("timeout", None, duration_or_none(1, 24 * HOUR)),
    }
}

pub(super) fn store(mut store: Section<'_>) -> Store {
    Store {
        url: store.read("url", StoreUrl::Sqlite(PathBuf::from("data/omnidaemon.db")), store_url),
        timeout: store.read("timeout", Duration::from_secs(1), duration(10, 60)),
        durability: store.read(
            "durability",
            Durability::Default,
            word(&[("default", Durability::Default), ("wait", Durability::Wait)]),
        ),
        partitions: store.read("partitions", 1, count(1, 256)),
    }
}

pub(super) fn workers(mut workers: Section<'_>) -> Workers {
    Workers {
        count: workers.read("count", 5, count(0, 1024)),
        concurrency: workers.read("concurrency", 1, count(1, 1024)),
        drain: workers.read("drain", Duration::from_secs(10), duration(0, HOUR)),
    }
}

pub(super) fn results(mut results: Section<'_>) -> Results {
    Results {
        ttl: results.read("ttl", Duration::from_hours(24), duration(1000, YEAR)),
        max_result: results.read("max_result", 8 << 20, size(1, LARGEST)),
    }
}

pub(super) fn webhooks(mut webhooks: Section<'_>) -> Webhooks {
    let default = Webhooks::default();
    Webhooks {
        hosts: webhooks.list("hosts", default.hosts, webhook_host),
        timeout: webhooks.read("timeout", default.timeout, duration(10, HOUR)),
        retries: webhooks.read("retries", default.retries, count(0, 100)),
        secret: webhooks.read("secret", default.secret, token),
    }
}
