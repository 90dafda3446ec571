//! The keys and arguments that the header of a script declares (the form of headers: `compose.rs`).
//!
//! They are rendered as Lua: names as local variables, items of groups as index expressions. The
//! names that a call pushes are compared with them, in order.

use std::fmt::Write as _;

/// The parameters that one header kind declares, in the order of the call.
pub(crate) struct ParameterList {
    pub(crate) kind: ListKind,
    lines: Vec<HeaderLine>,
}

/// The next parameter of a call: a header line, and how many of its names were pushed already.
#[derive(Clone, Copy, Default)]
pub(crate) struct ParameterCursor {
    line: usize,
    pushed_names: usize,
}

/// The two lists of a call.
#[derive(Clone, Copy)]
pub(crate) enum ListKind {
    Keys,
    Args,
}

struct HeaderLine {
    /// The group whose items repeat these names; none where each name stands for one value.
    group: Option<&'static str>,
    names: Vec<&'static str>,
}

/// Where the values of a header line begin: `fixed` values, then those of other groups' items.
#[derive(Default)]
struct LineStart {
    fixed: usize,
    /// Group names and how many values each of their items has.
    groups: Vec<(&'static str, usize)>,
}

// === impl ListKind ===

impl ListKind {
    /// The table that Redis passes to a script.
    fn lua_table(self) -> &'static str {
        match self {
            Self::Keys => "KEYS",
            Self::Args => "ARGV",
        }
    }

    /// The word of header lines and of the forms in a script's body.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Args => "args",
        }
    }
}

// === impl ParameterList ===

impl ParameterList {
    pub(crate) fn parse(kind: ListKind, script: &'static str) -> Self {
        let (mut lines, mut is_of_kind): (Vec<HeaderLine>, bool) = (Vec::new(), false);
        for declared in script.lines().filter_map(|line| line.strip_prefix("--@")) {
            let (word, names) = declared.split_once(' ').unwrap_or((declared, ""));
            if let (true, "", Some(continued)) = (is_of_kind, word, lines.last_mut()) {
                continued.names.extend(names.split_whitespace());
            }
            is_of_kind = word == kind.word() || (is_of_kind && word.is_empty());
            if word == kind.word() {
                let (group, names) = names
                    .strip_prefix("per ")
                    .and_then(|rest| rest.split_once(':'))
                    .map_or((None, names), |(group, names)| (Some(group), names));
                lines.push(HeaderLine { group, names: names.split_whitespace().collect() });
            }
        }
        Self { kind, lines }
    }

    /// The header lines with their starts.
    fn lines_with_starts(&self) -> impl Iterator<Item = (&HeaderLine, LineStart)> {
        let mut next = LineStart::default();
        self.lines.iter().map(move |line| {
            let start = LineStart { fixed: next.fixed, groups: next.groups.clone() };
            match line.group {
                Some(group) => next.groups.push((group, line.names.len())),
                None => next.fixed += line.names.len(),
            }
            (line, start)
        })
    }

    /// Local variables of the names outside groups.
    pub(crate) fn render_fixed_locals(&self) -> String {
        let (mut locals, table) = (String::new(), self.kind.lua_table());
        for (line, start) in self.lines_with_starts().filter(|(line, _)| line.group.is_none()) {
            let (first, last) = (start.fixed + 1, start.fixed + line.names.len());
            let values = match line.names.as_slice() {
                [_] => format!("{table}[{first}]"),
                [_, _] => format!("{table}[{first}], {table}[{last}]"),
                _ => format!("unpack({table}, {first}, {last})"),
            };
            let _ = writeln!(locals, "local {} = {values}", line.names.join(", "));
        }
        locals
    }

    /// Local variables with the positions that depend on the length of a group before them, and so
    /// cannot be written as a number: see [`LineStart::to_lua`].
    pub(crate) fn render_bases(&self) -> String {
        let mut bases = String::new();
        for (line, start) in self.lines_with_starts() {
            if line.group.is_some() && !start.groups.is_empty() {
                let _ = writeln!(bases, "local {}_base = {}", line.names[0], start.to_lua());
            }
        }
        bases
    }

    /// The length of the list without the items of `group`, where the number of those is not
    /// declared as an argument: `None` where the list has no such group.
    fn render_count(&self, group: &str) -> Option<String> {
        let values: usize = self
            .lines
            .iter()
            .filter(|line| line.group == Some(group))
            .map(|line| line.names.len())
            .sum();
        let others = self.lines.iter().filter(|line| line.group != Some(group));
        let mut length = format!("#{}", self.kind.lua_table());
        for other in others {
            let _ = match (other.group, other.names.len()) {
                (None, width) => write!(length, " - {width}"),
                (Some(other), 1) => write!(length, " - {other}_count"),
                (Some(other), width) => write!(length, " - {width} * {other}_count"),
            };
        }
        match values {
            0 => None,
            1 => Some(length),
            _ => Some(format!("({length}) / {values}")),
        }
    }

    fn declares_fixed(&self, name: &str) -> bool {
        self.lines.iter().any(|line| line.group.is_none() && line.names.contains(&name))
    }

    /// The groups in the order of their first lines.
    fn groups(&self) -> impl Iterator<Item = &'static str> {
        self.lines.iter().filter_map(|line| line.group)
    }

    /// The values `names` of item `item` of `group`, as a Lua expression list.
    pub(crate) fn render_item(
        &self,
        group: &str,
        names: &[&str],
        item: &str,
    ) -> Result<String, String> {
        let positions: Vec<(String, usize, usize)> = names
            .iter()
            .map(|name| {
                let declared = |line: &HeaderLine| {
                    line.names
                        .iter()
                        .position(|known| known == name)
                        .filter(|_| line.group == Some(group))
                };
                self.lines_with_starts()
                    .enumerate()
                    .find_map(|(number, (line, start))| {
                        let position = declared(line)?;
                        Some((start.item_index(line, item, position), number, position))
                    })
                    .ok_or_else(|| format!("{} of a {group} have no {name}", self.kind.word()))
            })
            .collect::<Result<_, _>>()?;
        let table = self.kind.lua_table();
        let adjacent =
            positions.windows(2).all(|pair| (pair[0].1, pair[0].2 + 1) == (pair[1].1, pair[1].2));
        Ok(match positions.as_slice() {
            [(first, ..), _, .., (last, ..)] if adjacent => {
                format!("unpack({table}, {first}, {last})")
            }
            _ => {
                let indexed = positions.iter().map(|(index, ..)| format!("{table}[{index}]"));
                indexed.collect::<Vec<_>>().join(", ")
            }
        })
    }

    /// The values of all items of the group line that declares just `names`.
    pub(crate) fn render_all(&self, names: &[&str]) -> Result<String, String> {
        let (line, start) = self
            .lines_with_starts()
            .find(|(line, _)| line.group.is_some() && line.names == names)
            .ok_or_else(|| format!("no group of {} is {}", self.kind.word(), names.join(" ")))?;
        let (table, width) = (self.kind.lua_table(), line.names.len());
        let first = start.item_index(line, "1", 0);
        if self.lines.last().is_some_and(|last| last.names == names) {
            return Ok(format!("unpack({table}, {first}, #{table})"));
        }
        let count = format!("{}_count", line.group.unwrap_or_default());
        Ok(format!("unpack({table}, {first}, {})", start.item_index(line, &count, width - 1)))
    }

    /// Takes the next parameter of a call, which is to be called `name`.
    ///
    /// # Errors
    /// What is declared in its place, as text.
    pub(crate) fn advance(&self, cursor: &mut ParameterCursor, name: &str) -> Result<(), String> {
        while let Some(line) = self.lines.get(cursor.line) {
            let expected = line.names.get(cursor.pushed_names);
            if expected == Some(&name) {
                cursor.pushed_names += 1;
                return Ok(());
            }
            if expected.is_none() && line.group.is_some() && line.names.first() == Some(&name) {
                cursor.pushed_names = 1;
                return Ok(());
            }
            let complete = expected.is_none() || (line.group.is_some() && cursor.pushed_names == 0);
            if !complete {
                return Err(format!(
                    "{name} is pushed in place of {}",
                    line.names[cursor.pushed_names]
                ));
            }
            *cursor = ParameterCursor { line: cursor.line + 1, pushed_names: 0 };
        }
        Err(format!("{name} is pushed behind the last of the declared {}", self.kind.word()))
    }

    /// Whether a call that has come to `cursor` has all its parameters.
    pub(crate) fn is_complete(&self, cursor: ParameterCursor) -> bool {
        let rest = self.lines.get(cursor.line..).unwrap_or_default();
        rest.iter().enumerate().all(|(index, line)| {
            let pushed = if index == 0 { cursor.pushed_names } else { 0 };
            pushed == line.names.len() || (pushed == 0 && line.group.is_some())
        })
    }
}

// === impl LineStart ===

impl LineStart {
    /// How many values precede the line, as a Lua expression.
    fn to_lua(&self) -> String {
        let fixed = (self.fixed > 0).then(|| self.fixed.to_string());
        let groups = self.groups.iter().map(|(group, width)| match width {
            1 => format!("{group}_count"),
            _ => format!("{width} * {group}_count"),
        });
        fixed.into_iter().chain(groups).collect::<Vec<_>>().join(" + ")
    }

    /// The index of the value at `position` (from 0) of item `item` (from 1), as a Lua expression.
    fn item_index(&self, line: &HeaderLine, item: &str, position: usize) -> String {
        let width = line.names.len();
        let added = (self.fixed + position + 1).cast_signed() - width.cast_signed();
        let (constant, base) = match (item.parse::<isize>(), width) {
            (Ok(item), _) => (item * width.cast_signed() + added, String::new()),
            (Err(_), 1) => (added, item.to_owned()),
            (Err(_), _) => (added, format!("{width} * {item}")),
        };
        let mut terms = vec![base];
        let mut constant = constant;
        if !self.groups.is_empty() {
            terms.push(format!("{}_base", line.names[0]));
            constant -= self.fixed.cast_signed();
        }
        let sum = terms.into_iter().filter(|term| !term.is_empty()).collect::<Vec<_>>().join(" + ");
        match constant {
            _ if sum.is_empty() => constant.to_string(),
            0 => sum,
            1.. => format!("{sum} + {constant}"),
            _ => format!("{sum} - {}", constant.abs()),
        }
    }
}

/// Local variables with the numbers of items of each group.
///
/// # Errors
/// A group whose items cannot be counted, as text.
pub(crate) fn render_counts(keys: &ParameterList, args: &ParameterList) -> Result<String, String> {
    let mut counts = String::new();
    let mut groups: Vec<&str> = keys.groups().chain(args.groups()).collect();
    groups.sort_unstable();
    groups.dedup();
    let (declared, computed): (Vec<&str>, Vec<&str>) =
        groups.into_iter().partition(|group| args.declares_fixed(&format!("{group}_count")));
    for group in declared {
        let _ = writeln!(counts, "local {group}_count = tonumber({group}_count)");
    }
    for group in computed {
        let length = keys.render_count(group).or_else(|| args.render_count(group));
        let length = length.ok_or_else(|| format!("a group {group} has no values"))?;
        let _ = writeln!(counts, "local {group}_count = {length}");
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "--@args prefix queue_count
--@args per queue: group
--@args per task: entry attempt
--@  state
";

    #[test]
    fn parameters_are_taken_in_the_order_of_the_header() {
        let args = ParameterList::parse(ListKind::Args, HEADER);
        let check = |names: &str| {
            let mut cursor = ParameterCursor::default();
            let mut taken = names.split(' ').map(|name| args.advance(&mut cursor, name));
            taken.find(Result::is_err).unwrap_or(Ok(())).map(|()| args.is_complete(cursor))
        };
        assert_eq!(check("prefix queue_count"), Ok(true), "groups without items");
        assert_eq!(check("prefix queue_count group group entry attempt state"), Ok(true));
        assert_eq!(check("prefix queue_count entry attempt state entry"), Ok(false));
        assert_eq!(check("prefix"), Ok(false));
        assert_eq!(check("queue_count"), Err("queue_count is pushed in place of prefix".into()));
        assert!(check("prefix queue_count entry state").is_err());
        assert!(check("prefix queue_count group entry attempt state group").is_err());
    }
}
