//! The canonical form of a path, which is both matched and forwarded, so that the upstream and this
//! program cannot read it differently.
//!
//! Dot segments are resolved, repeated slashes merged, and percent-encoded unreserved characters
//! decoded (RFC 3986 §6.2.2); everything else stays unchanged.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Why a path has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A `%` without two hexadecimal digits after it.
    #[error("the path has a % that two hexadecimal digits do not follow")]
    InvalidEscape,
    /// An encoded control character.
    #[error("the path has an encoded control character")]
    ControlCharacter,
    /// `..` above the root.
    #[error("the path leads above the root")]
    AboveRoot,
}

/// The canonical form of an absolute path without its query; borrowed if `path` is already
/// canonical.
pub fn canonicalize_path(path: &str) -> Result<Cow<'_, str>, PathError> {
    if is_canonical_path(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for segment in decoded.split('/').skip(1) {
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop().ok_or(PathError::AboveRoot)?),
            name => kept.push(name),
        }
    }
    let mut canonical = format!("/{}", kept.join("/"));
    if ends_in_slash && !kept.is_empty() {
        canonical.push('/');
    }
    Ok(Cow::Owned(canonical))
}

/// Whether `path` surely is canonical: the common case, decided without an allocation.
fn is_canonical_path(path: &str) -> bool {
    let bytes = path.as_bytes();
    !bytes.contains(&b'%') && !bytes.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

fn decode_unreserved(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).ok_or(PathError::InvalidEscape)?;
        let byte = u8::from_str_radix(digits, 16)
            .ok()
            .filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match byte.ok_or(PathError::InvalidEscape)? {
            byte if byte.is_ascii_control() => return Err(PathError::ControlCharacter),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte));
            }
            byte => {
                let _ = write!(out, "%{byte:02X}"); // writing to a String cannot fail
            }
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn different_spellings_have_the_same_canonical_path() {
        for (path, want) in [
            ("/invoke", "/invoke"),
            ("//invoke", "/invoke"),
            ("/invoke/../admin", "/admin"),
            ("/./invoke/.", "/invoke/"),
            ("/%69nvoke", "/invoke"),
            ("/a/%2e%2E/invoke", "/invoke"),
            ("/invoke%2fx", "/invoke%2Fx"),
            ("/invoke;x", "/invoke;x"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/", "/"),
            ("/a/..", "/"),
            ("/a//", "/a/"),
        ] {
            assert_eq!(canonicalize_path(path).as_deref(), Ok(want), "{path}");
        }
    }

    #[test]
    fn paths_without_a_canonical_form_are_refused() {
        for (path, why) in [
            ("/%", PathError::InvalidEscape),
            ("/%2", PathError::InvalidEscape),
            ("/%zz", PathError::InvalidEscape),
            ("/%+1", PathError::InvalidEscape),
            ("/%00", PathError::ControlCharacter),
            ("/x%0d%0a", PathError::ControlCharacter),
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
        ] {
            assert_eq!(canonicalize_path(path), Err(why), "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_of_a_canonical_path_is_itself(path in "/[a-z./%0-9é-]{0,24}") {
            if let Ok(once) = canonicalize_path(&path) {
                let twice = canonicalize_path(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
            }
        }
    }
}
