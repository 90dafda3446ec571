//! Finds programs and scripts of `command` handlers that do not exist, so that loading the
//! configuration reports them and not only the first task that fails.
//!
//! They are warnings and not problems: a file may be checked on another machine than the one that
//! runs its commands.

use std::env;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::config::diagnostics::quote_for_message;
use crate::config::parse::field_error::FieldError;

/// File name endings of arguments that are checked as scripts.
const SCRIPT_SUFFIXES: [&str; 3] = [".py", ".sh", ".js"];

/// Fails if `program`, a path or a name that is looked for in `PATH`, cannot be started.
///
/// # Errors
/// `NotFound`, or `PermissionDenied` for a path that exists and is no executable file.
pub(crate) fn check_program(program: &str) -> io::Result<()> {
    let path = Path::new(program);
    if is_executable_file(path) && program.contains('/')
        || !program.contains('/') && is_in_path(program)
    {
        return Ok(());
    }
    let is_denied = program.contains('/') && path.exists();
    Err(if is_denied { io::ErrorKind::PermissionDenied } else { io::ErrorKind::NotFound }.into())
}

/// The program and scripts of a command that do not exist, each with a message and a hint.
pub(crate) fn find_missing_programs(words: &[String]) -> Vec<FieldError> {
    let Some((program, arguments)) = words.split_first() else { return Vec::new() };
    let mut missing = Vec::new();
    if program.contains('/') && !is_executable_file(Path::new(program)) {
        let message = format!("{} is not a program that can be run", quote_for_message(program));
        missing.push(FieldError::new(
            message,
            "write the path of one, as seen from where omnidaemon is started",
        ));
    } else if !program.contains('/') && !is_in_path(program) {
        let message = format!("{} is not found in PATH", quote_for_message(program));
        missing.push(FieldError::new(message, "install it, or write its path"));
    }
    for script in arguments
        .iter()
        .filter(|word| looks_like_script(word))
        .filter(|script| !Path::new(script).exists())
    {
        let place = env::current_dir()
            .map_or_else(|_| "here".into(), |dir| format!("in {}", dir.display()));
        let message = format!("{} does not exist {place}", quote_for_message(script));
        missing.push(FieldError::new(
            message,
            "write a path relative to that directory, or start omnidaemon in another one",
        ));
    }
    missing
}

/// Whether an argument is probably the relative path of a script, and not an option, a URL or a
/// line of shell.
fn looks_like_script(word: &str) -> bool {
    SCRIPT_SUFFIXES.iter().any(|end| word.ends_with(end))
        && !word.starts_with(['-', '/'])
        && !word.contains(char::is_whitespace)
        && !word.contains("://")
}

fn is_in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    env::split_paths(&path).any(|dir| is_executable_file(&dir.join(program)))
}

fn is_executable_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_program_or_script_that_is_not_there_is_missing() {
        let missing = |words: &[&str]| -> Vec<String> {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            super::find_missing_programs(&words).into_iter().map(|wrong| wrong.message).collect()
        };
        for words in [
            &["sh", "-c", "cd x; ./y.sh"][..],
            &["sh", "http://h/x.sh", "-y.sh"],
            &["/bin/sh", "scripts/test-env"],
            &["sh", "examples/qa_agent.py"],
        ] {
            assert_eq!(missing(words), [""; 0], "{words:?}");
        }
        assert_eq!(missing(&["no-such-program", "x"]), ["`no-such-program` is not found in PATH"]);
        assert_eq!(missing(&["./Cargo.toml"]), ["`./Cargo.toml` is not a program that can be run"]);
        let script = missing(&["sh", "none/x.py"]);
        assert!(
            script.len() == 1 && script[0].starts_with("`none/x.py` does not exist in /"),
            "{script:?}"
        );
    }
}
