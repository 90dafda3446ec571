//! A secret text, such as a password or token, and the masking of URLs that contain one.
//!
//! `Debug` prints `***`. A secret that was read from a file also keeps the text of the
//! configuration with its `${file:…}` references, so that a rotated secret can be read again.

use std::fmt;

use crate::config::environment::expand::expand_file_references;

/// A text that is never shown. Two secrets with the same `${file:…}` template are equal, even when
/// the files had different contents.
#[derive(Clone)]
pub struct Secret {
    text: String,
    /// The text of the configuration with its `${file:…}` references; none without references.
    file_template: Option<String>,
}

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), file_template: None }
    }

    /// The text of the configuration with its `${file:…}` references; none without references.
    pub(crate) fn file_template(&self) -> Option<&str> {
        self.file_template.as_deref()
    }

    /// Sets the text of the configuration with its `${file:…}` references.
    pub(crate) fn set_file_template(&mut self, template: String) {
        self.file_template = Some(template);
    }

    /// The secret itself; never log what this returns.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The secret as a URL, with its user info masked.
    #[must_use]
    pub fn masked_url(&self) -> String {
        mask_user_info(&self.text)
    }

    /// The secret with its `${file:…}` references read again, since the files may have rotated.
    ///
    /// # Errors
    /// The name of a file that cannot be read, and the reason.
    pub fn read_current(&self) -> Result<String, String> {
        self.file_template.as_deref().map_or_else(|| Ok(self.text.clone()), expand_file_references)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (&self.file_template, &other.file_template) {
            (Some(one), Some(other)) => one == other,
            _ => self.text == other.text,
        }
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A URL with the user info, up to the last `@` of the authority, replaced by `***`.
pub(crate) fn mask_user_info(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".into() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => url.to_owned(),
    }
}
