//! The tree of a file → what it means. Each section's reader reads like the section.
//!
//! Readers never stop at a problem: what is wrong has its default, what cannot have one is left out, and
//! the configuration that comes out is whole, though only to be used when no problem was reported.

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

use self::section::Section;
use super::Config;
use super::problem::Report;
use super::yaml::Node;

/// Reads the whole tree, adding to `report`.
pub(super) fn mean(root: &Node, report: &mut Report) -> Config {
    let cell = RefCell::new(std::mem::take(report));
    let config = sections(root, &cell);
    *report = cell.into_inner();
    checks::check(&config, root, report);
    config
}

fn sections(root: &Node, report: &RefCell<Report>) -> Config {
    let mut file = Section::root(root, report);
    Config {
        proxy: planes::proxy(file.section("proxy")),
        admin: planes::admin(file.section("admin")),
        upstream: planes::upstream(file.section("upstream")),
        store: planes::store(file.section("store")),
        routes: routes::routes(&mut file, root.get("topics")),
        topics: topics::topics(&mut file),
        workers: planes::workers(file.section("workers")),
        results: planes::results(file.section("results")),
        webhooks: planes::webhooks(file.section("webhooks")),
    }
}

#[cfg(test)]
mod tests;
