//! Masks the brackets and commas inside `${…}` before the text is parsed as YAML, where they would
//! end a scalar.

use std::borrow::Cow;

/// Characters that end a plain scalar in flow style, each with the private character that replaces
/// it inside `${…}`.
const MASKED_CHARS: [(char, char); 5] =
    [('{', '\u{e0d0}'), ('}', '\u{e0d1}'), ('[', '\u{e0d2}'), (']', '\u{e0d3}'), (',', '\u{e0d4}')];

/// The text with the flow characters of each `${…}` masked. A reference that does not end on its
/// line is not changed.
pub(super) fn mask_references(text: &str) -> Cow<'_, str> {
    if !text.contains("${") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    // The position in `out` of the open reference's brace.
    let mut open: Option<usize> = None;
    for c in text.chars() {
        match (open, c) {
            (None, '{') if out.ends_with('$') => open = Some(out.len()),
            (Some(from), '\n') => {
                unmask_from(&mut out, from);
                open = None;
            }
            _ => {}
        }
        out.push(if open.is_some() { swap_masked_char(c, false) } else { c });
        open = open.filter(|_| c != '}');
    }
    if let Some(from) = open {
        unmask_from(&mut out, from);
    }
    Cow::Owned(out)
}

/// Restores the masked characters from byte `from` on.
pub(super) fn unmask_from(masked: &mut String, from: usize) {
    let plain = unmask_text(&masked[from..]);
    masked.truncate(from);
    masked.push_str(&plain);
}

/// The text with its masked characters restored.
pub(super) fn unmask_text(text: &str) -> String {
    text.chars().map(|c| swap_masked_char(c, true)).collect()
}

/// Masks a character, or restores it when `back` is set; other characters are returned as they are.
pub(super) fn swap_masked_char(c: char, back: bool) -> char {
    MASKED_CHARS
        .iter()
        .find_map(
            |&(plain, mask)| {
                if back { (c == mask).then_some(plain) } else { (c == plain).then_some(mask) }
            },
        )
        .unwrap_or(c)
}
