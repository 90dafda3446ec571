//! Who may speak for an attempt: the holder of its lease, or whoever it gave a token.
//!
//! A token names the lease and is signed with a secret that the processes of one store share, so
//! that any of them can check it without having been told of it. It is good for one attempt: a
//! later one has another lease.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest as _, Sha256};

use super::Lease;
use crate::task::TaskId;

/// Bytes of a signature that a token carries.
const SIGNATURE_BYTES: usize = 16;

/// The part of a lease that fences it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseHolder {
    /// Which attempt it is.
    pub attempt: u32,
    /// [`Lease::store_handle`].
    pub store_handle: String,
}

/// What tokens are signed with; shows in no output.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret([u8; 32]);

// === impl SharedSecret ===

impl SharedSecret {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// As text, to be stored.
    pub(super) fn to_text(&self) -> String {
        BASE64.encode(self.0)
    }

    /// Reads what [`Self::write`] wrote.
    pub(super) fn from_text(text: &[u8]) -> Option<Self> {
        BASE64.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// Hashed within the secret twice: a single hash could be gone on with by whoever knows it.
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

// === impl Holder ===

impl LeaseHolder {
    /// The holder of a lease.
    #[must_use]
    pub fn from_lease(lease: &Lease) -> Self {
        Self { attempt: lease.attempt, store_handle: lease.store_handle.clone() }
    }

    /// What lets its bearer speak for this attempt of the task; letters, digits, `-` and `_`.
    #[must_use]
    pub fn issue_token(&self, id: &TaskId, secret: &SharedSecret) -> String {
        let mut token = secret.sign_holder(id, self).to_vec();
        token.extend_from_slice(format!("{} {}", self.attempt, self.store_handle).as_bytes());
        BASE64.encode(token)
    }

    /// The attempt of the task that a token was given for; none where it was not.
    #[must_use]
    pub fn verify_token(token: &str, id: &TaskId, secret: &SharedSecret) -> Option<Self> {
        let bytes = BASE64.decode(token).ok()?;
        let (signature, rest) = bytes.split_at_checked(SIGNATURE_BYTES)?;
        let (attempt, entry) = std::str::from_utf8(rest).ok()?.split_once(' ')?;
        let holder = Self { attempt: attempt.parse().ok()?, store_handle: entry.to_owned() };
        // Digests, so that the time it takes says nothing about the signature.
        let right = Sha256::digest(secret.sign_holder(id, &holder)) == Sha256::digest(signature);
        right.then_some(holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::UnixMs;

    #[test]
    fn a_token_is_good_for_its_task_its_attempt_and_its_store() {
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
