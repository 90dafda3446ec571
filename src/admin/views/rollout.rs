//! `rollouts` of the API: the state of a rollout and the explanation of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PlanDocument;
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::gate::{ClientBasis, NoisyGroup};
use crate::rollout::served_share::{count_groups_on_both_paths, describe_served_share};

/// A rollout in a list: `rollouts` of the status document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RolloutSummaryDocument {
    /// The route.
    pub route: String,
    /// `gated` or `manual`.
    pub mode: String,
    /// The phase; none while the stored state is not loaded.
    pub phase: Option<String>,
    /// The weight that the answering replica runs, percent.
    pub weight: f64,
    /// The weight that the controller wants, percent.
    pub desired: Option<f64>,
    /// The share that the operator allows, percent.
    pub percent: f64,
    /// The weight of the next step, percent; none when `percent` is reached.
    pub next: Option<f64>,
    /// What moves it on, as a word.
    pub waiting_for: Option<String>,
    /// The mode of the route's deprecation.
    pub deprecation: String,
}

/// `GET rollouts/{route}`: a rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RolloutDocument {
    /// As in a list.
    #[serde(flatten)]
    pub summary: RolloutSummaryDocument,
    /// Its plan in the configuration file.
    #[serde(default)]
    pub plan: PlanDocument,
    /// Its state; all these fields are left out while the stored state is not loaded.
    #[serde(flatten)]
    pub details: Option<RolloutDetailsDocument>,
}

/// The part of a rollout's document that is known once its stored state is loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RolloutDetailsDocument {
    /// The epoch. Its presence tells that the details are there: no default.
    pub epoch: u64,
    /// When the phase began, RFC 3339.
    #[serde(default)]
    pub since: Option<String>,
    /// Who made the last change: an operator, or the controller.
    #[serde(default)]
    pub by: String,
    /// Why it was made.
    #[serde(default)]
    pub reason: String,
    /// Why it is paused, as a word.
    #[serde(default)]
    pub pause_reason: Option<String>,
    /// Why soak and gates do not go on, where they do not.
    #[serde(default)]
    pub frozen: Option<String>,
    /// The code of that reason, for programs.
    #[serde(default)]
    pub blocked_code: Option<String>,
    /// Whether an operator set the weight by hand, which holds until `resume`.
    #[serde(default)]
    pub held: bool,
    /// Whether the store has the state; false while it holds in the answering process alone.
    #[serde(default = "true_by_default")]
    pub saved: bool,
    /// Whether the store answers.
    #[serde(default = "true_by_default")]
    pub store: bool,
    /// The soak of the present step.
    #[serde(default)]
    pub soak: SoakDocument,
    /// Time until it goes on by itself, seconds, as far as that is known.
    #[serde(default)]
    pub countdown: Option<u64>,
    /// Time until it pauses if nothing changes, seconds.
    #[serde(default)]
    pub pauses_in: Option<u64>,
    /// The explanation, a paragraph.
    #[serde(default)]
    pub explain: String,
    /// What the operator can do: a command, an edit, or `nothing to do`.
    #[serde(default)]
    pub to_do: String,
    /// Evaluations in a row that passed.
    #[serde(default)]
    pub passes: u32,
    /// Evaluations in a row that failed.
    #[serde(default)]
    pub fails: u32,
    /// The gates with their last verdicts.
    #[serde(default)]
    pub gates: Vec<GateDocument>,
    /// The epochs whose requests are judged.
    #[serde(default)]
    pub cohort: CohortDocument,
    /// The counts of those requests, where they are known.
    #[serde(default)]
    pub evidence: Option<EvidenceDocument>,
    /// Canaried requests per minute, lately, where that is known.
    #[serde(default)]
    pub per_minute: Option<f64>,
    /// Replicas that do not run the present epoch, or whose file differs.
    #[serde(default)]
    pub laggards: Vec<String>,
    /// The replica that leads.
    #[serde(default)]
    pub leader: Option<String>,
    /// The live replicas.
    #[serde(default)]
    pub replicas: Vec<ReplicaDocument>,
}

/// The soak of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SoakDocument {
    /// Elapsed, seconds.
    pub done: u64,
    /// Required, seconds.
    pub of: u64,
}

/// A gate of the file with its last verdict; its numbers are null before the first evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GateDocument {
    /// Its name.
    pub gate: String,
    /// Its type, such as `error_ratio`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `pass`, `fail`, `inconclusive` or `error`.
    pub verdict: Option<String>,
    /// The reason of the verdict, a sentence.
    pub why: Option<String>,
    /// Async outcomes that it still needs, where that is known.
    pub needs: Option<u64>,
    /// The share of the async path.
    #[serde(rename = "async")]
    pub async_share: Option<ShareDocument>,
    /// The share of the sync path.
    #[serde(rename = "sync")]
    pub sync_share: Option<ShareDocument>,
    /// The share or value that was judged.
    pub value: Option<f64>,
    /// Its confidence interval, lower and upper bound.
    pub interval: Option<[f64; 2]>,
}

/// A share as counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShareDocument {
    /// Requests that count against the gate.
    pub x: u64,
    /// Of so many.
    pub n: u64,
}

/// A range of epochs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CohortDocument {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// Whether no further request joins it.
    pub closed: bool,
}

/// Counts of the requests that the gates judge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvidenceDocument {
    /// Requests of the sync path that were not canaried.
    #[serde(rename = "sync")]
    pub sync_counts: PathCountsDocument,
    /// Canaried requests with an outcome.
    #[serde(rename = "async")]
    pub async_counts: PathCountsDocument,
    /// Canaried requests.
    pub canaried: u64,
    /// Of them those that became a task.
    pub accepted: u64,
    /// Tasks without an outcome yet.
    pub open: u64,
    /// Tasks that were cancelled.
    pub cancelled: u64,
    /// Canaried requests that the store refused, or that got a 5xx of the proxy instead of a task.
    pub refused: u64,
    /// Canaried requests that got a 4xx of the proxy instead of a task.
    pub rejected: u64,
    /// Canaried requests whose client got 202 and polls.
    pub deferred: u64,
    /// Requests that were served sync because the store was gone.
    pub unavailable: u64,
    /// Requests of the async cohort that were served sync, by reason; reasons without any are left
    /// out.
    pub fallbacks: BTreeMap<String, u64>,
    /// How much of the async cohort was served async, and why the rest was not; none where all was.
    pub served_share: Option<String>,
    /// Requests that were assigned to the async path at random.
    pub async_random: u64,
    /// Requests that were assigned to the sync path at random.
    pub sync_random: u64,
    /// Requests on another path than the bucket of their sticky key says.
    pub mismatched_assignments: u64,
    /// Groups of clients with requests on both paths, of 32.
    pub groups_on_both_paths: usize,
    /// Copies of sync requests that became a task.
    pub copied: u64,
    /// Copies whose answer was compared with that of the sync path.
    pub compared: u64,
    /// Of them those with another answer.
    pub mismatched: u64,
    /// What failures are counted by: `clients`, or `requests`; empty without canaried requests.
    pub counted_by: String,
    /// Why they are counted by request, where they are.
    pub counted_why: Option<String>,
    /// Which client group has most of the failures, where these do not count for that reason.
    pub noisy_client: Option<String>,
}

/// Counts of one path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathCountsDocument {
    /// Requests with an outcome.
    pub total: u64,
    /// Failed ones.
    pub failed: u64,
    /// Those answered with a 4xx; not among `failed`.
    pub client_errors: u64,
}

/// A replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaDocument {
    /// Its process.
    pub process: String,
    /// The weight that it runs on the route, percent; none where it does not have the route.
    pub weight: Option<f64>,
    /// The epoch that it runs.
    pub epoch: Option<u64>,
    /// A digest of the rollouts in its file.
    pub config: String,
    /// Whether it is the one that answers.
    pub this: bool,
    /// Whether it leads.
    pub leader: bool,
}

/// `GET rollouts/{route}/explain` as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplanationDocument {
    /// The route.
    pub route: String,
    /// What moves it on, as a word.
    pub waiting_for: String,
    /// The explanation, a paragraph.
    pub explain: String,
    /// What the operator can do.
    pub to_do: String,
    /// As in [`RolloutDetailsDocument::countdown`].
    pub countdown: Option<u64>,
    /// As in [`RolloutDetailsDocument::pauses_in`].
    pub pauses_in: Option<u64>,
}

impl RolloutDocument {
    /// The document without what changes by itself, such as a soak under way and the counts of the
    /// gates: two documents with equal stable parts need not both be sent to a follower.
    #[must_use]
    pub fn stable_part(&self) -> Self {
        let mut stable = self.clone();
        if let Some(details) = &mut stable.details {
            details.soak = SoakDocument::default();
            details.countdown = None;
            details.pauses_in = None;
            details.explain.clear();
            details.passes = 0;
            details.fails = 0;
            details.evidence = None;
            details.per_minute = None;
            for gate in &mut details.gates {
                *gate = GateDocument { verdict: gate.verdict.take(), ..GateDocument::default() };
            }
        }
        stable
    }
}

impl From<&RolloutEvidence> for EvidenceDocument {
    fn from(evidence: &RolloutEvidence) -> Self {
        Self {
            sync_counts: PathCountsDocument::from(&evidence.sync_counts),
            async_counts: PathCountsDocument::from(&evidence.async_counts),
            canaried: evidence.canaried_requests(),
            accepted: evidence.accepted_tasks,
            open: evidence.open_tasks(),
            cancelled: evidence.cancelled_tasks,
            refused: evidence.refused_requests,
            rejected: evidence.rejected_requests,
            deferred: evidence.deferred_requests,
            unavailable: evidence.store_unavailable,
            fallbacks: evidence.fallbacks.to_words(),
            served_share: describe_served_share(evidence),
            async_random: evidence.assignments.async_random,
            sync_random: evidence.assignments.sync_random,
            mismatched_assignments: evidence.assignments.mismatched,
            groups_on_both_paths: count_groups_on_both_paths(evidence),
            copied: evidence.shadow_copied,
            compared: evidence.shadow_compared,
            mismatched: evidence.shadow_mismatched,
            ..Self::describe_clients(evidence)
        }
    }
}

impl EvidenceDocument {
    /// The fields that say which clients the failures are of.
    fn describe_clients(evidence: &RolloutEvidence) -> Self {
        if evidence.canaried_requests() == 0 {
            return Self::default();
        }
        let counted_why = ClientBasis::from_evidence(evidence).explain();
        Self {
            counted_by: if counted_why.is_some() { "requests" } else { "clients" }.to_owned(),
            counted_why,
            noisy_client: NoisyGroup::from_evidence(evidence).map(|noisy| noisy.to_string()),
            ..Self::default()
        }
    }
}

impl From<&EvidenceCounts> for PathCountsDocument {
    fn from(counts: &EvidenceCounts) -> Self {
        Self { total: counts.total, failed: counts.failed, client_errors: counts.client_errors }
    }
}

fn true_by_default() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    fn document(soak: u64, verdict: &str) -> RolloutDocument {
        let gate =
            json!({"gate": "errors", "type": "error_ratio", "verdict": verdict, "value": 0.5});
        from_value(json!({
            "route": "invoke", "mode": "gated", "phase": "soaking", "weight": 10.0, "epoch": 3,
            "soak": {"done": soak, "of": 60}, "gates": [gate],
        }))
        .expect("a rollout")
    }

    #[test]
    fn a_soak_under_way_changes_no_stable_part_and_a_verdict_does() {
        let first = document(1, "pass");
        assert_eq!(first.stable_part(), document(2, "pass").stable_part());
        assert_ne!(first.stable_part(), document(1, "fail").stable_part());
    }

    #[test]
    fn the_details_are_left_out_until_the_state_is_loaded() {
        let unloaded = RolloutDocument::default();
        let json = to_value(&unloaded).expect("JSON");
        assert!(json["phase"].is_null() && json.get("epoch").is_none(), "{json}");
        assert_eq!(from_value::<RolloutDocument>(json).expect("a rollout"), unloaded);
        let loaded = document(1, "pass");
        let json = to_value(&loaded).expect("JSON");
        assert!(json.get("frozen").is_some() && json["frozen"].is_null(), "{json}");
        assert_eq!(from_value::<RolloutDocument>(json).expect("a rollout"), loaded);
    }
}
