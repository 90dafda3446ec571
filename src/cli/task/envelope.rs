//! The envelope that `task publish` sends: `{"topic", "payload", …}`.

use std::io::Read as _;

use bytes::Bytes;
use clap::Args;
use serde_json::value::RawValue;

use crate::cli::exit::CliError;

/// The optional fields of an envelope.
#[derive(Args, Default, serde::Serialize)]
pub(super) struct EnvelopeOptions {
    /// An id of your own, which is stored with the task
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    /// A URL that is notified when the task ends; its host must be in webhooks.hosts
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    /// A topic that the result is sent to, as a new task
    #[arg(long, value_name = "TOPIC")]
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    /// Do not run the task before this time has passed, such as 10s
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
}

/// The payload's JSON text: the argument itself, `@FILE`, or `-` for stdin.
pub(super) fn read_payload(argument: &str) -> Result<String, CliError> {
    let read = match (argument, argument.strip_prefix('@')) {
        ("-", _) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        (_, Some(file)) => std::fs::read_to_string(file),
        _ => Ok(argument.to_owned()),
    };
    read.map_err(|error| CliError::File {
        action: format!("cannot read the payload from {argument}"),
        error,
    })
}

/// An envelope around the payload, whose bytes are not changed.
pub(super) fn build_envelope(
    topic: &str,
    payload: &str,
    options: &EnvelopeOptions,
) -> Result<Bytes, CliError> {
    #[derive(serde::Serialize)]
    struct PublishEnvelope<'a> {
        topic: &'a str,
        payload: &'a RawValue,
        #[serde(flatten)]
        options: &'a EnvelopeOptions,
    }
    let not_json = |error| {
        CliError::Usage(format!(
            "the payload is not JSON: {error}; a text needs quotes: '\"text\"'"
        ))
    };
    let payload: &RawValue = serde_json::from_str(payload.trim()).map_err(not_json)?;
    serde_json::to_vec(&PublishEnvelope { topic, payload, options })
        .map(Bytes::from)
        .map_err(not_json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::CliExit;

    #[test]
    fn a_payload_is_published_as_it_was_written() {
        let payload = " {\"b\": 1.10,  \"a\": [12345678901234567890123]}\n";
        let bytes = build_envelope(
            "t",
            payload,
            &EnvelopeOptions { correlation_id: Some("c".into()), ..EnvelopeOptions::default() },
        )
        .expect("JSON");
        let text = concat!(
            r#"{"topic":"t","payload":{"b": 1.10,  "a": [12345678901234567890123]},"#,
            r#""correlation_id":"c"}"#
        );
        assert_eq!(std::str::from_utf8(&bytes), Ok(text));
    }

    #[test]
    fn a_payload_that_is_not_json_is_refused_before_a_request_is_made() {
        for bad in ["hello", "", "{\"a\":1} x"] {
            assert_eq!(
                build_envelope("t", bad, &EnvelopeOptions::default())
                    .err()
                    .map(|error| error.exit_status()),
                Some(CliExit::Usage),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_delay_is_a_key_of_the_envelope() {
        let bytes = build_envelope(
            "t",
            "1",
            &EnvelopeOptions { delay: Some("10s".into()), ..EnvelopeOptions::default() },
        )
        .expect("JSON");
        assert_eq!(bytes, r#"{"topic":"t","payload":1,"delay":"10s"}"#);
    }

    #[test]
    fn a_payload_comes_from_a_file_with_an_at_sign() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "[1]").expect("it can be written");
        assert_eq!(
            read_payload(&format!("@{}", file.path().display())).ok().as_deref(),
            Some("[1]")
        );
        assert!(
            read_payload("@/no/such/file")
                .expect_err("it is not there")
                .to_string()
                .contains("/no/such/file")
        );
    }
}
