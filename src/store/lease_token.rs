//! Tokens that let a handler report for one attempt of a task, and the secret that signs them.
//!
//! A token names the lease and is signed with a secret that the processes of one store share, so
//! any of them can verify it without stored state. It is valid for one attempt: a later attempt has
//! another lease.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest as _, Sha256};

use super::lease::LeaseHolder;
use crate::task::TaskId;

/// The length of the signature in a token, in bytes.
const SIGNATURE_BYTES: usize = 16;

/// The secret that signs tokens; its `Debug` output hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret([u8; 32]);

// === impl SharedSecret ===

impl SharedSecret {
    /// A new random secret.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The stored form: base64.
    pub(super) fn to_text(&self) -> String {
        BASE64.encode(self.0)
    }

    /// Reads the stored form; none for anything else.
    pub(super) fn from_text(text: &[u8]) -> Option<Self> {
        BASE64.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// The signature of a holder: two nested hashes, each beginning with the secret, because a
    /// single hash could be extended by anyone who knows it (length extension).
    fn sign_holder(&self, id: &TaskId, holder: &LeaseHolder) -> [u8; SIGNATURE_BYTES] {
        let text = format!("{id} {} {}", holder.attempt, holder.store_handle);
        let inner = Sha256::new().chain_update(self.0).chain_update(text).finalize();
        let outer = Sha256::new().chain_update(self.0).chain_update(inner).finalize();
        std::array::from_fn(|index| outer[index])
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

// === impl LeaseHolder ===

impl LeaseHolder {
    /// The token for this attempt of the task: letters, digits, `-` and `_`.
    #[must_use]
    pub fn issue_token(&self, id: &TaskId, secret: &SharedSecret) -> String {
        let mut token = secret.sign_holder(id, self).to_vec();
        token.extend_from_slice(format!("{} {}", self.attempt, self.store_handle).as_bytes());
        BASE64.encode(token)
    }

    /// The holder that `token` was issued for, if it was issued for this task with this secret.
    #[must_use]
    pub fn verify_token(token: &str, id: &TaskId, secret: &SharedSecret) -> Option<Self> {
        let bytes = BASE64.decode(token).ok()?;
        let (signature, rest) = bytes.split_at_checked(SIGNATURE_BYTES)?;
        let (attempt, handle) = std::str::from_utf8(rest).ok()?.split_once(' ')?;
        let holder = Self { attempt: attempt.parse().ok()?, store_handle: handle.to_owned() };
        // Digests are compared, so that the time of the comparison reveals nothing about the
        // signature.
        let valid = Sha256::digest(secret.sign_holder(id, &holder)) == Sha256::digest(signature);
        valid.then_some(holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::UnixMs;

    #[test]
    fn a_token_is_valid_for_its_task_attempt_and_store_only() {
        let (id, other) = (TaskId::new(UnixMs(1), 1), TaskId::new(UnixMs(1), 2));
        let (secret, stranger) = (SharedSecret::random(), SharedSecret::random());
        let holder = LeaseHolder { attempt: 2, store_handle: "1700000000000-0/3".into() };
        let token = holder.issue_token(&id, &secret);
        assert!(
            token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'),
            "{token}"
        );
        assert_eq!(LeaseHolder::verify_token(&token, &id, &secret), Some(holder.clone()));
        assert_eq!(LeaseHolder::verify_token(&token, &other, &secret), None);
        assert_eq!(LeaseHolder::verify_token(&token, &id, &stranger), None);
        let later = LeaseHolder { attempt: 3, ..holder };
        let forged =
            [&BASE64.decode(&token).expect("base64")[..SIGNATURE_BYTES], b"3 1700000000000-0/3"]
                .concat();
        assert_ne!(later.issue_token(&id, &secret), token);
        for bad in [&BASE64.encode(forged), "", "x", "====", &token[1..]] {
            assert_eq!(LeaseHolder::verify_token(bad, &id, &secret), None, "{bad}");
        }
        let text = secret.to_text();
        assert_eq!(SharedSecret::from_text(text.as_bytes()), Some(secret.clone()));
        assert!(
            !format!("{secret:?}").contains(&text) && SharedSecret::from_text(b"short").is_none()
        );
    }
}
