//! The error of a value in the configuration, and suggestions for misspelled words.

/// What is wrong with a value (`message`), and what to write instead (`hint`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl FieldError {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// A hint for an unknown `word`: the most similar of the `known` words, or else all of them.
pub(crate) fn suggest(word: &str, known: &[&str]) -> String {
    let distance = |other: &str| strsim::damerau_levenshtein(&word.to_lowercase(), other);
    let nearest = known.iter().map(|other| (distance(other), other)).min();
    match nearest {
        Some((far, other)) if word.len() < 64 && far <= 1 + other.len() / 4 => {
            format!("did you mean `{other}`?")
        }
        _ if known.is_empty() => "delete it".into(),
        _ => format!(
            "known are {}",
            known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
        ),
    }
}
