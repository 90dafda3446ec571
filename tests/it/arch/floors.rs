//! A file imports only from lower floors, and neighbours on a floor do not see each other: between
//! the modules of `src`, and between the folders inside a module.

use super::source_tree::{SourceFile, SourceTree};

/// The modules of `src`, floor by floor, from the top (`src/lib.rs` shows the same table).
const FLOORS: [&[&str]; 9] = [
    &["cli"],
    &["app"],
    &["admin"],
    &["proxy", "worker", "control", "background"],
    &["snapshot", "capacity", "operations"],
    &["route", "rollout", "store"],
    &["config", "metrics", "outbound"],
    &["task"],
    &["cohort_hash", "backoff"],
];

/// The folders and files inside a module, line by line, from the top. The module's own `mod.rs` is
/// above them; what a table does not name has no rule but that of the circles.
const INNER_MODULES: [(&str, &[&[&str]]); 9] = [
    (
        "proxy",
        &[
            &["server"],
            &["paths", "tasks"],
            &["queueing"],
            &["context"],
            &["state"],
            &["answer"],
            &["upstream"],
            &["http"],
        ],
    ),
    (
        "worker",
        &[
            &["pool"],
            &["attempt", "delivery", "maintenance"],
            &["context", "drain"],
            &["handler", "supervisor"],
            &["program_guard"],
        ],
    ),
    (
        "control",
        &[
            &["controller"],
            &["handle", "notify", "replicas", "route_rollout"],
            &["stored", "views"],
            &["counts", "prometheus", "reload", "store_clock"],
        ],
    ),
    (
        "admin",
        &[&["access", "handlers"], &["health", "presenter", "problem"], &["services", "views"]],
    ),
    (
        "operations",
        &[&["dead_letters", "status", "tasks"], &["cancel", "publish", "queues"], &["access"]],
    ),
    (
        "rollout",
        &[
            &["machine"],
            &["command", "explain"],
            &["event", "state"],
            &["capacity_window", "gate", "preview", "sample_ratio", "served_share"],
            &["actor", "blocked", "evidence", "limits", "phase", "statistics"],
            &["assignments", "fallbacks", "format"],
        ],
    ),
    (
        "store/redis",
        &[
            &["all_partitions", "background", "lease_loop"],
            &["cluster"],
            &["partition"],
            &["maintenance"],
            &["queue"],
            &["python", "read", "records"],
            &["core", "script"],
            &["conn", "wire"],
            &["lock", "time"],
        ],
    ),
    (
        "store/sqlite",
        &[
            &["calls"],
            &["store"],
            &["threads"],
            &["sql"],
            &["database"],
            &["memory", "row", "schema"],
        ],
    ),
    (
        "config",
        &[
            &["watch"],
            &["load"],
            &["parse"],
            &["check", "plan_fields"],
            &["model"],
            &["environment"],
            &["yaml"],
            &["diagnostics"],
        ],
    ),
];

/// Modules that may use neither runtime, nor sockets, nor clocks.
const PURE: [&str; 5] = ["task", "cohort_hash", "backoff", "route", "rollout"];
/// Runs of tokens that name a runtime, a socket, a clock or a source of randomness.
const IMPURE: [&[&str]; 7] = [
    &["tokio"],
    &["TcpStream"],
    &["UdpSocket"],
    &["SystemTime"],
    &["rand", "::"],
    &["Instant", "::", "now"],
    &["Timestamp", "::", "now"],
];

#[test]
fn every_file_imports_only_from_lower_floors() {
    let tree = SourceTree::load();
    let floor_of = |file: &SourceFile| line_of(&FLOORS, file.module.first()?);
    let violations =
        find_violations(&tree, &floor_of, &|file| file.module.first().cloned().unwrap_or_default());
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn every_source_is_in_a_module_of_the_table() {
    for file in SourceTree::load().files.iter().filter(|file| !file.module.is_empty()) {
        assert!(
            line_of(&FLOORS, &file.module[0]).is_some(),
            "{} is in no module of the table",
            file.path
        );
    }
}

#[test]
fn inner_modules_import_only_downward() {
    let tree = SourceTree::load();
    for (module, lines) in INNER_MODULES {
        let below = |file: &SourceFile| {
            let rest = file.path.strip_prefix(module)?.strip_prefix('/')?;
            let first = rest.split('/').next()?.trim_end_matches(".rs");
            (first != "mod").then(|| first.to_owned())
        };
        for line in lines.iter().copied().flatten() {
            let found = tree.files.iter().any(|file| below(file).as_deref() == Some(*line));
            assert!(found, "{module} has no {line}: the table is out of date");
        }
        let unknown =
            tree.files.iter().filter_map(below).find(|name| line_of(lines, name).is_none());
        assert_eq!(unknown, None, "{module} has a folder or file that its table does not name");
        let violations = find_violations(&tree, &|file| line_of(lines, &below(file)?), &|file| {
            below(file).unwrap_or_default()
        });
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }
}

#[test]
fn pure_modules_know_neither_runtime_nor_sockets_nor_clocks() {
    for file in &SourceTree::load().files {
        if file.module.first().is_some_and(|module| PURE.contains(&module.as_str())) {
            let found = IMPURE.iter().find(|run| {
                file.tokens.windows(run.len()).any(|window| window.iter().eq(run.iter()))
            });
            assert_eq!(found, None, "{} is in a pure module", file.path);
        }
    }
}

/// The index of the line that names a module; line 0 is the highest.
fn line_of(lines: &[&[&str]], module: &str) -> Option<usize> {
    lines.iter().position(|line| line.contains(&module))
}

/// The imports that lead upward or to a neighbour.
fn find_violations(
    tree: &SourceTree,
    line: &dyn Fn(&SourceFile) -> Option<usize>,
    module_of: &dyn Fn(&SourceFile) -> String,
) -> Vec<String> {
    let mut violations = Vec::new();
    for (index, file) in tree.files.iter().enumerate() {
        let Some(own) = line(file) else { continue };
        for used in tree.used_by(index) {
            let used = &tree.files[used];
            let Some(theirs) = line(used) else { continue };
            if theirs <= own && module_of(file) != module_of(used) {
                violations.push(format!("{} imports {}", file.path, used.path));
            }
        }
    }
    violations
}
