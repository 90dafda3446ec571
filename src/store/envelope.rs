//! How requests, answers and failures are written down: serde mirrors that carry a schema version.
//!
//! Version N reads N−1. JSON bodies are kept as they came, white space and number spelling included
//! (`RawValue`); bodies that are not UTF-8 go through base64 and header values through latin-1, so that
//! what a client gets back is what the upstream sent, byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::StoreError;
use crate::task::{Answer, CapturedRequest, Failure, FailureKind};

/// The version that this release writes.
pub(super) const VERSION: u8 = 1;

type StoredHeaders = Vec<(String, String)>;

/// A captured request. Without a body it has the task's payload as one.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredRequest {
    v: u8,
    method: String,
    target: String,
    headers: StoredHeaders,
    #[serde(flatten)]
    body: StoredBody,
}

/// Bytes: text where they are text, else base64; neither where they are kept elsewhere.
#[derive(Default, Serialize, Deserialize)]
struct StoredBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_b64: Option<String>,
}

/// Headers that are kept apart from the request, and only until the task ends.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredCredentials(StoredHeaders);

/// An answer without its result, which stands beside it.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAnswer {
    v: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: StoredHeaders,
    #[serde(default)]
    verbatim: bool,
    #[serde(flatten)]
    body: StoredBody,
}

/// A failure, with the answer that counted as one.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredFailure {
    v: u8,
    kind: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<StoredAnswer>,
}

// === impl StoredRequest ===

impl StoredRequest {
    /// Writes a request down, and apart from it the headers that are secret.
    pub(super) fn seal(request: &CapturedRequest, payload: &[u8]) -> (Self, Option<StoredCredentials>) {
        let (secret, open): (StoredHeaders, StoredHeaders) =
            seal_headers(&request.headers).into_iter().partition(|(name, _)| is_credential(name));
        let body = if request.body == payload { StoredBody::default() } else { StoredBody::seal(&request.body) };
        let stored = Self {
            v: VERSION,
            method: request.method.to_string(),
            target: request.target.clone(),
            headers: open,
            body,
        };
        (stored, (!secret.is_empty()).then_some(StoredCredentials(secret)))
    }

    /// A header that is no secret.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Reads a request back; `payload` is its body where it has none of its own.
    pub(super) fn open(
        self,
        credentials: Option<StoredCredentials>,
        payload: &Bytes,
    ) -> Result<CapturedRequest, StoreError> {
        check_version(self.v)?;
        let mut headers = open_headers(self.headers)?;
        for (name, value) in credentials.into_iter().flat_map(|stored| stored.0) {
            headers.append(header_name(&name)?, header_value(&value)?);
        }
        Ok(CapturedRequest {
            method: Method::from_bytes(self.method.as_bytes()).map_err(malformed)?,
            target: self.target,
            headers,
            body: self.body.open()?.unwrap_or_else(|| payload.clone()),
        })
    }
}

fn is_credential(name: &str) -> bool {
    matches!(name, "authorization" | "cookie" | "proxy-authorization" | "x-api-key")
}

// === impl StoredBody ===

impl StoredBody {
    fn seal(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { body: Some(text.to_owned()), body_b64: None },
            Err(_) => Self { body: None, body_b64: Some(BASE64.encode(bytes)) },
        }
    }

    fn open(self) -> Result<Option<Bytes>, StoreError> {
        match (self.body, self.body_b64) {
            (Some(text), _) => Ok(Some(text.into())),
            (None, Some(base64)) => BASE64.decode(base64).map(|bytes| Some(bytes.into())).map_err(malformed),
            (None, None) => Ok(None),
        }
    }
}

// === impl StoredAnswer ===

impl StoredAnswer {
    /// Writes an answer down: the rest of it, and its result as JSON.
    pub(super) fn seal(answer: &Answer) -> (Self, Box<RawValue>) {
        let result = result_json(&answer.body);
        let same = result.get().as_bytes() == answer.body;
        let stored = Self {
            v: VERSION,
            status: answer.status.map(|status| status.as_u16()),
            headers: seal_headers(&answer.headers),
            verbatim: answer.verbatim,
            body: if same { StoredBody::default() } else { StoredBody::seal(&answer.body) },
        };
        (stored, result)
    }

    /// Writes an answer down with its body in it.
    pub(super) fn whole(answer: &Answer) -> Self {
        let (stored, _) = Self::seal(answer);
        Self { body: StoredBody::seal(&answer.body), ..stored }
    }

    /// Reads an answer back; `result` is its body where it has none of its own.
    pub(super) fn open(self, result: Option<&RawValue>) -> Result<Answer, StoreError> {
        check_version(self.v)?;
        let status = self.status.map(StatusCode::from_u16).transpose().map_err(malformed)?;
        let body = match self.body.open()? {
            Some(body) => body,
            None => Bytes::copy_from_slice(result.map_or(b"null".as_slice(), |json| json.get().as_bytes())),
        };
        Ok(Answer { status, headers: open_headers(self.headers)?, body, verbatim: self.verbatim })
    }
}

/// A body as JSON: itself where it is JSON, else a string of it.
#[must_use]
pub(super) fn result_json(body: &[u8]) -> Box<RawValue> {
    if let Ok(json) = serde_json::from_slice::<&RawValue>(body) {
        return json.to_owned();
    }
    let text = String::from_utf8_lossy(body);
    serde_json::value::to_raw_value(&text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

// === impl StoredFailure ===

impl StoredFailure {
    /// Writes a failure down, its answer included.
    pub(super) fn seal(failure: &Failure) -> Self {
        let answer = failure.answer.as_ref().map(StoredAnswer::whole);
        Self { v: VERSION, kind: failure.kind.as_str().into(), message: failure.message.clone(), answer }
    }

    /// Reads a failure back.
    pub(super) fn open(self) -> Result<Failure, StoreError> {
        check_version(self.v)?;
        Ok(Failure {
            kind: FailureKind::from_word(&self.kind),
            message: self.message,
            answer: self.answer.map(|stored| stored.open(None)).transpose()?,
        })
    }
}

// === headers ===

fn seal_headers(headers: &HeaderMap) -> StoredHeaders {
    let latin1 = |value: &HeaderValue| value.as_bytes().iter().map(|&byte| char::from(byte)).collect();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), latin1(value))).collect()
}

fn open_headers(stored: StoredHeaders) -> Result<HeaderMap, StoreError> {
    let mut headers = HeaderMap::with_capacity(stored.len());
    for (name, value) in stored {
        headers.append(header_name(&name)?, header_value(&value)?);
    }
    Ok(headers)
}

fn header_name(name: &str) -> Result<HeaderName, StoreError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(malformed)
}

fn header_value(latin1: &str) -> Result<HeaderValue, StoreError> {
    let bytes: Result<Vec<u8>, _> = latin1.chars().map(|c| u8::try_from(u32::from(c))).collect();
    HeaderValue::from_bytes(&bytes.map_err(malformed)?).map_err(malformed)
}

fn check_version(v: u8) -> Result<(), StoreError> {
    if (VERSION.saturating_sub(1)..=VERSION).contains(&v) {
        return Ok(());
    }
    Err(StoreError::Malformed(format!("schema version {v}, this release reads {VERSION} and the one before it")))
}

#[allow(clippy::needless_pass_by_value)] // as the argument of map_err
fn malformed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through_json<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).expect("serializes")).expect("reads back")
    }

    fn headers(value: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-bytes", HeaderValue::from_bytes(value).expect("a header value"));
        headers
    }

    proptest! {
        #[test]
        fn answers_come_back_byte_for_byte(body in proptest::collection::vec(any::<u8>(), 0..64), high in 0x80u8..) {
            let answer = Answer {
                status: Some(StatusCode::CREATED),
                headers: headers(&[b'a', high]),
                body: body.into(),
                verbatim: true,
            };
            let (stored, result) = StoredAnswer::seal(&answer);
            prop_assert_eq!(through_json(&stored).open(Some(&result)), Ok(answer.clone()));
            let failure = Failure { answer: Some(answer), ..Failure::new(FailureKind::Status, "status 500") };
            prop_assert_eq!(through_json(&StoredFailure::seal(&failure)).open(), Ok(failure));
        }
    }

    #[test]
    fn json_bodies_keep_their_spelling() {
        for text in ["{\"a\": 1.0e2,  \"b\":[ ]}", " {\"a\":1}\n", "\"x\"", "", "plain"] {
            let answer = Answer::json(text);
            let (stored, result) = StoredAnswer::seal(&answer);
            let result: Box<RawValue> = through_json(&result);
            assert_eq!(through_json(&stored).open(Some(&result)), Ok(answer), "{text}");
        }
    }

    #[test]
    fn credentials_are_kept_apart_and_the_payload_is_not_kept_twice() {
        let mut headers = headers(b"x");
        headers.insert("authorization", HeaderValue::from_static("Bearer s"));
        headers.append("cookie", HeaderValue::from_static("a=b"));
        let request =
            CapturedRequest { method: Method::POST, target: "/invoke?x=1".into(), headers, body: Bytes::from("{}") };
        let (stored, secret) = StoredRequest::seal(&request, b"{}");
        let json = serde_json::to_string(&stored).expect("serializes");
        assert!(!json.contains("Bearer") && !json.contains("a=b") && !json.contains("body"), "{json}");
        assert_eq!(through_json(&stored).open(secret, &Bytes::from("{}")), Ok(request));
    }

    #[test]
    fn another_schema_version_is_refused_by_number() {
        let stored = StoredFailure { v: 9, ..StoredFailure::seal(&Failure::new(FailureKind::Crash, "x")) };
        assert!(stored.open().expect_err("too new").to_string().contains("schema version 9"));
    }
}
