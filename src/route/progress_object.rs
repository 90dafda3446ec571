//! The object `{"progress": 0.4, "note": "…"}`, by which a handler reports progress on a line of
//! stderr or in a request.

use crate::task::TaskProgress;

/// Parses a progress object; `None` for anything else. Only these keys are allowed, so that a log
/// line that happens to be JSON stays a log line, and the fraction must be a number: JSON writers
/// that know no NaN write null.
#[must_use]
pub fn parse_progress(json: &[u8]) -> Option<TaskProgress> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ProgressObject<'a> {
        progress: f64,
        #[serde(borrow)]
        note: Option<std::borrow::Cow<'a, str>>,
    }
    let text = json.trim_ascii();
    // A cheap test first: most lines are log lines.
    if !text.starts_with(b"{") || !text.ends_with(b"}") {
        return None;
    }
    let object: ProgressObject<'_> = serde_json::from_slice(text).ok()?;
    TaskProgress::new(object.progress, object.note.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_progress_objects_are_progress() {
        let read = |text: &str| parse_progress(text.as_bytes());
        assert_eq!(
            read("{\"progress\":0.4,\"note\":\"half \\u00e4\"}\n"),
            TaskProgress::new(0.4, Some("half ä"))
        );
        assert_eq!(read(" {\"progress\": 1}"), TaskProgress::new(1.0, None));
        assert_eq!(read("{\"progress\":3,\"note\":null}"), TaskProgress::new(1.0, None));
        for other in [
            "",
            "0.4",
            "{}",
            "{\"note\":\"x\"}",
            "{\"progress\":null}",
            "{\"progress\":NaN}",
            "{\"progress\":\"0.4\"}",
            "{\"progress\":0.4,\"level\":\"info\"}",
            "{\"progress\":0.4} done",
            "progress 0.4",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
