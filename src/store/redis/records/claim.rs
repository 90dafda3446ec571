//! Claims on idempotency keys: one hash each, which expires.

use redis::Value;

use crate::store::claim::{ClaimConclusion, ClaimResult, IdempotencyClaim};
use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::{ABANDON_CLAIM, CLAIM_IDEMPOTENCY_KEY, CONCLUDE_CLAIM};
use crate::store::redis::time::{as_millis_u64, clamp_ttl_ms};
use crate::store::redis::wire::json::to_json;
use crate::store::wire::envelope::StoredAnswer;

use crate::store::{LEASE_DURATION, StoreError};
use crate::task::TaskId;

/// The reply of the claim script: a word for the state, the task id, whether the task is new, the
/// stored answer.
type ClaimScriptReply = (String, Option<String>, bool, Option<String>);

impl PartitionCore {
    /// Claims an idempotency key for a request.
    pub(crate) async fn claim_idempotency_key(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<ClaimResult, StoreError> {
        let (state, task_id, is_new_task, answer): ClaimScriptReply = CLAIM_IDEMPOTENCY_KEY
            .call_with_keys(&[("claim", self.keys.claim_key(&claim.scope_digest))])
            .arg("request_digest", claim.request_digest.as_str())
            .arg("holder_id", &claim.holder_id)
            .arg("task_id", claim.task_id.as_str())
            .arg("lease_ms", as_millis_u64(LEASE_DURATION))
            .arg("ttl_ms", clamp_ttl_ms(claim.conclusion_ttl))
            .arg("replaced_task_id", claim.replaced_task_id.as_ref().map_or("", TaskId::as_str))
            .run(&self.link)
            .await?;
        let malformed = |error: &dyn std::fmt::Display| StoreError::Malformed(error.to_string());
        let task_id = || {
            TaskId::parse(task_id.as_deref().unwrap_or_default()).map_err(|error| malformed(&error))
        };
        Ok(match state.as_str() {
            "mine" => ClaimResult::Granted { task_id: task_id()?, is_new_task },
            "busy" => ClaimResult::InProgress,
            "other" => ClaimResult::DifferentRequest,
            "task" => ClaimResult::Concluded(ClaimConclusion::Task(task_id()?)),
            "answer" => {
                let stored: StoredAnswer =
                    serde_json::from_str(answer.as_deref().unwrap_or_default())
                        .map_err(|error| malformed(&error))?;
                ClaimResult::Concluded(ClaimConclusion::Answer(stored.into_answer(None)?))
            }
            _ => ClaimResult::Concluded(ClaimConclusion::AnswerNotStored),
        })
    }

    /// Stores how the request of a claim ended.
    pub(crate) async fn conclude_claim(
        &self,
        claim: &IdempotencyClaim,
        conclusion: &ClaimConclusion,
    ) -> Result<(), StoreError> {
        let (task_id, answer) = match conclusion {
            ClaimConclusion::Task(id) => (id.as_str(), String::new()),
            ClaimConclusion::Answer(answer) => {
                ("", to_json(&StoredAnswer::from_whole_answer(answer))?)
            }
            ClaimConclusion::AnswerNotStored => ("", String::new()),
        };
        CONCLUDE_CLAIM
            .call_with_keys(&[("claim", self.keys.claim_key(&claim.scope_digest))])
            .arg("holder_id", claim.holder_id.as_str())
            .arg("state", conclusion.as_str())
            .arg("task_id", task_id)
            .arg("answer", &answer)
            .arg("ttl_ms", clamp_ttl_ms(claim.conclusion_ttl))
            .run::<Value>(&self.link)
            .await
            .map(|_| ())
    }

    /// Gives a claim up that was not concluded.
    pub(crate) async fn abandon_claim(&self, claim: &IdempotencyClaim) -> Result<(), StoreError> {
        let call = ABANDON_CLAIM
            .call_with_keys(&[("claim", self.keys.claim_key(&claim.scope_digest))])
            .arg("holder_id", &claim.holder_id);
        call.run::<Value>(&self.link).await.map(|_| ())
    }
}
