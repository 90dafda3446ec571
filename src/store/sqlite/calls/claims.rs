//! Claims on idempotency keys.

use async_trait::async_trait;

use crate::store::claim::{ClaimConclusion, ClaimResult, IdempotencyClaim, IdempotencyClaims};
use crate::store::error::StoreError;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::encode_answer_json;
use crate::store::sqlite::sql::claims;

#[async_trait]
impl IdempotencyClaims for SqliteStore {
    async fn claim_idempotency_key(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<ClaimResult, StoreError> {
        let claim = claim.clone();
        self.writer
            .submit_change(move |db| claims::claim_key(db, &claim))
            .await?
            .into_claim_result()
    }

    async fn conclude_claim(
        &self,
        claim: &IdempotencyClaim,
        conclusion: &ClaimConclusion,
    ) -> Result<(), StoreError> {
        let (claim, state) = (claim.clone(), conclusion.as_str());
        let (task, answer) = match conclusion {
            ClaimConclusion::Task(task) => (Some(task.to_string()), None),
            ClaimConclusion::Answer(answer) => (None, Some(encode_answer_json(answer)?)),
            ClaimConclusion::AnswerNotStored => (None, None),
        };
        let conclude = move |db: &mut WriterDatabase| {
            claims::conclude_claim(db, &claim, state, task.as_deref(), answer.as_deref())
        };
        self.writer.submit_change(conclude).await
    }

    async fn release_claim(&self, claim: &IdempotencyClaim) -> Result<(), StoreError> {
        let claim = claim.clone();
        self.writer.submit_change(move |db| claims::release_claim(db, &claim)).await
    }
}
