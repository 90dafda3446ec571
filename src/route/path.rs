//! The one form of a path that is both matched and forwarded, so that the upstream and this proxy cannot
//! read it differently: dot segments resolved, repeated slashes merged, percent-encoded unreserved
//! characters decoded (RFC 3986 §6.2.2), everything else as it came.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Why a path has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// `%` without two hexadecimal digits.
    #[error("the path has a % that two hexadecimal digits do not follow")]
    Escape,
    /// An encoded control character.
    #[error("the path has an encoded control character")]
    Control,
    /// `..` above the root.
    #[error("the path leads above the root")]
    AboveRoot,
}

/// The canonical form of an absolute path (without the query); borrowed where it is canonical already.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if is_canonical(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for segment in decoded.split('/').skip(1) {
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop().ok_or(BadPath::AboveRoot)?),
            name => kept.push(name),
        }
    }
    let mut canonical = format!("/{}", kept.join("/"));
    if ends_in_slash && !kept.is_empty() {
        canonical.push('/');
    }
    Ok(Cow::Owned(canonical))
}

/// Whether nothing in `path` could change: the common case, without an allocation.
fn is_canonical(path: &str) -> bool {
    let bytes = path.as_bytes();
    !bytes.contains(&b'%') && !bytes.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

fn decode_unreserved(path: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).ok_or(BadPath::Escape)?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match byte.ok_or(BadPath::Escape)? {
            byte if byte.is_ascii_control() => return Err(BadPath::Control),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(char::from(byte)),
            byte => {
                let _ = write!(out, "%{byte:02X}"); // a String takes everything
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
    fn tricks_end_in_the_path_that_they_mean() {
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
            assert_eq!(canonical(path).as_deref(), Ok(want), "{path}");
        }
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        for (path, why) in [
            ("/%", BadPath::Escape),
            ("/%2", BadPath::Escape),
            ("/%zz", BadPath::Escape),
            ("/%+1", BadPath::Escape),
            ("/%00", BadPath::Control),
            ("/x%0d%0a", BadPath::Control),
            ("/..", BadPath::AboveRoot),
            ("/a/../../b", BadPath::AboveRoot),
        ] {
            assert_eq!(canonical(path), Err(why), "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(path in "/[a-z./%0-9é-]{0,24}") {
            if let Ok(once) = canonical(&path) {
                let twice = canonical(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
            }
        }
    }
}
