//! A wall clock that is off, for one process: libfaketime, preloaded. Time that only goes on is
//! left as it is, so that pauses and deadlines are what they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tempfile::NamedTempFile;

const FAKETIME_LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// How old a line of a log may be that was read in time.
const MAX_LOG_AGE: SignedDuration = SignedDuration::from_mins(5);

/// How far a clock is off.
#[derive(Clone, Copy, Debug)]
pub struct ClockOffset(SignedDuration);

impl ClockOffset {
    /// Ahead of this machine's.
    pub fn ahead(by: Duration) -> Self {
        Self(by.try_into().expect("a time to be ahead by"))
    }

    /// Behind it.
    pub fn behind(by: Duration) -> Self {
        Self(-Self::ahead(by).0)
    }

    /// The variables that put a process's clock off.
    pub fn environment_variables(self) -> Vec<(String, String)> {
        let library = find_faketime();
        let shift = format!("{:+}s", self.0.as_secs());
        let all = [
            ("LD_PRELOAD", library.to_str().expect("UTF-8")),
            ("FAKETIME", shift.as_str()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// # Panics
    /// When a log that was written just now does not begin with the time of a clock that is off by
    /// this much.
    pub fn assert_in_logs(self, lines: &[String]) {
        let said = lines.first().and_then(|line| line.split(' ').next()).unwrap_or_default();
        let at: Timestamp = said
            .parse()
            .unwrap_or_else(|error| panic!("no time heads the log ({error}): {lines:?}"));
        let age = Timestamp::now().duration_since(at) + self.0;
        assert!(
            (-MAX_LOG_AGE..MAX_LOG_AGE).contains(&age),
            "a clock that should be off by {:?} says {said}",
            self.0
        );
    }
}

/// A wall clock that a test sets while processes run under it.
pub struct AdjustableClock {
    file: NamedTempFile,
}

impl AdjustableClock {
    /// A clock that is right, until it is set.
    pub fn new() -> Self {
        let clock = Self { file: NamedTempFile::new().expect("a file") };
        clock.set_ahead(SignedDuration::ZERO);
        clock
    }

    /// Sets it ahead of this machine's clock by so much, for all processes at once.
    pub fn set_ahead(&self, by: SignedDuration) {
        // replaced at once: a process may read it at any time
        let next = self.file.path().with_extension("next");
        std::fs::write(&next, format!("{:+}s", by.as_secs())).expect("written");
        std::fs::rename(next, self.file.path()).expect("renamed");
    }

    /// The variables that put a process under this clock.
    pub fn environment_variables(&self) -> Vec<(String, String)> {
        let file = self.file.path().to_str().expect("UTF-8").to_owned();
        let mut variables = ClockOffset::ahead(Duration::ZERO).environment_variables();
        variables.retain(|(name, _)| name != "FAKETIME");
        variables.push(("FAKETIME_TIMESTAMP_FILE".to_owned(), file));
        variables.push(("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()));
        variables
    }
}

fn find_faketime() -> PathBuf {
    let folders =
        std::fs::read_dir("/usr/lib").expect("it is there").flatten().map(|entry| entry.path());
    let found = folders
        .chain([Path::new("/usr/lib").into()])
        .map(|folder| folder.join(FAKETIME_LIBRARY))
        .find(|at| at.exists());
    found.unwrap_or_else(|| {
        panic!("no {FAKETIME_LIBRARY} below /usr/lib: install libfaketime, as `scripts/test` does")
    })
}
