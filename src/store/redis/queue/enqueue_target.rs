//! The connection that new tasks are written over, and the confirmation of those writes.

use crate::store::StoreError;
use crate::store::redis::conn::durable::DurableWriter;
use crate::store::redis::conn::link::MasterLink;
use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::batch::LARGE_ITEM_BYTES;

/// Where calls that write new tasks go.
pub(crate) struct EnqueueTarget<'a> {
    /// The link for calls that are not large.
    link: &'a MasterLink,
    /// The link for large ones; the same where a replica must confirm them, which it does only for
    /// writes over one connection.
    large_write_link: &'a MasterLink,
    /// Confirms the writes, where a replica must have them too.
    durable_writer: Option<&'a DurableWriter>,
}

impl<'a> EnqueueTarget<'a> {
    /// The durable writer's link, or else the partition's.
    pub(crate) fn new(core: &'a PartitionCore) -> Self {
        let durable_writer = core.durable_writer.as_ref();
        Self {
            link: durable_writer.map_or(&core.link, |writer| &writer.link),
            large_write_link: durable_writer.map_or(&core.large_write_link, |writer| &writer.link),
            durable_writer,
        }
    }

    /// The link for a call of `bytes` bytes.
    pub(crate) fn link_for(&self, bytes: usize) -> &'a MasterLink {
        if bytes > LARGE_ITEM_BYTES { self.large_write_link } else { self.link }
    }

    /// Refuses, before anything is written, while writes are not confirmed.
    pub(crate) async fn check_durability(&self) -> Result<(), StoreError> {
        match self.durable_writer {
            Some(writer) => writer.refuse_if_unconfirmed().await,
            None => Ok(()),
        }
    }

    /// Waits until the tasks of `replies` are confirmed: 1 for a task that was written, 0 for one
    /// that was there already, negative for one that was refused.
    pub(crate) async fn confirm_replies(
        &self,
        replies: &[Result<i64, StoreError>],
    ) -> Result<(), StoreError> {
        match self.durable_writer {
            Some(writer) if replies.iter().flatten().any(|reply| *reply >= 0) => {
                writer.await_confirmation(replies.contains(&Ok(1))).await
            }
            _ => Ok(()),
        }
    }
}
