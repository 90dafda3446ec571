//! Message framing: whether the end of an HTTP message is unambiguous.

use http::{HeaderMap, header};

/// Whether `Transfer-Encoding` is exactly one `chunked`; `None` without such a field.
#[must_use]
pub fn is_only_chunked(headers: &HeaderMap) -> Option<bool> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next()?;
    Some(first.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none())
}

/// Why the end of an answer is ambiguous: another reader could place it elsewhere (RFC 9112 §6.3).
/// `None` for clear framing.
#[must_use]
pub fn find_framing_defect(answer: &HeaderMap) -> Option<&'static str> {
    if !is_only_chunked(answer)? {
        return Some("its transfer coding is not chunked");
    }
    answer.contains_key(header::CONTENT_LENGTH).then_some("it has a length and a transfer coding")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build_headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn only_one_chunked_coding_without_a_length_is_unambiguous() {
        let defect = |pairs: &[(&'static str, &str)]| find_framing_defect(&build_headers(pairs));
        assert_eq!(defect(&[("content-length", "3")]), None);
        assert_eq!(defect(&[("transfer-encoding", "Chunked")]), None);
        assert!(defect(&[("transfer-encoding", "gzip, chunked")]).is_some());
        assert!(
            defect(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]).is_some()
        );
        assert!(defect(&[("transfer-encoding", "chunked"), ("content-length", "3")]).is_some());
    }
}
