//! The progress that a handler reports of a running attempt.

/// The completed fraction of an attempt, and a note about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskProgress {
    /// An integer, so that the type is comparable; finer steps are never shown.
    ten_thousandths: u16,
    note: Option<String>,
}

impl TaskProgress {
    /// The longest note, characters; the rest is cut off.
    pub const MAX_NOTE_CHARS: usize = 200;

    /// The progress `fraction`, clamped to 0 to 1, with `note` on one line unless it is blank.
    /// `None` if the fraction is not a number.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 10,000
    pub fn new(fraction: f64, note: Option<&str>) -> Option<Self> {
        if fraction.is_nan() {
            return None;
        }
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let short = |note: &str| -> String {
            note.chars()
                .map(plain)
                .skip_while(|c| c.is_whitespace())
                .take(Self::MAX_NOTE_CHARS)
                .collect()
        };
        let note = note.map(|note| short(note).trim_end().to_owned());
        let parts = (fraction.clamp(0.0, 1.0) * 10_000.0).round() as u16;
        Some(Self { ten_thousandths: parts, note: note.filter(|note| !note.is_empty()) })
    }

    /// The completed fraction, 0 to 1.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        f64::from(self.ten_thousandths) / 10_000.0
    }

    /// The note, if there is one.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_from_0_to_1_and_notes_are_short_and_on_one_line() {
        let fraction = |given| TaskProgress::new(given, None).map(|progress| progress.fraction());
        for (given, kept) in [
            (0.4, 0.4),
            (-1.0, 0.0),
            (7.0, 1.0),
            (f64::INFINITY, 1.0),
            (f64::NEG_INFINITY, 0.0),
            (1e-9, 0.0),
        ] {
            assert_eq!(fraction(given), Some(kept), "{given}");
        }
        assert_eq!(fraction(f64::NAN), None);
        let note =
            |given: &str| TaskProgress::new(0.0, Some(given)).and_then(|progress| progress.note);
        assert_eq!(note(" page 3\nof 7\u{1b} "), Some("page 3 of 7".into()));
        assert_eq!((note(""), note(" \n")), (None, None));
        assert_eq!(
            note(&"ä".repeat(1000)).map(|note| note.chars().count()),
            Some(TaskProgress::MAX_NOTE_CHARS)
        );
    }
}
