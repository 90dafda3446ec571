//! `{"progress": 0.4, "note": "…"}`: how a handler says how far it has come, on a line of stderr or
//! in a request.

use crate::task::TaskProgress;

/// Reads such an object: these keys and no others, so that a log line that happens to be JSON stays
/// one. A progress of null, which is how some write a number that is none, is no progress.
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
    // Most of what is asked about is a log line.
    if !text.starts_with(b"{") || !text.ends_with(b"}") {
        return None;
    }
    let said: ProgressObject<'_> = serde_json::from_slice(text).ok()?;
    TaskProgress::new(said.progress, said.note.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_from_what_looks_like_it() {
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
