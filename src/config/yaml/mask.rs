//! Masks the brackets of `${…}` while YAML is read, where they would end a scalar.

use std::borrow::Cow;

/// Characters that end a plain scalar in flow style, and what stands for them inside `${…}`.
const MASKED_CHARS: [(char, char); 5] =
    [('{', '\u{e0d0}'), ('}', '\u{e0d1}'), ('[', '\u{e0d2}'), (']', '\u{e0d3}'), (',', '\u{e0d4}')];

/// `text` with the flow characters of each `${…}` masked; one that does not end on its line is left
/// alone.
pub(super) fn mask_references(text: &str) -> Cow<'_, str> {
    if !text.contains("${") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    // Where the brace of the open reference is.
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

pub(super) fn unmask_from(masked: &mut String, from: usize) {
    let plain = unmask_text(&masked[from..]);
    masked.truncate(from);
    masked.push_str(&plain);
}

pub(super) fn unmask_text(text: &str) -> String {
    text.chars().map(|c| swap_masked_char(c, true)).collect()
}

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
