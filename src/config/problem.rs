//! What is wrong with a configuration, where, and what to write instead.
//!
//! The stages share one [`Report`]; nothing stops at its first problem, so that a file is mended in one
//! go. What came from a file shows its line, what came from the environment shows its variable.

use std::fmt;

/// At most so many problems are shown: after that the file is not a configuration at all.
const SHOWN: usize = 50;

/// Where a key or value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the file; both count from 1.
    At {
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// In an environment variable of this name.
    Variable(String),
}

/// One thing that is wrong, or that deserves a second look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1; none where nothing of the file is to blame.
    pub line: Option<usize>,
    /// The column, from 1.
    pub column: Option<usize>,
    /// The environment variable that set the value.
    pub variable: Option<String>,
    /// The key's path, such as `routes.invoke.rollout.percent`; empty for the file as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Problem {
    /// A problem of the file as a whole.
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), ..Self::default() }
    }

    /// The same, of a field.
    pub(super) fn of(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    /// The same, written there.
    pub(super) fn at(mut self, origin: Option<&Origin>) -> Self {
        match origin {
            Some(Origin::At { line, column }) => (self.line, self.column) = (Some(*line), Some(*column)),
            Some(Origin::Variable(name)) => self.variable = Some(name.clone()),
            None => {}
        }
        self
    }

    /// The problem as one line: `FILE:LINE:COLUMN: FIELD: MESSAGE: HINT`, from `FILE` on whatever is known.
    #[must_use]
    pub fn in_file(&self, file: &str) -> String {
        let place = match (&self.variable, self.line, self.column) {
            (Some(variable), ..) => variable.clone(),
            (None, Some(line), Some(column)) => format!("{file}:{line}:{column}"),
            (None, Some(line), None) => format!("{file}:{line}"),
            (None, None, _) => file.to_owned(),
        };
        let parts = [&place, &self.field, &self.message, &self.hint];
        parts.into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(": ")
    }
}

/// All that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// The file, or what stands for it.
    pub file: String,
    /// The problems in the order of the file.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.list.iter().take(SHOWN) {
            writeln!(f, "{}", problem.in_file(&self.file))?;
        }
        match self.list.len() {
            1 => write!(f, "1 problem"),
            count if count <= SHOWN => write!(f, "{count} problems"),
            count => write!(f, "{count} problems, the first {SHOWN} shown"),
        }
    }
}

/// What the stages found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What makes the configuration unusable.
    pub(super) problems: Vec<Problem>,
    /// What only deserves a second look.
    pub(super) warnings: Vec<Problem>,
}

impl Report {
    /// Puts both lists into the order of the file; what has no line comes first.
    pub(super) fn sort(&mut self) {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.warnings.sort_by_key(|problem| (problem.line, problem.column));
    }
}

/// `text` as it is put into a message: in backticks, short, and without characters that a terminal obeys.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    format!("`{}`", short.replace("\\\"", "\"").replace("\\'", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_place_field_message_hint() {
        let problem =
            Problem::new("110 is over 100", "write a number from 0 to 100").of("routes.invoke.rollout.percent");
        let at = problem.clone().at(Some(&Origin::At { line: 12, column: 5 }));
        assert_eq!(
            at.in_file("config/omnidaemon.yaml"),
            "config/omnidaemon.yaml:12:5: routes.invoke.rollout.percent: 110 is over 100: write a number from 0 to 100"
        );
        let by_variable = problem.at(Some(&Origin::Variable("OMNIDAEMON__X".into())));
        assert!(by_variable.in_file("f").starts_with("OMNIDAEMON__X: routes.invoke"));
    }

    #[test]
    fn a_report_ends_with_the_count_and_shows_no_more_than_can_be_read() {
        let list = vec![Problem::new("m", "h"); 1000];
        let report = Problems { file: "f".into(), list: list.clone() }.to_string();
        assert_eq!(report.lines().count(), SHOWN + 1);
        assert!(report.ends_with("1000 problems, the first 50 shown"));
        assert_eq!(Problems { file: "f".into(), list: list[..1].to_vec() }.to_string(), "f: m: h\n1 problem");
    }

    #[test]
    fn shown_text_cannot_drive_a_terminal() {
        assert_eq!(shown("a\u{1b}[31m'\"b"), "`a\\u{1b}[31m'\"b`");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), 63);
    }
}
