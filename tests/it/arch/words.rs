//! Names are plain technical words: no banned word in an identifier, no public type name twice, and
//! every noun of a
//! public type name either a general term of programming or a term of `docs/lexicon.md`. Lines have
//! 100 columns.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::source_tree::{SourceTree, collect_sources};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MAX_COLUMNS: usize = 100;

/// Words that say neither what nor of what, each with a plain word to write instead.
const BANNED: [(&str, &str); 40] = [
    ("told", "name the notice, reply or report"),
    ("tend", "reap_expired"),
    ("tends", "reap_expired"),
    ("glance", "statuses"),
    ("hoard", "budget"),
    ("bell", "wakeup"),
    ("nap", "wait_for_entry"),
    ("nurse", "restart or supervise"),
    ("witness", "name what is recorded"),
    ("park", "requeue or delay"),
    ("fate", "outcome"),
    ("blame", "count_error_by_group"),
    ("vouch", "confirm"),
    ("vouched", "confirm"),
    ("meet", "sync_replica"),
    ("attend", "reconcile or await"),
    ("around", "intercept"),
    ("hook", "interceptor"),
    ("beat", "heartbeat, or tick"),
    ("said", "name the text"),
    ("heard", "received"),
    ("hear", "receive"),
    ("man", "run_worker"),
    ("manned", "served"),
    ("meaning", "parse"),
    ("happened", "event"),
    ("standing", "state"),
    ("fan", "cluster"),
    ("trouble", "error"),
    ("lessee", "holder"),
    ("crowd", "name the limit"),
    ("dice", "random"),
    ("laggard", "lagging replica"),
    ("because", "reason"),
    ("doomed", "name the reason"),
    ("stranger", "client"),
    ("whoever", "client or caller"),
    ("nobody", "none"),
    ("somebody", "name who"),
    ("odd", "name the fault"),
];

/// Terms of programming that are no words of this project's domain.
const GENERAL: &str = "\
    accepted access action address admin allowed alway api app arg batch batcher bounded buffer \
    builder bulk buried burier bus cache call cancel cancelled change checked cidr cli clock \
    collected collector command commit composed concurrency condition config connector content \
    context core count counted counter counting cursor database default demo deprecated depth \
    detail difference digest direct disconnect dlq durable duration echo empty encoded ended \
    enqueuer env error event exit expiring extra failed failing fault faulty finish fixture for \
    form format get global guard handle hash header health held history host http id inbox init \
    input intercepted item kind label late latency leased leaser leasing limit link list loaded \
    local lock log lookup lua map mark measure memory message meter metric min mode ms name \
    named new next node on option origin output page panicking param parameter parsed pass \
    pattern pausable pending poison policy poll pool position process proxy published queue \
    range reader reading reaper received recording redis refused registry reloader reply \
    reported reprocessed result row run runner running schedule score script section seen sender \
    serve served server service set settler setup shared shutdown signal source sqlite start state \
    status stored stream summary table target thread timeout timer total tree type unix unknown \
    update url value var verb view wait waiting watch wire with writer written yaml";

#[test]
fn identifiers_have_no_banned_word() {
    let mut found = Vec::new();
    for file in &SourceTree::load().files {
        for token in &file.tokens {
            for word in split_words(token) {
                if let Some((_, instead)) = BANNED.iter().find(|(banned, _)| *banned == word) {
                    found.push(format!("{}: `{token}` has `{word}`: write {instead}", file.path));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn public_type_names_are_unique() {
    let mut files_by_name: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, path) in public_types() {
        files_by_name.entry(name).or_default().insert(path);
    }
    assert!(files_by_name.len() > 250, "only {} public types were found", files_by_name.len());
    let twice: Vec<_> = files_by_name.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "types of one name: {twice:#?}");
}

#[test]
fn every_noun_of_a_public_type_name_is_in_the_lexicon() {
    let lexicon = fs::read_to_string(Path::new(ROOT).join("docs/lexicon.md")).expect("it is there");
    let terms: BTreeSet<String> = lexicon
        .split("**")
        .skip(1)
        .step_by(2)
        .flat_map(|term| term.split(|c: char| !c.is_alphanumeric()).map(singular))
        .collect();
    assert!(terms.len() > 60, "only {} words were read", terms.len());
    let general: BTreeSet<&str> = GENERAL.split_whitespace().collect();
    let mut missing: BTreeMap<String, String> = BTreeMap::new();
    for (name, path) in public_types() {
        for word in split_words(&name).iter().map(|word| singular(word)) {
            if !terms.contains(&word) && !general.contains(word.as_str()) {
                missing.insert(word, format!("{name} in {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "explain these words in docs/lexicon.md: {missing:#?}");
}

#[test]
fn no_line_of_rust_is_over_100_columns() {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
        collect_sources(&Path::new(ROOT).join(folder), &mut files);
    }
    let mut long = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable source");
        for (index, line) in
            text.lines().enumerate().filter(|(_, line)| line.chars().count() > MAX_COLUMNS)
        {
            long.push(format!("{}:{}: {}", file.display(), index + 1, line.chars().count()));
        }
    }
    assert!(long.is_empty(), "lines over {MAX_COLUMNS} columns:\n{}", long.join("\n"));
}

#[test]
fn identifiers_are_split_into_words() {
    assert_eq!(split_words("reap_expired"), ["reap", "expired"]);
    assert_eq!(split_words("HTTPHead2Reader"), ["http", "head", "reader"]);
    assert_eq!(split_words("MAX_COLUMNS"), ["max", "columns"]);
    assert_eq!(
        singular("replicas") + &singular("status") + &singular("queries"),
        "replicastatusquery"
    );
}

/// The public types (structs, enums, traits and aliases; also `pub(crate)`), with the file of each.
fn public_types() -> Vec<(String, String)> {
    let mut types = Vec::new();
    for file in &SourceTree::load().files {
        for (at, token) in file.tokens.iter().enumerate() {
            let declares = ["struct", "enum", "trait", "type"].contains(&token.as_str());
            let public = at > 0 && (file.tokens[at - 1] == "pub" || file.tokens[at - 1] == ")");
            if declares && public {
                types.push((file.tokens[at + 1].clone(), file.path.clone()));
            }
        }
    }
    types
}

/// The words of an identifier in snake case, camel case or capitals, in lower case and without
/// digits.
fn split_words(identifier: &str) -> Vec<String> {
    let chars: Vec<char> = identifier.chars().collect();
    let mut words = Vec::new();
    let mut word = String::new();
    for (at, &c) in chars.iter().enumerate() {
        let before_lower = chars.get(at + 1).is_some_and(char::is_ascii_lowercase);
        let after_lower = at > 0 && chars[at - 1].is_ascii_lowercase();
        let after_upper = at > 0 && chars[at - 1].is_ascii_uppercase();
        let begins = c.is_ascii_uppercase() && (after_lower || after_upper && before_lower);
        if (begins || !c.is_alphabetic()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphabetic() {
            word.extend(c.to_lowercase());
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// A noun without the ending of its plural.
fn singular(word: &str) -> String {
    let word = word.to_lowercase();
    if let Some(stem) = word.strip_suffix("ies").filter(|stem| stem.len() > 2) {
        return format!("{stem}y");
    }
    if ["sses", "shes", "uses"].iter().any(|ending| word.ends_with(ending)) {
        return word[..word.len() - 2].to_owned();
    }
    match word.strip_suffix('s') {
        Some(stem) if stem.len() > 2 && !stem.ends_with(['s', 'u', 'i']) => stem.to_owned(),
        _ => word,
    }
}
