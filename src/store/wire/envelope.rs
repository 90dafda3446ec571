//! The stored JSON forms of requests, answers and failures: serde mirrors with a schema version.
//!
//! Version N also reads N−1. JSON bodies are stored unchanged, including white space and number
//! spelling (`RawValue`); bodies that are not UTF-8 are stored as base64 and header values as
//! latin-1, so that a client receives what the upstream sent, byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::error::StoreError;
use crate::task::{CapturedRequest, FailureKind, TaskAnswer, TaskFailure};

/// The schema version that this release writes.
pub(crate) const ENVELOPE_VERSION: u8 = 1;

type StoredHeaders = Vec<(String, String)>;

/// A captured request. Without a body here, the task's payload is the body.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredRequest {
    v: u8,
    method: String,
    target: String,
    headers: StoredHeaders,
    #[serde(flatten)]
    body: StoredBody,
}

/// A body: `body` where it is UTF-8, else `body_b64`; neither where the body is stored elsewhere.
#[derive(Default, Serialize, Deserialize)]
struct StoredBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_b64: Option<String>,
}

/// The headers with credentials, stored apart from the request and only until the task ends.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredCredentials(StoredHeaders);

/// An answer without its result, which is stored beside it.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredAnswer {
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

/// A failure, with the answer that counted as a failure.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredFailure {
    v: u8,
    kind: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<StoredAnswer>,
}

// === impl StoredRequest ===

impl StoredRequest {
    /// The stored form of a request, and apart from it its headers with credentials.
    pub(crate) fn encode_request(
        request: &CapturedRequest,
        payload: &[u8],
    ) -> (Self, Option<StoredCredentials>) {
        let (secret, open): (StoredHeaders, StoredHeaders) = encode_headers(&request.headers)
            .into_iter()
            .partition(|(name, _)| is_credential_header(name));
        let body = if request.body == payload {
            StoredBody::default()
        } else {
            StoredBody::from_bytes(&request.body)
        };
        let stored = Self {
            v: ENVELOPE_VERSION,
            method: request.method.to_string(),
            target: request.target.clone(),
            headers: open,
            body,
        };
        (stored, (!secret.is_empty()).then_some(StoredCredentials(secret)))
    }

    /// The value of a header that has no credentials.
    pub(crate) fn find_header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Decodes a request; `payload` is its body where the stored form has none.
    pub(crate) fn into_request(
        self,
        credentials: Option<StoredCredentials>,
        payload: &Bytes,
    ) -> Result<CapturedRequest, StoreError> {
        check_envelope_version(self.v)?;
        let mut headers = decode_headers(self.headers)?;
        for (name, value) in credentials.into_iter().flat_map(|stored| stored.0) {
            headers.append(parse_header_name(&name)?, decode_header_value(&value)?);
        }
        Ok(CapturedRequest {
            method: Method::from_bytes(self.method.as_bytes()).map_err(malformed_envelope)?,
            target: self.target,
            headers,
            body: self.body.into_bytes()?.unwrap_or_else(|| payload.clone()),
        })
    }
}

fn is_credential_header(name: &str) -> bool {
    matches!(name, "authorization" | "cookie" | "proxy-authorization" | "x-api-key")
}

// === impl StoredBody ===

impl StoredBody {
    fn from_bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { body: Some(text.to_owned()), body_b64: None },
            Err(_) => Self { body: None, body_b64: Some(BASE64.encode(bytes)) },
        }
    }

    fn into_bytes(self) -> Result<Option<Bytes>, StoreError> {
        match (self.body, self.body_b64) {
            (Some(text), _) => Ok(Some(text.into())),
            (None, Some(base64)) => {
                BASE64.decode(base64).map(|bytes| Some(bytes.into())).map_err(malformed_envelope)
            }
            (None, None) => Ok(None),
        }
    }
}

// === impl StoredAnswer ===

impl StoredAnswer {
    /// The stored form of an answer, and its result as JSON.
    pub(crate) fn encode_answer(answer: &TaskAnswer) -> (Self, Box<RawValue>) {
        let result = encode_result_json(&answer.body);
        let same = result.get().as_bytes() == answer.body;
        let stored = Self {
            v: ENVELOPE_VERSION,
            status: answer.status.map(|status| status.as_u16()),
            headers: encode_headers(&answer.headers),
            verbatim: answer.verbatim,
            body: if same { StoredBody::default() } else { StoredBody::from_bytes(&answer.body) },
        };
        (stored, result)
    }

    /// The stored form of an answer, including its body.
    pub(crate) fn from_whole_answer(answer: &TaskAnswer) -> Self {
        let (stored, _) = Self::encode_answer(answer);
        Self { body: StoredBody::from_bytes(&answer.body), ..stored }
    }

    /// Decodes an answer; `result` is its body where the stored form has none.
    pub(crate) fn into_answer(self, result: Option<&RawValue>) -> Result<TaskAnswer, StoreError> {
        check_envelope_version(self.v)?;
        let status =
            self.status.map(StatusCode::from_u16).transpose().map_err(malformed_envelope)?;
        let body = match self.body.into_bytes()? {
            Some(body) => body,
            None => Bytes::copy_from_slice(
                result.map_or(b"null".as_slice(), |json| json.get().as_bytes()),
            ),
        };
        Ok(TaskAnswer {
            status,
            headers: decode_headers(self.headers)?,
            body,
            verbatim: self.verbatim,
        })
    }
}

/// A body as a JSON value: the body itself where it is JSON, null where it is blank, else a JSON
/// string of it.
#[must_use]
pub(crate) fn encode_result_json(body: &[u8]) -> Box<RawValue> {
    if body.trim_ascii().is_empty() {
        return RawValue::NULL.to_owned();
    }
    if let Ok(json) = serde_json::from_slice::<&RawValue>(body) {
        return json.to_owned();
    }
    let text = String::from_utf8_lossy(body);
    serde_json::value::to_raw_value(&text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A body as JSON text: the body itself where it is JSON, null where it is blank, else a JSON
/// string of it.
#[must_use]
pub fn body_as_json(body: &Bytes) -> Bytes {
    let json = encode_result_json(body);
    if json.get().as_bytes() == body { body.clone() } else { json.get().to_owned().into() }
}

// === impl StoredFailure ===

impl StoredFailure {
    /// The stored form of a failure, including its answer.
    pub(crate) fn from_failure(failure: &TaskFailure) -> Self {
        let answer = failure.answer.as_ref().map(StoredAnswer::from_whole_answer);
        Self {
            v: ENVELOPE_VERSION,
            kind: failure.kind.as_str().into(),
            message: failure.message.clone(),
            answer,
        }
    }

    /// Decodes a failure.
    pub(crate) fn into_failure(self) -> Result<TaskFailure, StoreError> {
        check_envelope_version(self.v)?;
        Ok(TaskFailure {
            kind: FailureKind::from_word(&self.kind),
            message: self.message,
            answer: self.answer.map(|stored| stored.into_answer(None)).transpose()?,
            retry_after: None,
        })
    }
}

// === reading as far as possible ===

/// The answer of a completed task. Where its stored form cannot be read, it is the `result` alone,
/// with a note that says so.
pub(crate) fn recover_answer(
    stored: Result<StoredAnswer, StoreError>,
    result: Option<&RawValue>,
) -> (TaskAnswer, Option<String>) {
    match stored.and_then(|stored| stored.into_answer(result)) {
        Ok(answer) => (answer, None),
        Err(error) => {
            let json = result.map_or("null", RawValue::get);
            let note = format!("the status and the headers of the answer are lost: {error}");
            (TaskAnswer::from_json(json.to_owned()), Some(note))
        }
    }
}

/// A failure; where its stored form cannot be read, a failure that says so.
pub(crate) fn recover_failure(stored: Result<StoredFailure, StoreError>) -> TaskFailure {
    stored.and_then(StoredFailure::into_failure).unwrap_or_else(|error| {
        let message = format!("the reason of the failure is lost: {error}");
        TaskFailure::new(FailureKind::HandlerError, message)
    })
}

// === headers ===

fn encode_headers(headers: &HeaderMap) -> StoredHeaders {
    let latin1 =
        |value: &HeaderValue| value.as_bytes().iter().map(|&byte| char::from(byte)).collect();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), latin1(value))).collect()
}

fn decode_headers(stored: StoredHeaders) -> Result<HeaderMap, StoreError> {
    let mut headers = HeaderMap::with_capacity(stored.len());
    for (name, value) in stored {
        headers.append(parse_header_name(&name)?, decode_header_value(&value)?);
    }
    Ok(headers)
}

fn parse_header_name(name: &str) -> Result<HeaderName, StoreError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(malformed_envelope)
}

fn decode_header_value(latin1: &str) -> Result<HeaderValue, StoreError> {
    let bytes: Result<Vec<u8>, _> = latin1.chars().map(|c| u8::try_from(u32::from(c))).collect();
    HeaderValue::from_bytes(&bytes.map_err(malformed_envelope)?).map_err(malformed_envelope)
}

fn check_envelope_version(version: u8) -> Result<(), StoreError> {
    if (ENVELOPE_VERSION.saturating_sub(1)..=ENVELOPE_VERSION).contains(&version) {
        return Ok(());
    }
    Err(StoreError::Malformed(format!(
        "schema version {version}, this release reads {ENVELOPE_VERSION} and the one before it"
    )))
}

#[allow(clippy::needless_pass_by_value)] // as the argument of map_err
fn malformed_envelope(error: impl std::fmt::Display) -> StoreError {
    StoreError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json_round_trip<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).expect("serializes"))
            .expect("reads back")
    }

    fn sample_headers(value: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-bytes", HeaderValue::from_bytes(value).expect("a header value"));
        headers
    }

    proptest! {
        #[test]
        fn answers_come_back_byte_for_byte(
            body in proptest::collection::vec(any::<u8>(), 0..64),
            high in 0x80u8..,
        ) {
            let answer = TaskAnswer {
                status: Some(StatusCode::CREATED),
                headers: sample_headers(&[b'a', high]),
                body: body.into(),
                verbatim: true,
            };
            let (stored, result) = StoredAnswer::encode_answer(&answer);
            let decoded = json_round_trip(&stored).into_answer(Some(&result));
            prop_assert_eq!(decoded, Ok(answer.clone()));
            let failure = TaskFailure {
                answer: Some(answer),
                ..TaskFailure::new(FailureKind::FailedStatus, "status 500")
            };
            let decoded = json_round_trip(&StoredFailure::from_failure(&failure)).into_failure();
            prop_assert_eq!(decoded, Ok(failure));
        }
    }

    #[test]
    fn json_bodies_keep_their_spelling() {
        for text in ["{\"a\": 1.0e2,  \"b\":[ ]}", " {\"a\":1}\n", "\"x\"", "", "plain"] {
            let answer = TaskAnswer::from_json(text);
            let (stored, result) = StoredAnswer::encode_answer(&answer);
            let result: Box<RawValue> = json_round_trip(&result);
            assert_eq!(json_round_trip(&stored).into_answer(Some(&result)), Ok(answer), "{text}");
        }
    }

    #[test]
    fn credentials_are_stored_apart_and_the_payload_is_not_stored_twice() {
        let mut headers = sample_headers(b"x");
        headers.insert("authorization", HeaderValue::from_static("Bearer s"));
        headers.append("cookie", HeaderValue::from_static("a=b"));
        let request = CapturedRequest {
            method: Method::POST,
            target: "/invoke?x=1".into(),
            headers,
            body: Bytes::from("{}"),
        };
        let (stored, secret) = StoredRequest::encode_request(&request, b"{}");
        let json = serde_json::to_string(&stored).expect("serializes");
        assert!(
            !json.contains("Bearer") && !json.contains("a=b") && !json.contains("body"),
            "{json}"
        );
        assert_eq!(json_round_trip(&stored).into_request(secret, &Bytes::from("{}")), Ok(request));
    }

    #[test]
    fn another_schema_version_is_refused_by_number() {
        let stored = StoredFailure {
            v: 9,
            ..StoredFailure::from_failure(&TaskFailure::new(FailureKind::WorkerCrash, "x"))
        };
        assert!(
            stored.into_failure().expect_err("too new").to_string().contains("schema version 9")
        );
    }
}
