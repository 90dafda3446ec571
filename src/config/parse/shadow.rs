//! Parses the section `rollout.shadow`. `check/shadow.rs` compares it with the route and its topic.

use crate::cohort_hash::Weight;
use crate::config::ShadowConfig;
use crate::config::diagnostics::quote_for_message;
use crate::config::parse::field_error::FieldError;
use crate::config::parse::percent::parse_percent;
use crate::config::parse::scalars::{one_of_words, share_up_to};
use crate::config::parse::section::ConfigSection;

/// Parses the section; none when `percent` is 0.
pub(crate) fn parse_shadow(mut shadow: ConfigSection<'_>) -> Option<ShadowConfig> {
    let config = ShadowConfig {
        percent: shadow.read_or_default("percent", Weight::ZERO, parse_percent),
        side_effects_allowed: shadow.read_or_default(
            "side_effects",
            false,
            one_of_words(&[("refused", false), ("allowed", true)]),
        ),
        ignored_pointers: shadow.subsection("compare").read_list(
            "ignore",
            Vec::new(),
            parse_json_pointer,
        ),
        max_mismatch_ratio: shadow.read_or_default("max_mismatch", 0.01, share_up_to(1.0)),
    };
    (config.percent > Weight::ZERO).then_some(config)
}

/// A JSON pointer (RFC 6901) to a part of an answer.
fn parse_json_pointer(text: &str) -> Result<String, FieldError> {
    let hint = "write one such as `/timestamp` or `/items/0/id`, with `~1` for `/` and `~0` for \
        `~` within a key";
    let Some(tokens) = text.strip_prefix('/') else {
        return Err(FieldError::new(
            format!("{} is no JSON pointer to a part of an answer", quote_for_message(text)),
            hint,
        ));
    };
    if tokens.split('~').skip(1).any(|escaped| !escaped.starts_with(['0', '1'])) {
        return Err(FieldError::new(
            format!("{} has a `~` that is neither `~0` nor `~1`", quote_for_message(text)),
            hint,
        ));
    }
    Ok(text.to_owned())
}
