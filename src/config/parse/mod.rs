//! Parses the tree of a file into a [`Config`]; one parser per section.
//!
//! Parsers do not stop at a problem: an invalid value gets its default, and an entry without a
//! possible default, such as a route without a path, is left out. So a parsed configuration is
//! always complete, but it must only be used when no problem was reported.

pub(crate) mod addresses;
pub(crate) mod command_check;
pub(crate) mod field_error;
pub(crate) mod fixed_sections;
pub(crate) mod gates;
pub(crate) mod percent;
pub(crate) mod promotion_windows;
pub(crate) mod rollout;
pub(crate) mod routes;
pub(crate) mod scalars;
pub(crate) mod section;
pub(crate) mod shadow;
#[cfg(test)]
mod tests;
pub(crate) mod topics;

use std::cell::RefCell;

use crate::config::Config;
use crate::config::diagnostics::ConfigDiagnostics;
use crate::config::parse::section::ConfigSection;
use crate::config::yaml::YamlNode;

/// Parses and checks the whole tree; adds problems and warnings to `report`.
pub(crate) fn parse_config(root: &YamlNode, report: &mut ConfigDiagnostics) -> Config {
    let cell = RefCell::new(std::mem::take(report));
    let config = parse_sections(root, &cell);
    *report = cell.into_inner();
    crate::config::check::check_config(&config, root, report);
    config
}

fn parse_sections(root: &YamlNode, report: &RefCell<ConfigDiagnostics>) -> Config {
    let mut file = ConfigSection::from_root(root, report);
    Config {
        proxy: fixed_sections::parse_proxy(file.subsection("proxy")),
        admin: fixed_sections::parse_admin(file.subsection("admin")),
        upstream: fixed_sections::parse_upstream(file.subsection("upstream")),
        store: fixed_sections::parse_store(file.subsection("store")),
        routes: routes::parse_routes(&mut file, root.get("topics")),
        topics: topics::parse_topics(&mut file),
        workers: fixed_sections::parse_workers(file.subsection("workers")),
        results: fixed_sections::parse_results(file.subsection("results")),
        webhooks: fixed_sections::parse_webhooks(file.subsection("webhooks")),
    }
}
