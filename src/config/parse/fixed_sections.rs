//! Parses the sections with fixed keys: `proxy`, `admin`, `upstream`, `store`, `workers`,
//! `results` and `webhooks`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::parse::addresses::{
    parse_cidr, parse_cors_origin, parse_host, parse_listen_address, parse_store_url as store_url,
    parse_task_path, parse_upstream_url as upstream_url, parse_webhook_host,
};
use crate::config::parse::scalars::{
    count_between, count_or_none, duration_between, duration_or_none, one_of_words, parse_token,
    size_between,
};
use crate::config::parse::section::ConfigSection;
use crate::config::{
    AdminConfig, ProxyConfig, ResultsConfig, StoreConfig, StoreDurability, StoreUrl,
    UpstreamConfig, WebhooksConfig, WorkersConfig,
};

const HOUR_SECS: u64 = 3600;
const YEAR_SECS: u64 = 366 * 24 * HOUR_SECS;
/// The largest value of a Redis key.
const MAX_REDIS_VALUE_BYTES: usize = 512 << 20;

fn loopback_address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(crate) fn parse_proxy(mut proxy: ConfigSection<'_>) -> ProxyConfig {
    ProxyConfig {
        listen: proxy.read_or_default("listen", loopback_address(8000), parse_listen_address),
        threads: proxy.read_or_default("threads", 0, count_between(0, 1024)),
        max_body_bytes: proxy.read_or_default(
            "max_body",
            8 << 20,
            size_between(1, MAX_REDIS_VALUE_BYTES),
        ),
        task_path: proxy.read_or_default("task_path", "/task".into(), parse_task_path),
        trusted_networks: proxy.read_list("trusted", Vec::new(), parse_cidr),
        drain_timeout: proxy.read_or_default(
            "drain",
            Duration::from_secs(30),
            duration_between(0, HOUR_SECS),
        ),
        drain_delay: proxy.read_or_default(
            "drain_delay",
            Duration::ZERO,
            duration_between(0, HOUR_SECS),
        ),
        expose_metrics: !proxy
            .read_list("expose", vec![()], one_of_words(&[("metrics", ())]))
            .is_empty(),
        cors_origins: proxy.subsection("cors").read_list("origins", Vec::new(), parse_cors_origin),
        public_url: proxy.read_optional("public_url", upstream_url),
    }
}

pub(crate) fn parse_admin(mut admin: ConfigSection<'_>) -> AdminConfig {
    AdminConfig {
        listen: admin.read_or_default("listen", loopback_address(8001), parse_listen_address),
        token: admin.read_or_default("token", None, parse_token),
        read_token: admin.read_or_default("read_token", None, parse_token),
        allowed_hosts: admin.read_list("hosts", Vec::new(), parse_host),
    }
}

pub(crate) fn parse_upstream(mut upstream: ConfigSection<'_>) -> UpstreamConfig {
    let one = upstream.find_node("url").is_some();
    let several = upstream.find_node("urls").is_some();
    let mut urls = upstream.read_list("urls", Vec::new(), upstream_url);
    urls.extend(upstream.read_optional("url", upstream_url));
    let hint = "write the legacy endpoint's server, such as `url: http://127.0.0.1:9000`";
    match (one, several) {
        (true, true) => upstream.add_problem("urls", "is set beside `url`", "keep one of them"),
        (false, false) => upstream.add_problem("url", "is missing", hint),
        (false, true) if upstream.is_empty_list("urls") => {
            upstream.add_problem("urls", "is empty", hint);
        }
        _ => {}
    }
    UpstreamConfig {
        urls,
        connect_timeout: upstream.read_or_default(
            "connect_timeout",
            Duration::from_secs(5),
            duration_between(1, HOUR_SECS),
        ),
        timeout: upstream.read_or_default("timeout", None, duration_or_none(1, 24 * HOUR_SECS)),
    }
}

pub(crate) fn parse_store(mut store: ConfigSection<'_>) -> StoreConfig {
    StoreConfig {
        url: store.read_or_default(
            "url",
            StoreUrl::Sqlite(PathBuf::from("data/omnidaemon.db")),
            store_url,
        ),
        timeout: store.read_or_default("timeout", Duration::from_secs(1), duration_between(10, 60)),
        durability: store.read_or_default(
            "durability",
            StoreDurability::Default,
            one_of_words(&[
                ("default", StoreDurability::Default),
                ("wait", StoreDurability::WaitForReplica),
            ]),
        ),
        partitions: store.read_or_default("partitions", 1, count_between(1, 256)),
    }
}

pub(crate) fn parse_workers(mut workers: ConfigSection<'_>) -> WorkersConfig {
    WorkersConfig {
        count: workers.read_or_default("count", 5, count_between(0, 1024)),
        concurrency: workers.read_or_default("concurrency", None, count_or_none(1, 1024)),
        drain_timeout: workers.read_or_default(
            "drain",
            Duration::from_secs(10),
            duration_between(0, HOUR_SECS),
        ),
    }
}

pub(crate) fn parse_results(mut results: ConfigSection<'_>) -> ResultsConfig {
    ResultsConfig {
        ttl: results.read_or_default(
            "ttl",
            Duration::from_hours(24),
            duration_between(1000, YEAR_SECS),
        ),
        max_result_bytes: results.read_or_default(
            "max_result",
            8 << 20,
            size_between(1, MAX_REDIS_VALUE_BYTES),
        ),
    }
}

pub(crate) fn parse_webhooks(mut webhooks: ConfigSection<'_>) -> WebhooksConfig {
    let default = WebhooksConfig::default();
    WebhooksConfig {
        allowed_hosts: webhooks.read_list("hosts", default.allowed_hosts, parse_webhook_host),
        timeout: webhooks.read_or_default(
            "timeout",
            default.timeout,
            duration_between(10, HOUR_SECS),
        ),
        retries: webhooks.read_or_default("retries", default.retries, count_between(0, 100)),
        signing_secret: webhooks.read_or_default("secret", default.signing_secret, parse_token),
    }
}
