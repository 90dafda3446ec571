//! The query parameter `hop` of `/task/<id>/response`: how many requests have waited for the
//! answer of one legacy call.

/// The last hop; a client that has waited in it gets 202 in place of another redirect. HTTP clients
/// follow ten redirects or more, and some of them may be used up elsewhere.
pub const MAX_RESPONSE_HOPS: u32 = 8;

/// The `hop` of a query, from 1; the first one counts. A query without one is the first hop. A
/// value that this program does not write counts as the last hop, so that no redirect follows it.
#[must_use]
pub fn parse_response_hop(query: Option<&str>) -> u32 {
    let mut pairs = query.into_iter().flat_map(|query| query.split('&'));
    let Some(value) = pairs.find_map(|pair| pair.strip_prefix("hop=")) else { return 1 };
    value
        .parse()
        .ok()
        .filter(|hop| (1..=MAX_RESPONSE_HOPS).contains(hop))
        .unwrap_or(MAX_RESPONSE_HOPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_that_was_not_written_here_is_the_last_one() {
        for (query, hop) in [
            (None, 1),
            (Some(""), 1),
            (Some("a=1"), 1),
            (Some("hop=1"), 1),
            (Some("a=1&hop=7&hop=2"), 7),
            (Some("hop=8"), 8),
            (Some("hop=9"), 8),
            (Some("hop=0"), 8),
            (Some("hop=-1"), 8),
            (Some("hop="), 8),
            (Some("hop=x"), 8),
            (Some("hop=99999999999999999999"), 8),
        ] {
            assert_eq!(parse_response_hop(query), hop, "{query:?}");
        }
    }
}
