//! The secret that all processes sign with.

use crate::store::redis::core::PartitionCore;
use crate::store::{SharedSecret, StoreError};

impl PartitionCore {
    /// The stored secret; the first process to call this creates it.
    pub(crate) async fn get_or_create_secret(&self) -> Result<SharedSecret, StoreError> {
        let created = SharedSecret::random();
        let mut set = redis::cmd("SET");
        set.arg(self.keys.shared_secret_key()).arg(created.to_text()).arg("NX").arg("GET");
        match self.link.send_command::<Option<Vec<u8>>>(&set).await? {
            None => Ok(created),
            Some(stored) => SharedSecret::from_text(&stored).ok_or_else(|| {
                StoreError::Malformed(format!(
                    "{} is no secret of ours",
                    self.keys.shared_secret_key()
                ))
            }),
        }
    }
}
