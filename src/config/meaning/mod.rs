//! The tree of a file → what it means. Each section's reader reads like the section.
//!
//! Readers never stop at a problem: what is wrong has its default, what cannot have one is left
//! out, and the configuration that comes out is whole, though only to be used when no problem was
//! reported.

mod addresses;
mod checks;
mod gates;
mod plan;
mod planes;
mod programs;
mod rollout;
mod routes;
mod section;
mod shadow;
mod topics;
mod values;
mod windows;

use std::cell::RefCell;

use self::section::ConfigSection;
use super::Config;
use super::problem::ConfigDiagnostics;
use super::yaml::YamlNode;

/// Reads the whole tree, adding to `report`.
pub(super) fn parse_config(root: &YamlNode, report: &mut ConfigDiagnostics) -> Config {
    let cell = RefCell::new(std::mem::take(report));
    let config = parse_sections(root, &cell);
    *report = cell.into_inner();
    checks::check_config(&config, root, report);
    config
}

fn parse_sections(root: &YamlNode, report: &RefCell<ConfigDiagnostics>) -> Config {
    let mut file = ConfigSection::from_root(root, report);
    Config {
        proxy: planes::parse_proxy(file.subsection("proxy")),
        admin: planes::parse_admin(file.subsection("admin")),
        upstream: planes::parse_upstream(file.subsection("upstream")),
        store: planes::parse_store(file.subsection("store")),
        routes: routes::parse_routes(&mut file, root.get("topics")),
        topics: topics::parse_topics(&mut file),
        workers: planes::parse_workers(file.subsection("workers")),
        results: planes::parse_results(file.subsection("results")),
        webhooks: planes::parse_webhooks(file.subsection("webhooks")),
    }
}

#[cfg(test)]
mod tests;
