//! Compares two answers to one request: their statuses, and their bodies as JSON if both are JSON,
//! else byte by byte.
//!
//! JSON is compared by value: the order of keys does not matter, and 1 equals 1.0. An ignored JSON
//! pointer is treated as absent from both bodies. A difference is reported by its location alone,
//! without the values, since these may be private.

use http::StatusCode;
use serde_json::{Number, Value};

/// The first difference between two answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseDifference {
    /// The statuses differ.
    Status,
    /// The bodies differ at this JSON pointer; the empty pointer is the whole body.
    Body(String),
}

/// The first difference between the answer to a request and that to its copy, each as status and
/// body, outside of the JSON pointers of `ignore`; `None` if they are equal.
#[must_use]
pub fn compare_responses(
    original: (StatusCode, &[u8]),
    copy: (StatusCode, &[u8]),
    ignore: &[String],
) -> Option<ResponseDifference> {
    if original.0 != copy.0 {
        return Some(ResponseDifference::Status);
    }
    let json = |body: &[u8]| serde_json::from_slice::<Value>(body);
    match (json(original.1), json(copy.1)) {
        (Ok(one), Ok(other)) => {
            let mut walk = JsonComparison { pointer: String::new(), ignore };
            walk.values_differ(Some(&one), Some(&other))
                .then_some(ResponseDifference::Body(walk.pointer))
        }
        _ => (original.1 != copy.1).then(|| ResponseDifference::Body(String::new())),
    }
}

/// A parallel walk through two JSON documents.
struct JsonComparison<'i> {
    /// The pointer of the current value; after the walk, that of the difference.
    pointer: String,
    ignore: &'i [String],
}

// === impl JsonComparison ===

impl JsonComparison<'_> {
    /// Whether two values differ in themselves or in a descendant; `None` is an absent value.
    fn values_differ(&mut self, one: Option<&Value>, other: Option<&Value>) -> bool {
        if self.ignore.contains(&self.pointer) {
            return false;
        }
        match (one, other) {
            (Some(Value::Object(one)), Some(Value::Object(other))) => {
                let added = other.keys().filter(|key| !one.contains_key(*key));
                one.keys()
                    .chain(added)
                    .any(|key| self.children_differ(key, one.get(key), other.get(key)))
            }
            (Some(Value::Array(one)), Some(Value::Array(other))) => (0..one.len().max(other.len()))
                .any(|index| {
                    self.children_differ(&index.to_string(), one.get(index), other.get(index))
                }),
            (Some(Value::Number(one)), Some(Value::Number(other))) => {
                !are_numbers_equal(one, other)
            }
            (one, other) => one != other,
        }
    }

    fn children_differ(&mut self, key: &str, one: Option<&Value>, other: Option<&Value>) -> bool {
        let here = self.pointer.len();
        self.pointer.push('/');
        for character in key.chars() {
            match character {
                '~' => self.pointer.push_str("~0"),
                '/' => self.pointer.push_str("~1"),
                other => self.pointer.push(other),
            }
        }
        let differ = self.values_differ(one, other);
        if !differ {
            self.pointer.truncate(here);
        }
        differ
    }
}

/// Whether two numbers are equal. Integers are compared as integers, since large ones would be
/// rounded to the same float.
fn are_numbers_equal(one: &Number, other: &Number) -> bool {
    one == other || (one.is_f64() || other.is_f64()) && one.as_f64() == other.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find_difference(one: &str, other: &str, ignore: &[&str]) -> Option<String> {
        let ignore: Vec<String> = ignore.iter().map(|&pointer| pointer.to_owned()).collect();
        let of = |body: &str| {
            compare_responses(
                (StatusCode::OK, one.as_bytes()),
                (StatusCode::OK, body.as_bytes()),
                &ignore,
            )
        };
        of(other).map(|difference| match difference {
            ResponseDifference::Body(at) => at,
            ResponseDifference::Status => unreachable!("both are 200"),
        })
    }

    #[test]
    fn json_is_compared_by_value() {
        for (one, other) in [
            (r#"{"a": 1, "b": [true, null]}"#, r#"{"b":[true,null],"a":1.0}"#),
            ("-0.0", "0"),
            ("[]", " [ ] "),
            ("\"\\u00e9\"", "\"é\""),
            ("not json", "not json"),
            ("", ""),
        ] {
            assert_eq!(find_difference(one, other, &[]), None, "{one} {other}");
        }
    }

    #[test]
    fn a_difference_is_reported_by_its_location() {
        for (one, other, place) in [
            (r#"{"a": {"b": [1, 2]}}"#, r#"{"a": {"b": [1, 3]}}"#, "/a/b/1"),
            (r#"{"a": 1}"#, r#"{"a": 1, "x/y~": null}"#, "/x~1y~0"),
            (r#"{"a": null}"#, "{}", "/a"),
            ("[1]", "[1, 2]", "/1"),
            ("[]", "{}", ""),
            ("1", "\"1\"", ""),
            ("9007199254740993", "9007199254740992", ""),
            ("text", "\"text\"", ""),
            ("text", "texts", ""),
        ] {
            assert_eq!(find_difference(one, other, &[]).as_deref(), Some(place), "{one} {other}");
            assert_eq!(find_difference(other, one, &[]).as_deref(), Some(place), "{other} {one}");
        }
        let differ = compare_responses((StatusCode::OK, b"1"), (StatusCode::CREATED, b"1"), &[]);
        assert_eq!(differ, Some(ResponseDifference::Status));
    }

    #[test]
    fn ignored_pointers_are_absent_from_both() {
        let (one, other) =
            (r#"{"t": 1, "a": [{"id": 1}, 2], "x/y": {"z": 1}}"#, r#"{"a": [{"id": 9}, 2, 3]}"#);
        assert_eq!(find_difference(one, other, &["/t", "/a/0/id", "/a/2", "/x~1y"]), None);
        assert_eq!(
            find_difference(one, other, &["/t", "/a/0/id", "/a/2"]).as_deref(),
            Some("/x~1y")
        );
        assert_eq!(find_difference(one, other, &["/t", "/a/0", "/x~1y"]).as_deref(), Some("/a/2"));
        assert_eq!(
            find_difference("[1]", "[2]", &["/00", "/0/0"]).as_deref(),
            Some("/0"),
            "pointers match exactly"
        );
    }

    fn any_document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-c/~]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-c/~]{0,2}", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The pointer of a difference finds it, and ignoring each difference in turn leaves none.
        #[test]
        fn ignoring_every_difference_leaves_none(one in any_document(), other in any_document()) {
            let (one_text, other_text) = (one.to_string(), other.to_string());
            prop_assert_eq!(find_difference(&one_text, &one_text, &[]), None);
            let mut ignore: Vec<String> = Vec::new();
            loop {
                let ignored: Vec<&str> = ignore.iter().map(String::as_str).collect();
                let Some(place) = find_difference(&one_text, &other_text, &ignored) else { break };
                prop_assert!(one.pointer(&place) != other.pointer(&place), "{}", place);
                prop_assert!(!ignore.contains(&place), "{} is ignored", place);
                ignore.push(place);
            }
        }
    }
}
