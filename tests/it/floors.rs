//! A file imports only from lower floors, and neighbours on a floor don't see each other: read off
//! the sources and held against the table of `src/lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

const FLOORS: [(&str, u8); 14] = [
    ("cli", 7),
    ("app", 6),
    ("admin", 5),
    ("proxy", 4),
    ("worker", 4),
    ("control", 4),
    ("snapshot", 3),
    ("route", 2),
    ("rollout", 2),
    ("store", 2),
    ("config", 1),
    ("metrics", 1),
    ("outbound", 1),
    ("task", 0),
];
/// The second noun of the ground floor; `FLOORS` and it are all the rooms there are.
const GROUND: (&str, u8) = ("cohort", 0);
/// Rooms that may know neither runtime, nor sockets, nor clocks.
const PURE: [&str; 4] = ["task", "cohort", "route", "rollout"];

#[test]
fn every_file_imports_only_from_lower_floors() {
    let mut wrong = Vec::new();
    for (room, file, text) in sources() {
        let own = floor(&room)
            .unwrap_or_else(|| panic!("{} is in no room of the floor table", file.display()));
        for used in uses(&text) {
            match floor(&used) {
                _ if used == room => {}
                Some(theirs) if theirs < own => {}
                Some(theirs) => wrong
                    .push(format!("{} (floor {own}) uses {used} (floor {theirs})", file.display())),
                None => wrong.push(format!(
                    "{} uses {used}, which the floor table does not have",
                    file.display()
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_know_neither_runtime_nor_sockets_nor_clocks() {
    let impure = [
        "tokio",
        "std::net",
        "SystemTime",
        "Instant::now",
        "Timestamp::now",
        "rand::",
        "serde::Serialize",
    ];
    for (room, file, text) in
        sources().into_iter().filter(|(room, ..)| PURE.contains(&room.as_str()))
    {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for word in impure {
            assert!(!code.contains(word), "{} of the pure room {room} has {word}", file.display());
        }
    }
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.into_iter().chain([GROUND]).find(|(name, _)| *name == room).map(|(_, floor)| floor)
}

/// (room, file, text) of every source below a room.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    let room_of = |file: &Path| {
        let inside = file.strip_prefix(&root).expect("below src");
        let first = inside.iter().next().expect("a name").to_string_lossy().into_owned();
        first.trim_end_matches(".rs").to_owned()
    };
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).expect("a readable source");
        (room_of(&file), file, text)
    };
    let all: Vec<_> =
        found.into_iter().map(read).filter(|(room, ..)| room != "lib" && room != "main").collect();
    assert!(all.len() > 30, "only {} sources were found", all.len());
    all
}

/// Every Rust source below `folder`.
pub(crate) fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The rooms that a source names as `crate::ROOM`, comments aside; `use crate::{a, b}` names two.
fn uses(text: &str) -> Vec<String> {
    let code: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let word = |text: &str| {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split("};").next().unwrap_or_default();
                rooms.extend(list.split(',').map(|item| word(item.trim())));
            }
            None => rooms.push(word(rest)),
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}
