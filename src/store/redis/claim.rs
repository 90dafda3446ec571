//! Claims on idempotency keys: a hash each, which expires by itself.

use redis::Value;

use super::message::to_json;
use super::partition::Partition;
use super::script::{ABANDON_CLAIM, CLAIM_IDEMPOTENCY_KEY, CONCLUDE_CLAIM};
use super::{as_millis_u64, clamp_ttl_ms};
use crate::store::claim::{ClaimConclusion, ClaimResult, IdempotencyClaim};
use crate::store::wire::envelope::StoredAnswer;
use crate::store::{LEASE_DURATION, StoreError};
use crate::task::TaskId;

/// A script's answer: a word, the task, whether it is fresh, the answer.
type ClaimScriptReply = (String, Option<String>, bool, Option<String>);

impl Partition {
    pub(super) async fn claim_idempotency_key(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<ClaimResult, StoreError> {
        let (word, task, fresh, answer): ClaimScriptReply = CLAIM_IDEMPOTENCY_KEY
            .call_with_keys(&[self.keys.claim_key(&claim.scope_digest)])
            .arg(&[claim.request_digest.as_str(), &claim.holder_id, claim.task_id.as_str()])
            .arg(&[as_millis_u64(LEASE_DURATION), clamp_ttl_ms(claim.conclusion_ttl)])
            .arg(claim.replaced_task_id.as_ref().map_or("", TaskId::as_str))
            .run(&self.link)
            .await?;
        let malformed = |error: &dyn std::fmt::Display| StoreError::Malformed(error.to_string());
        let task = || {
            TaskId::parse(task.as_deref().unwrap_or_default()).map_err(|error| malformed(&error))
        };
        Ok(match word.as_str() {
            "mine" => ClaimResult::Granted { task_id: task()?, is_new_task: fresh },
            "busy" => ClaimResult::InProgress,
            "other" => ClaimResult::DifferentRequest,
            "task" => ClaimResult::Concluded(ClaimConclusion::Task(task()?)),
            "answer" => {
                let stored: StoredAnswer =
                    serde_json::from_str(answer.as_deref().unwrap_or_default())
                        .map_err(|error| malformed(&error))?;
                ClaimResult::Concluded(ClaimConclusion::Answer(stored.into_answer(None)?))
            }
            _ => ClaimResult::Concluded(ClaimConclusion::AnswerNotStored),
        })
    }

    pub(super) async fn conclude_claim(
        &self,
        claim: &IdempotencyClaim,
        conclusion: &ClaimConclusion,
    ) -> Result<(), StoreError> {
        let (task, answer) = match conclusion {
            ClaimConclusion::Task(task) => (task.as_str(), String::new()),
            ClaimConclusion::Answer(answer) => {
                ("", to_json(&StoredAnswer::from_whole_answer(answer))?)
            }
            ClaimConclusion::AnswerNotStored => ("", String::new()),
        };
        CONCLUDE_CLAIM
            .call_with_keys(&[self.keys.claim_key(&claim.scope_digest)])
            .arg(&[claim.holder_id.as_str(), conclusion.as_str(), task, &answer])
            .arg(clamp_ttl_ms(claim.conclusion_ttl))
            .run::<Value>(&self.link)
            .await
            .map(|_| ())
    }

    pub(super) async fn abandon_claim(&self, claim: &IdempotencyClaim) -> Result<(), StoreError> {
        let call = ABANDON_CLAIM
            .call_with_keys(&[self.keys.claim_key(&claim.scope_digest)])
            .arg(&claim.holder_id);
        call.run::<Value>(&self.link).await.map(|_| ())
    }
}
