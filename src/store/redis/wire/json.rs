//! JSON helpers that all stored forms share, and reading JSON that other programs wrote.
//!
//! Python's `json` writes NaN and Infinity, which JSON does not have, and a program can save any
//! bytes. Such a text is repaired where that is possible, so that one number or one field does not
//! make the rest unreadable.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::store::StoreError;

/// A stored form as JSON text.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Malformed(error.to_string()))
}

pub(crate) fn parse_json_string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// A field as far as it can be read; none where its value is not a `T`.
pub(crate) fn parse_leniently<'de, D, T>(field: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    <&RawValue>::deserialize(field).map(|raw| serde_json::from_str(raw.get()).ok())
}

/// The JSON text of another program, with what JSON does not have replaced: NaN and Infinity by
/// null, bytes that are not UTF-8 by U+FFFD. The second value names what was replaced; it is none
/// where nothing was.
pub(crate) fn repair_foreign_json(data: &[u8]) -> (String, Option<String>) {
    let text = String::from_utf8_lossy(data);
    let is_utf8 = matches!(text, std::borrow::Cow::Borrowed(_));
    let (text, has_non_finite) = replace_non_finite(&text);
    let replaced = match (has_non_finite, is_utf8) {
        (false, true) => return (text, None),
        (true, true) => "NaN or Infinity, which JSON does not have, is null here",
        (false, false) => "bytes that are not UTF-8 are replaced here",
        (true, false) => {
            "NaN or Infinity, which JSON does not have, is null here, and bytes that are not UTF-8 \
             are replaced"
        }
    };
    (text, Some(replaced.to_owned()))
}

/// The text with null for each NaN and Infinity outside of strings, and whether there was one.
fn replace_non_finite(text: &str) -> (String, bool) {
    const NON_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let (mut replaced, mut rest, mut in_string, mut found) =
        (String::with_capacity(text.len()), text, false, false);
    while let Some(next) = rest.find(['"', '\\', 'N', 'I', '-']) {
        replaced.push_str(&rest[..next]);
        rest = &rest[next..];
        let token = NON_FINITE.into_iter().find(|token| !in_string && rest.starts_with(token));
        if let Some(token) = token {
            replaced.push_str("null");
            (rest, found) = (&rest[token.len()..], true);
            continue;
        }
        // an escape is passed over with the character that it escapes
        let escaped = if in_string && rest.starts_with('\\') { 2 } else { 1 };
        let length = rest.chars().take(escaped).map(char::len_utf8).sum();
        in_string ^= rest.starts_with('"');
        replaced.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    replaced.push_str(rest);
    (replaced, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_numbers_become_null_outside_of_strings_only() {
        for (text, repaired) in [
            (
                r#"{"a": NaN, "b": [Infinity, -Infinity, -1]}"#,
                r#"{"a": null, "b": [null, null, -1]}"#,
            ),
            (r#"["NaN", "\"NaN", "\\", NaN]"#, r#"["NaN", "\"NaN", "\\", null]"#),
            ("NaN", "null"),
            (r#"{"a": 1}"#, r#"{"a": 1}"#),
        ] {
            let (found, note) = repair_foreign_json(text.as_bytes());
            assert_eq!((found.as_str(), note.is_some()), (repaired, text != repaired));
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced_and_named() {
        let (text, note) = repair_foreign_json(b"{\"a\":\"\xff\"}");
        assert_eq!(text, "{\"a\":\"\u{fffd}\"}");
        assert!(note.expect("named").contains("UTF-8"));
    }
}
