//! A secret text, which is never shown, and the masking of URLs that carry one.

use std::fmt;

use crate::config::environment::expand::expand_file_references;

/// A text that is not shown: passwords, tokens. Two of the same source are equal, whatever its
/// files say by now.
#[derive(Clone)]
pub struct Secret {
    text: String,
    /// The text as it was written, where it refers to files.
    file_template: Option<String>,
}

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), file_template: None }
    }

    /// The text as it was written, where it refers to files.
    pub(crate) fn file_template(&self) -> Option<&str> {
        self.file_template.as_deref()
    }

    /// Keeps the text as it was written, where it refers to files.
    pub(crate) fn set_file_template(&mut self, template: String) {
        self.file_template = Some(template);
    }

    /// The secret itself; never log what this returns.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// A URL with its user info masked.
    #[must_use]
    pub fn masked_url(&self) -> String {
        mask_user_info(&self.text)
    }

    /// The secret with its `${file:…}` references read anew, for what has rotated since.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
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

/// A URL with what stands between `//` and the last `@` of the authority masked.
pub(crate) fn mask_user_info(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".into() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => url.to_owned(),
    }
}
