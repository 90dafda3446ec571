//! Claims on idempotency keys: a hash each, which expires by itself.

use redis::Value;

use super::message::to_json;
use super::partition::Partition;
use super::script::{ABANDON, CLAIM, CONCLUDE};
use super::{millis, ttl_ms};
use crate::store::claim::{Claim, Claimed, Conclusion};
use crate::store::envelope::StoredAnswer;
use crate::store::{LEASE, StoreError};
use crate::task::TaskId;

/// A script's answer: a word, the task, whether it is fresh, the answer.
type Reply = (String, Option<String>, bool, Option<String>);

impl Partition {
    pub(super) async fn claim_key(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let (word, task, fresh, answer): Reply = CLAIM
            .keys(&[self.keys.claim(&claim.scope)])
            .arg(&[claim.request.as_str(), &claim.holder, claim.task.as_str()])
            .arg(&[millis(LEASE), ttl_ms(claim.ttl)])
            .arg(claim.instead_of.as_ref().map_or("", TaskId::as_str))
            .run(&self.link)
            .await?;
        let malformed = |error: &dyn std::fmt::Display| StoreError::Malformed(error.to_string());
        let task = || TaskId::parse(task.as_deref().unwrap_or_default()).map_err(|error| malformed(&error));
        Ok(match word.as_str() {
            "mine" => Claimed::Mine { task: task()?, fresh },
            "busy" => Claimed::Busy,
            "other" => Claimed::Other,
            "task" => Claimed::Done(Conclusion::Task(task()?)),
            "answer" => {
                let stored: StoredAnswer =
                    serde_json::from_str(answer.as_deref().unwrap_or_default()).map_err(|error| malformed(&error))?;
                Claimed::Done(Conclusion::Answer(stored.open(None)?))
            }
            _ => Claimed::Done(Conclusion::Unkept),
        })
    }

    pub(super) async fn conclude_claim(&self, claim: &Claim, conclusion: &Conclusion) -> Result<(), StoreError> {
        let (task, answer) = match conclusion {
            Conclusion::Task(task) => (task.as_str(), String::new()),
            Conclusion::Answer(answer) => ("", to_json(&StoredAnswer::whole(answer))?),
            Conclusion::Unkept => ("", String::new()),
        };
        CONCLUDE
            .keys(&[self.keys.claim(&claim.scope)])
            .arg(&[claim.holder.as_str(), conclusion.as_str(), task, &answer])
            .arg(ttl_ms(claim.ttl))
            .run::<Value>(&self.link)
            .await
            .map(|_| ())
    }

    pub(super) async fn abandon_claim(&self, claim: &Claim) -> Result<(), StoreError> {
        let call = ABANDON.keys(&[self.keys.claim(&claim.scope)]).arg(&claim.holder);
        call.run::<Value>(&self.link).await.map(|_| ())
    }
}
