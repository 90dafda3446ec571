//! Problems and warnings of a configuration: what is wrong, where, and what to write instead.
//!
//! All loading stages add to one [`ConfigDiagnostics`] and go on after a problem, so that one run
//! reports every mistake of a file. A problem names its position: line and column of the file, or
//! the environment variable that set the value.

use std::fmt;

/// The most problems that are printed; a file with more is probably no configuration.
const MAX_SHOWN_PROBLEMS: usize = 50;

/// Where a key or value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ValueOrigin {
    /// The configuration file; line and column count from 1.
    InFile {
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// The environment variable of this name.
    FromVariable(String),
}

/// One problem or warning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The line, from 1; none when the problem is not at a line of the file.
    pub line: Option<usize>,
    /// The column, from 1.
    pub column: Option<usize>,
    /// The environment variable that set the value.
    pub variable: Option<String>,
    /// The path of the key, such as `routes.invoke.rollout.percent`; empty for the whole file.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl ConfigProblem {
    /// A problem of the whole file: without a field and without a position.
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), ..Self::default() }
    }

    /// Sets the field that the problem is about.
    pub(crate) fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    /// Sets the position, where `origin` has one.
    pub(crate) fn with_origin(mut self, origin: Option<&ValueOrigin>) -> Self {
        match origin {
            Some(ValueOrigin::InFile { line, column }) => {
                (self.line, self.column) = (Some(*line), Some(*column));
            }
            Some(ValueOrigin::FromVariable(name)) => self.variable = Some(name.clone()),
            None => {}
        }
        self
    }

    /// The problem as one line: `FILE:LINE:COLUMN: FIELD: MESSAGE: HINT`. Parts that are not known
    /// are left out; the name of a variable takes the place of `FILE:LINE:COLUMN`.
    #[must_use]
    pub fn render_line(&self, file: &str) -> String {
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

/// All problems of a configuration that was refused; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigProblems {
    /// The path of the file, or `arguments` for a configuration from command-line arguments.
    pub file: String,
    /// The problems in the order of the lines.
    pub problems: Vec<ConfigProblem>,
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.problems.iter().take(MAX_SHOWN_PROBLEMS) {
            writeln!(f, "{}", problem.render_line(&self.file))?;
        }
        match self.problems.len() {
            1 => write!(f, "1 problem"),
            count if count <= MAX_SHOWN_PROBLEMS => write!(f, "{count} problems"),
            count => write!(f, "{count} problems, the first {MAX_SHOWN_PROBLEMS} shown"),
        }
    }
}

/// The problems and warnings that the stages have found so far.
#[derive(Debug, Default)]
pub(crate) struct ConfigDiagnostics {
    /// Mistakes; with one of them the configuration is refused.
    pub(crate) problems: Vec<ConfigProblem>,
    /// Likely mistakes; the configuration is used.
    pub(crate) warnings: Vec<ConfigProblem>,
}

impl ConfigDiagnostics {
    /// Sorts both lists by line and column; entries without a line come first.
    pub(crate) fn sort_by_position(&mut self) {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.warnings.sort_by_key(|problem| (problem.line, problem.column));
    }
}

/// `text` for a message: in backticks, cut after 60 characters, and with control characters
/// escaped so that a terminal does not act on them.
pub(crate) fn quote_for_message(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut short: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        short.push('…');
    }
    format!("`{}`", short.replace("\\\"", "\"").replace("\\'", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_place_field_message_hint() {
        let problem = ConfigProblem::new("110 is over 100", "write a number from 0 to 100")
            .with_field("routes.invoke.rollout.percent");
        let at = problem.clone().with_origin(Some(&ValueOrigin::InFile { line: 12, column: 5 }));
        assert_eq!(
            at.render_line("config/omnidaemon.yaml"),
            "config/omnidaemon.yaml:12:5: routes.invoke.rollout.percent: 110 is over 100: write a \
                number from 0 to 100"
        );
        let by_variable =
            problem.with_origin(Some(&ValueOrigin::FromVariable("OMNIDAEMON__X".into())));
        assert!(by_variable.render_line("f").starts_with("OMNIDAEMON__X: routes.invoke"));
    }

    #[test]
    fn a_report_ends_with_the_count_and_shows_no_more_than_can_be_read() {
        let list = vec![ConfigProblem::new("m", "h"); 1000];
        let report = ConfigProblems { file: "f".into(), problems: list.clone() }.to_string();
        assert_eq!(report.lines().count(), MAX_SHOWN_PROBLEMS + 1);
        assert!(report.ends_with("1000 problems, the first 50 shown"));
        assert_eq!(
            ConfigProblems { file: "f".into(), problems: list[..1].to_vec() }.to_string(),
            "f: m: h\n1 problem"
        );
    }

    #[test]
    fn shown_text_cannot_drive_a_terminal() {
        assert_eq!(quote_for_message("a\u{1b}[31m'\"b"), "`a\\u{1b}[31m'\"b`");
        assert_eq!(quote_for_message(&"x".repeat(1000)).chars().count(), 63);
    }
}
