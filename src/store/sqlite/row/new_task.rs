//! A task to be inserted, as its columns hold it.

use bytes::Bytes;

use super::values::encode_json;
use crate::store::error::StoreError;
use crate::store::wire::envelope::StoredRequest;
use crate::store::wire::run_history;
use crate::task::{Task, TaskId, TaskOwner, Topic, UnixMs};

/// A task to be inserted. `request` and `credentials` are JSON.
pub(crate) struct NewTaskRow {
    pub(crate) id: TaskId,
    pub(crate) topic: Topic,
    pub(crate) payload: Bytes,
    pub(crate) request: Option<String>,
    pub(crate) credentials: Option<String>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) trace_id: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) epoch: Option<u64>,
    pub(crate) client_group: Option<u8>,
    pub(crate) owner: Option<TaskOwner>,
    pub(crate) retries: u32,
    pub(crate) created: UnixMs,
    pub(crate) due: Option<UnixMs>,
    pub(crate) webhook: Option<String>,
    pub(crate) reply_to: Option<Topic>,
    pub(crate) causation_id: Option<String>,
}

impl NewTaskRow {
    pub(crate) fn from_task(task: &Task) -> Result<Self, StoreError> {
        let (request, credentials) = match &task.request {
            Some(request) => {
                let (request, credentials) = StoredRequest::encode_request(request, &task.payload);
                (Some(encode_json(&request)?), credentials.as_ref().map(encode_json).transpose()?)
            }
            None => (None, None),
        };
        Ok(Self {
            id: task.id.clone(),
            topic: task.topic.clone(),
            payload: task.payload.clone(),
            request,
            credentials,
            correlation_id: task.correlation_id.clone(),
            trace_id: run_history::find_trace_id(task),
            route: task.route.clone(),
            epoch: task.epoch.filter(|_| task.route.is_some()),
            client_group: task.client_group,
            owner: task.owner.clone(),
            retries: task.retries,
            created: task.created,
            due: task.due,
            webhook: task.webhook.clone(),
            reply_to: task.reply_to.clone(),
            causation_id: task.causation_id.clone(),
        })
    }

    /// The same with its times converted.
    pub(crate) fn with_times(mut self, convert: impl Fn(UnixMs) -> UnixMs) -> Self {
        self.created = convert(self.created);
        self.due = self.due.map(convert);
        self
    }
}
