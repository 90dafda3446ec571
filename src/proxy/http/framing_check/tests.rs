//! Framing that passes, and framing that is refused, in reads of any length.

use proptest::prelude::*;

use super::*;

const HEAD: &str = "POST /invoke HTTP/1.1\r\nHost: x\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";

/// Checks bytes that arrive in the pieces between `cuts`. Returns how many bytes are passed on,
/// whether a body was refused, and the number of a refused head.
fn check_in_pieces(bytes: &[u8], cuts: &[usize]) -> (usize, bool, u64) {
    let mut check = FramingCheck::new();
    let (mut passed, mut from) = (0, 0);
    for to in cuts.iter().copied().chain([bytes.len()]) {
        passed += check.advance(&bytes[from..to.max(from)]);
        from = to.max(from);
    }
    (passed, check.is_refused(), check.report.refused_request.load(Relaxed))
}

fn is_clean(text: &str) -> bool {
    check_in_pieces(text.as_bytes(), &[]) == (text.len(), false, NO_REQUEST)
}

#[test]
fn well_framed_requests_pass_in_sequence() {
    let sized = format!("{HEAD}Content-Length: 5\r\n\r\nhello");
    let chunked = format!("{HEAD}{CHUNKED}5;a=b\r\nhe\nlo\r\n0\r\nX-T: 1\r\n\r\n");
    let bare = format!("\r\n{HEAD}\r\n");
    assert!(is_clean(&[sized.as_str(), &chunked, &bare, &chunked, &sized].concat()));
    assert!(is_clean(&format!("{HEAD}Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello{bare}")));
}

#[test]
fn a_bare_line_feed_in_a_head_refuses_that_request() {
    for head in [
        "POST /invoke HTTP/1.1\nHost: x\r\n\r\n",
        "POST /invoke HTTP/1.1\r\nHost: x\n\r\n",
        "POST /invoke HTTP/1.1\r\nHost: x\r\n\n",
        "\nPOST /invoke HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        assert_eq!(check_in_pieces(head.as_bytes(), &[]).2, 0, "{head:?}");
        let second = format!("{HEAD}\r\n{head}");
        assert_eq!(check_in_pieces(second.as_bytes(), &[]).2, 1, "{second:?}");
    }
}

#[test]
fn a_length_together_with_a_transfer_coding_refuses_the_request() {
    for (one, other) in [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("content-length:nonsense", "transfer-encoding:chunked"),
        ("CONTENT-LENGTH: ", "TRANSFER-ENCODING: gzip, chunked"),
    ] {
        for (first, second) in [(one, other), (other, one)] {
            let text = format!("{HEAD}{first}\r\n{second}\r\n\r\n0\r\n\r\n");
            assert_eq!(check_in_pieces(text.as_bytes(), &[]).2, 0, "{text:?}");
        }
    }
}

#[test]
fn a_wrongly_framed_chunked_body_passes_up_to_its_fault() {
    for (good, fault) in [
        ("1\r\n1\r\n0\r\n", "\nPOST /pay HTTP/1.1\r\nContent-Length: 31\r\n\r\n"),
        ("1\r\n1\r\n0\r\nX: y", "\n\r\n"),
        ("1", "\n1\r\n0\r\n\r\n"),
        ("1;ext", "\n1\r\n0\r\n\r\n"),
        ("1\r\n1", "\n0\r\n\r\n"),
        ("1\r\n1x\r", "\n0\r\n\r\n"),
        ("xyz\r", "\n"),
        ("\r", "\n"),
        ("11111111111111111\r", "\n"),
        ("-1\r", "\n"),
    ] {
        let start = format!("{HEAD}{CHUNKED}{good}");
        let text = format!("{start}{fault}");
        assert_eq!(
            check_in_pieces(text.as_bytes(), &[]),
            (start.len(), true, NO_REQUEST),
            "{text:?}"
        );
    }
}

#[test]
fn bytes_after_a_request_for_an_upgrade_wait_for_its_answer() {
    let ask = format!("{HEAD}Upgrade: websocket\r\n\r\n");
    for (switched, follows, clean) in [(true, "\x01\n\n", true), (false, "GET / HTTP/1.1\n", false)]
    {
        let mut check = FramingCheck::new();
        assert_eq!(check.advance(format!("{ask}{follows}").as_bytes()), ask.len());
        assert!(check.awaits_upgrade_answer());
        check.report().record_upgrade_answer(switched);
        assert!(!check.awaits_upgrade_answer());
        check.advance(follows.as_bytes());
        assert_eq!(check.report().is_refused(1), !clean);
    }
}

proptest! {
    #[test]
    fn the_boundaries_of_reads_do_not_change_the_verdict(
        parts in prop::collection::vec(0..10_usize, 1..6),
        cuts in prop::collection::vec(0..400_usize, 0..12),
    ) {
        let choices = [
            format!("{HEAD}Content-Length: 5\r\n\r\nhello"),
            format!("{HEAD}{CHUNKED}5;a=b\r\nhe\nlo\r\n0\r\nX-T: 1\r\n\r\n"),
            format!("{HEAD}\r\n"),
            "\r\n".to_owned(),
            format!("{HEAD}{CHUNKED}3\r\nabc\r\n0\r\n\n"),
            format!("{HEAD}{CHUNKED}3\r\nabcd\r\n0\r\n\r\n"),
            format!("{HEAD}X: y\n\r\n"),
            format!("{HEAD}Content-Length: 5\r\n{CHUNKED}0\r\n\r\n"),
            format!("{HEAD}Upgrade: foo\r\n\r\n"),
            format!("{HEAD}Content-Length: 7, 7\r\n\r\n"),
        ];
        let text: String = parts.iter().map(|&part| choices[part].as_str()).collect();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.sort_unstable();
        let whole = check_in_pieces(text.as_bytes(), &[]);
        prop_assert_eq!(check_in_pieces(text.as_bytes(), &cuts), whole);
    }
}
