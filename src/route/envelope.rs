//! Parses a request body: an envelope that names its topic, or the payload itself.
//!
//! An envelope is an object with `topic`, `payload` and no key outside of [`ENVELOPE_KEYS`]. Any
//! other body, including an object with one unknown key, is the payload for the route's topic. A
//! legacy call can have such keys by chance, so its body is an envelope only if it names a topic of
//! its route; a body that does not is never refused for its shape.

use std::time::Duration;

use bytes::Bytes;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::task::Topic;

/// The allowed keys of an envelope.
const ENVELOPE_KEYS: [&str; 6] =
    ["topic", "payload", "correlation_id", "webhook", "reply_to", "delay"];
/// The longest allowed `delay`.
const MAX_ENVELOPE_DELAY: Duration = Duration::from_hours(30 * 24);
/// The deepest allowed nesting; deeper JSON would overflow the stack of later parsers.
const MAX_DEPTH: usize = 128;

/// A parsed request body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedBody {
    /// The envelope's `topic`.
    pub topic: Option<Topic>,
    /// The payload as JSON text.
    pub payload: Bytes,
    /// The envelope's `correlation_id`.
    pub correlation_id: Option<String>,
    /// The envelope's `webhook`: the URL that is called when the task ends.
    pub webhook: Option<String>,
    /// The envelope's `reply_to`: the topic that receives the result.
    pub reply_to: Option<Topic>,
    /// The envelope's `delay` before the first attempt: seconds as a number, or a text such as
    /// `10s`.
    pub delay: Option<Duration>,
}

/// Why a body cannot become a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is not JSON, or not UTF-8.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// The body is nested too deeply.
    #[error("the body is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// The top-level object has the same key twice.
    #[error("the body has the key {0:?} twice")]
    DuplicateKey(String),
    /// A key of the envelope has a value of the wrong type.
    #[error("{key} must be {must_be}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// The required type.
        must_be: &'static str,
    },
}

/// Parses the body of a submitted task. Whether its topic exists is checked by `build_task`.
pub fn parse_body(body: &Bytes) -> Result<ParsedBody, BodyError> {
    parse_body_if(body, |_| true)
}

/// Parses the body of a legacy call, which is an envelope only if `names_topic` accepts the text of
/// its `topic`.
pub fn parse_legacy_call(
    body: &Bytes,
    names_topic: impl Fn(&str) -> bool,
) -> Result<ParsedBody, BodyError> {
    parse_body_if(body, |topic| parse_string(topic).is_some_and(|topic| names_topic(&topic)))
}

fn parse_body_if(
    body: &Bytes,
    is_envelope_topic: impl Fn(&RawValue) -> bool,
) -> Result<ParsedBody, BodyError> {
    check_depth(body)?;
    let json: &RawValue =
        serde_json::from_slice(body).map_err(|error| BodyError::NotJson(error.to_string()))?;
    let payload = body.slice_ref(json.get().as_bytes());
    let bare = ParsedBody { payload, ..ParsedBody::default() };
    if !json.get().starts_with('{') {
        return Ok(bare);
    }
    let fields = parse_top_level(json)?;
    let has = |key| fields.iter().any(|(name, _)| name == key);
    let topic = fields.iter().find(|(name, _)| name == "topic").map(|(_, value)| *value);
    let envelope = has("payload")
        && fields.iter().all(|(name, _)| ENVELOPE_KEYS.contains(&name.as_str()))
        && topic.is_some_and(is_envelope_topic);
    if envelope { parse_envelope(body, &fields) } else { Ok(bare) }
}

fn parse_envelope(body: &Bytes, fields: &[(String, &RawValue)]) -> Result<ParsedBody, BodyError> {
    let mut parsed = ParsedBody::default();
    for (name, value) in fields {
        match name.as_str() {
            "payload" => parsed.payload = body.slice_ref(value.get().as_bytes()),
            "topic" => parsed.topic = Some(parse_topic_field("topic", value)?),
            _ if value.get() == "null" => {}
            "correlation_id" => {
                let text = parse_string(value).filter(|text| text.len() <= 256);
                let must_be = "a string of at most 256 bytes";
                parsed.correlation_id =
                    Some(text.ok_or(BodyError::WrongType { key: "correlation_id", must_be })?);
            }
            "webhook" => {
                let wrong = BodyError::WrongType { key: "webhook", must_be: "a URL as a string" };
                parsed.webhook = Some(parse_string(value).ok_or(wrong)?);
            }
            "reply_to" => parsed.reply_to = Some(parse_topic_field("reply_to", value)?),
            "delay" => parsed.delay = Some(parse_delay_field(value)?),
            _ => {}
        }
    }
    Ok(parsed)
}

fn parse_topic_field(key: &'static str, value: &RawValue) -> Result<Topic, BodyError> {
    let text = parse_string(value).ok_or(BodyError::WrongType { key, must_be: "a string" })?;
    let must_be = "1 to 200 characters of A-Z a-z 0-9 . _ -";
    Topic::parse(&text).map_err(|_| BodyError::WrongType { key, must_be })
}

fn parse_delay_field(value: &RawValue) -> Result<Duration, BodyError> {
    let must_be = "seconds, or a duration such as \"10s\" or \"1h30m\", up to 30 days";
    let delay = match parse_string(value) {
        Some(text) => humantime::parse_duration(&text).ok(),
        None => serde_json::from_str::<f64>(value.get())
            .ok()
            .and_then(|n| Duration::try_from_secs_f64(n).ok()),
    };
    delay
        .filter(|delay| *delay <= MAX_ENVELOPE_DELAY)
        .ok_or(BodyError::WrongType { key: "delay", must_be })
}

fn parse_string(json: &RawValue) -> Option<String> {
    serde_json::from_str(json.get()).ok()
}

/// The fields of an object in their order, with the values unparsed.
fn parse_top_level(json: &RawValue) -> Result<Vec<(String, &RawValue)>, BodyError> {
    struct TopLevelVisitor;
    impl<'de> Visitor<'de> for TopLevelVisitor {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(entry) = map.next_entry()? {
                fields.push(entry);
            }
            Ok(fields)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(json.get());
    let fields = reader
        .deserialize_map(TopLevelVisitor)
        .map_err(|error| BodyError::NotJson(error.to_string()))?;
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(BodyError::DuplicateKey(pair[0].to_owned())),
        None => Ok(fields),
    }
}

/// Checks the nesting by counting brackets outside of strings, before any recursive parser runs.
fn check_depth(body: &[u8]) -> Result<(), BodyError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(BodyError::TooDeep);
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_text(text: &str) -> Result<ParsedBody, BodyError> {
        parse_body(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn an_envelope_names_its_topic_and_anything_else_is_the_payload() {
        let envelope = parse_text(
            r#"{"topic":"genesis.build","payload":{"a": 1},"correlation_id":"c","delay":null}"#,
        );
        let envelope = envelope.expect("an envelope");
        assert_eq!(envelope.topic.as_ref().map(Topic::as_str), Some("genesis.build"));
        assert_eq!(
            (&envelope.payload[..], envelope.correlation_id.as_deref()),
            (&b"{\"a\": 1}"[..], Some("c"))
        );
        for bare in [
            r#"{"topic":"t"}"#,
            r#"{"topic":"t","payload":1,"agent":"x"}"#,
            "[1]",
            "\"x\"",
            " 1 ",
            "{}",
        ] {
            let parsed = parse_text(bare).expect("a payload");
            assert_eq!(
                (parsed.topic, &parsed.payload[..]),
                (None, bare.trim().as_bytes()),
                "{bare}"
            );
        }
    }

    #[test]
    fn a_legacy_body_that_looks_like_an_envelope_is_a_payload() {
        let parse = |text: &str| {
            parse_legacy_call(&Bytes::copy_from_slice(text.as_bytes()), |topic| topic == "own")
        };
        for body in [
            r#"{"topic":"sports","payload":"news"}"#,
            r#"{"topic":"sports","payload":"news","delay":"soon","webhook":7}"#,
            r#"{"topic":"a/b c","payload":{}}"#,
            r#"{"topic":7,"payload":{}}"#,
            r#"{"topic":"own"}"#,
            r#"{"topic":"own","payload":1,"more":2}"#,
        ] {
            let parsed = parse(body).expect("a payload");
            let bare = ParsedBody { payload: body.to_owned().into(), ..ParsedBody::default() };
            assert_eq!(parsed, bare, "{body}");
        }
        let own = parse(r#"{"topic":"own","payload":1,"delay":2}"#).expect("an envelope");
        assert_eq!(
            (own.topic.as_ref().map(Topic::as_str), own.delay),
            (Some("own"), Some(Duration::from_secs(2)))
        );
    }

    #[test]
    fn each_wrong_body_has_its_own_error() {
        assert!(matches!(parse_text("{"), Err(BodyError::NotJson(_))));
        assert!(matches!(parse_text(""), Err(BodyError::NotJson(_))));
        assert_eq!(parse_text(&"[".repeat(100_000)), Err(BodyError::TooDeep));
        assert_eq!(parse_text(r#"{"a":1,"\u0061":2}"#), Err(BodyError::DuplicateKey("a".into())));
        assert!(matches!(
            parse_text(r#"{"topic":1,"payload":{}}"#),
            Err(BodyError::WrongType { key: "topic", .. })
        ));
        assert!(matches!(
            parse_text(r#"{"topic":"a/b","payload":{}}"#),
            Err(BodyError::WrongType { key: "topic", .. })
        ));
        assert!(matches!(
            parse_text(r#"{"topic":"t","payload":{},"webhook":1}"#),
            Err(BodyError::WrongType { key: "webhook", .. })
        ));
        assert!(matches!(
            parse_text(r#"{"topic":"t","payload":{},"reply_to":""}"#),
            Err(BodyError::WrongType { key: "reply_to", .. })
        ));
        assert!(matches!(parse_body(&Bytes::from_static(b"\"\xff\"")), Err(BodyError::NotJson(_))));
    }

    #[test]
    fn an_envelope_names_webhook_reply_topic_and_delay() {
        let with = |rest: &str| parse_text(&format!(r#"{{"topic":"t","payload":1,{rest}}}"#));
        let envelope = with(r#""webhook":"https://a/b","reply_to":"r.x""#).expect("an envelope");
        assert_eq!(
            (envelope.webhook.as_deref(), envelope.reply_to.as_ref().map(Topic::as_str)),
            (Some("https://a/b"), Some("r.x"))
        );
        assert_eq!(
            with(r#""webhook":null,"reply_to":null,"delay":null"#),
            with(r#""correlation_id":null"#)
        );
        for (delay, millis) in [
            ("10", 10_000),
            ("0", 0),
            ("1.5", 1500),
            ("\"10s\"", 10_000),
            ("\"1h 30m\"", 5_400_000),
        ] {
            let parsed = with(&format!("\"delay\":{delay}")).expect("a delay");
            assert_eq!(parsed.delay, Some(Duration::from_millis(millis)), "{delay}");
        }
        for bad in ["-1", "\"10\"", "\"soon\"", "true", "1e300", "2592001", "\"31d\"", "[1]", "{}"]
        {
            let wrong = with(&format!("\"delay\":{bad}"));
            assert!(
                matches!(wrong, Err(BodyError::WrongType { key: "delay", .. })),
                "{bad}: {wrong:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn brackets_in_strings_are_not_counted_as_depth(text in "[\\[{\\\\\"a]{0,400}") {
            let json = serde_json::to_string(&text).expect("a string serializes");
            prop_assert!(parse_text(&json).is_ok());
        }
    }
}
