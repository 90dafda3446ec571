//! The sources below `src`, read as tokens: which file uses which, and which identifiers there are.
//! The checks of
//! this folder share this reading; it knows as much of Rust as they need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A path through modules, the crate's root first left out: `["proxy", "server", "accept"]`.
pub(crate) type ModulePath = Vec<String>;

/// One Rust source below `src`, without its unit tests.
pub(crate) struct SourceFile {
    /// The path below `src`, such as `proxy/server/accept.rs`.
    pub(crate) path: String,
    pub(crate) module: ModulePath,
    /// Identifiers, `::` and single punctuation characters; comments, strings and unit tests are
    /// left out.
    pub(crate) tokens: Vec<String>,
    imports: Vec<Import>,
}

/// One path that a source names: in a `use`, or as `crate::…` in its code.
struct Import {
    target: ModulePath,
    /// The name under which a `pub use` shows the target to others.
    reexported_as: Option<String>,
}

/// All sources, and who uses whom.
pub(crate) struct SourceTree {
    pub(crate) files: Vec<SourceFile>,
    by_module: BTreeMap<ModulePath, usize>,
    reexports: BTreeMap<ModulePath, ModulePath>,
}

// === impl SourceTree ===

impl SourceTree {
    /// Reads every source of the library.
    pub(crate) fn load() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = Vec::new();
        collect_sources(&root, &mut paths);
        let mut files: Vec<SourceFile> =
            paths.iter().map(|path| SourceFile::read(&root, path)).collect();
        let test_modules: BTreeSet<ModulePath> =
            files.iter().flat_map(SourceFile::test_modules).collect();
        let is_test = |file: &SourceFile| {
            (1..=file.module.len()).any(|n| test_modules.contains(&file.module[..n]))
        };
        files.retain(|file| !is_test(file) && file.path != "main.rs");
        assert!(files.len() > 100, "only {} sources were found", files.len());

        let by_module: BTreeMap<ModulePath, usize> =
            files.iter().enumerate().map(|(index, file)| (file.module.clone(), index)).collect();
        for file in &mut files {
            file.imports = read_imports(&file.tokens, &file.module, &by_module);
        }
        let mut reexports = BTreeMap::new();
        for file in &files {
            for import in &file.imports {
                if let Some(name) = &import.reexported_as {
                    let mut shown = file.module.clone();
                    shown.push(name.clone());
                    reexports.insert(shown, import.target.clone());
                }
            }
        }
        Self { files, by_module, reexports }
    }

    /// The files that a file uses, by their index: where the named item is defined, whoever
    /// re-exports it.
    pub(crate) fn used_by(&self, index: usize) -> BTreeSet<usize> {
        let file = &self.files[index];
        let used = file.imports.iter().filter(|import| import.reexported_as.is_none());
        used.filter_map(|import| self.definer_of(&import.target, 0))
            .filter(|used| *used != index)
            .collect()
    }

    /// The file in which what a path names is defined.
    fn definer_of(&self, target: &[String], depth: u8) -> Option<usize> {
        if depth > 8 {
            return None;
        }
        for length in (0..=target.len()).rev() {
            if let Some(shown) = self.reexports.get(&target[..length]) {
                let onward = [shown.as_slice(), &target[length..]].concat();
                return self.definer_of(&onward, depth + 1);
            }
            if let Some(index) = self.by_module.get(&target[..length]) {
                return Some(*index);
            }
        }
        None
    }
}

// === impl SourceFile ===

impl SourceFile {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a readable source");
        let below =
            path.strip_prefix(root).expect("below src").to_string_lossy().replace('\\', "/");
        let mut module: ModulePath =
            below.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod" || last == "lib" || last == "main") {
            module.pop();
        }
        Self {
            path: below,
            module,
            tokens: without_unit_tests(tokenize(&text)),
            imports: Vec::new(),
        }
    }

    /// The modules that this file declares for tests only.
    fn test_modules(&self) -> Vec<ModulePath> {
        let is_declaration = |window: &&[String]| {
            window[..7].iter().eq(["#", "[", "cfg", "(", "test", ")", "]"])
                && window[7] == "mod"
                && window[9] == ";"
        };
        let declared = self.tokens.windows(10).filter(is_declaration);
        declared.map(|window| [self.module.as_slice(), &window[8..9]].concat()).collect()
    }
}

/// Every Rust source below `folder`.
pub(crate) fn collect_sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect_sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    into.sort();
}

/// Splits a source into identifiers (numbers too), `::` and punctuation, without comments, strings
/// and characters.
pub(crate) fn tokenize(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        at += match rest {
            ['/', '/', ..] => rest.iter().take_while(|c| **c != '\n').count(),
            ['/', '*', ..] => length_until(rest, 2, &['*', '/']),
            ['r', '"' | '#', ..] if raw_string_length(rest).is_some() => {
                raw_string_length(rest).unwrap_or(1)
            }
            ['"', ..] => string_length(rest),
            ['\'', '\\', ..] => {
                2 + rest[2..].iter().skip(1).take_while(|c| **c != '\'').count() + 2
            }
            ['\'', _, '\'', ..] => 3,
            [':', ':', ..] => {
                tokens.push("::".to_owned());
                2
            }
            [first, ..] if is_word(*first) => {
                let word: String = rest.iter().take_while(|c| is_word(**c)).collect();
                let length = word.chars().count();
                tokens.push(word);
                length
            }
            [first, ..] => {
                if !first.is_whitespace() {
                    tokens.push(first.to_string());
                }
                1
            }
            [] => 1,
        };
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn length_until(rest: &[char], from: usize, end: &[char]) -> usize {
    let found = rest[from..].windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |at| from + at + end.len())
}

fn string_length(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The length of a raw string such as `r#"…"#`, if one begins here.
fn raw_string_length(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    Some(length_until(rest, 2 + hashes, &end))
}

/// Leaves out `#[cfg(test)] mod name { … }`.
fn without_unit_tests(tokens: Vec<String>) -> Vec<String> {
    let Some(start) = tokens.windows(8).position(|window| {
        window[..7].iter().eq(["#", "[", "cfg", "(", "test", ")", "]"])
            && (window[7] == "mod" || window[7] == "#")
    }) else {
        return tokens;
    };
    let Some(open) = tokens[start + 7..].iter().position(|token| token == "{" || token == ";")
    else {
        return tokens;
    };
    let open = start + 7 + open;
    let mut kept = tokens[..start].to_vec();
    let mut end = open + 1;
    if tokens[open] == ";" {
        kept.extend_from_slice(&tokens[start..end]); // a declaration: `test_modules` reads it
    } else {
        let mut depth = 1;
        while depth > 0 && end < tokens.len() {
            depth += i32::from(tokens[end] == "{") - i32::from(tokens[end] == "}");
            end += 1;
        }
    }
    kept.extend(without_unit_tests(tokens[end..].to_vec()));
    kept
}

/// The paths within the crate that a file names.
fn read_imports(
    tokens: &[String],
    module: &[String],
    modules: &BTreeMap<ModulePath, usize>,
) -> Vec<Import> {
    let mut imports = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use"
            && (at == 0 || [";", "}", "{", "]", ")", "pub"].contains(&tokens[at - 1].as_str()))
        {
            let end = at
                + tokens[at..].iter().position(|token| token == ";").unwrap_or(tokens.len() - at);
            let public = at > 0 && (tokens[at - 1] == "pub" || tokens[at - 1] == ")");
            let mut paths = Vec::new();
            flatten_use_tree(&tokens[at + 1..end], &[], &mut paths);
            for (path, name) in paths {
                if let Some(target) = absolute_path(&path, module, modules) {
                    imports.push(Import { target, reexported_as: public.then_some(name) });
                }
            }
            at = end;
        } else if (tokens[at] == "crate" || tokens[at] == "super")
            && tokens.get(at + 1).is_some_and(|t| t == "::")
        {
            let mut path = vec![tokens[at].clone()];
            while tokens.get(at + 1).is_some_and(|token| token == "::")
                && tokens.get(at + 2).is_some_and(|token| token.chars().all(is_word))
            {
                path.push(tokens[at + 2].clone());
                at += 2;
            }
            let target = absolute_path(&path, module, modules);
            imports.extend(target.map(|target| Import { target, reexported_as: None }));
        }
        at += 1;
    }
    imports
}

/// The single paths of a `use` tree, each with the name that it brings into scope.
fn flatten_use_tree(tree: &[String], before: &[String], into: &mut Vec<(Vec<String>, String)>) {
    let mut path = before.to_vec();
    let mut at = 0;
    while at < tree.len() {
        match tree[at].as_str() {
            "::" => {}
            "{" => {
                let mut depth = 0;
                let mut start = at + 1;
                for (index, token) in tree.iter().enumerate().skip(at) {
                    depth += i32::from(token == "{") - i32::from(token == "}");
                    if (token == "," && depth == 1) || depth == 0 {
                        if index > start {
                            flatten_use_tree(&tree[start..index], &path, into);
                        }
                        start = index + 1;
                    }
                    if depth == 0 {
                        return;
                    }
                }
                return;
            }
            "as" => {
                into.push((path, tree[at + 1].clone()));
                return;
            }
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
    let name = path.last().cloned().unwrap_or_default();
    into.push((path, name));
}

/// A path from the crate's root; none for a path of another crate.
fn absolute_path(
    path: &[String],
    module: &[String],
    modules: &BTreeMap<ModulePath, usize>,
) -> Option<ModulePath> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module, rest].concat()),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let base = &module[..module.len().checked_sub(ups)?];
            Some([base, &path[ups..]].concat())
        }
        _ => {
            let child = [module, &path[..1]].concat();
            modules.contains_key(&child).then(|| [module, path].concat())
        }
    }
}
