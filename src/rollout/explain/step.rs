//! What a step that is going on waits for: its soak, its requests, its tasks' ends, its gates; in that order.

use std::time::Duration;

use super::{Because, Standing, Waiting, Way};
use crate::cohort::Weight;
use crate::rollout::evidence::Evidence;
use crate::rollout::gate::{Report, Verdict};
use crate::rollout::look::GROWTH;
use crate::rollout::words::{share, span};

// === impl Standing ===

impl Standing<'_> {
    pub(super) fn soaking(&self) -> Because {
        let soak = self.rollout.soak_at(self.state.weight);
        let left = soak.saturating_sub(self.state.soaked);
        if left > Duration::ZERO {
            let why = format!("watched for {} of {}, {} to go", span(self.state.soaked), span(soak), span(left));
            return Because::new(Waiting::Soak, Way::Nothing, why).goes_on_in(Some(left));
        }
        let missing = match self.evidence {
            Some(evidence) => self.samples(evidence),
            None => Some(Because::new(Waiting::Samples, Way::Promote, "watched long enough, and short of min_samples")),
        };
        match missing {
            Some(because) => because.pauses_after(self.rollout.max_wait, self.state.waited),
            None => {
                Because::new(Waiting::Soak, Way::Nothing, "watched long enough, its requests are about to be judged")
            }
        }
    }

    /// The requests that a cohort needs before it can be judged.
    fn samples(&self, evidence: &Evidence) -> Option<Because> {
        let least = self.rollout.min_samples;
        let (has, needs) = (evidence.canaried(), least.asynchronous);
        if has < needs {
            let why = format!("{has} of {needs} canaried requests are in, {}", self.more(needs - has));
            let because = Because::new(Waiting::Samples, Way::Promote, why);
            return Some(because.goes_on_in(self.time_for(needs - has)));
        }
        let (has, needs) = (evidence.sync.total, least.sync);
        // At 100 % nobody is sync.
        (has < needs && self.state.weight < Weight::FULL).then(|| {
            let why = format!("{has} of {needs} sync requests to compare with are in, {} more needed", needs - has);
            Because::new(Waiting::Samples, Way::Promote, why)
        })
    }

    /// What is missing, in the order in which it is asked for.
    pub(super) fn gating(&self) -> Because {
        let missing = self.maturity().or_else(|| self.gates());
        match missing {
            Some(because) => because.pauses_after(self.rollout.max_wait, self.state.waited),
            None => self.passing(),
        }
    }

    fn passing(&self) -> Because {
        let (passes, streak) = (self.state.passes, self.rollout.success_streak);
        if passes >= streak
            && self.next.is_some()
            && let Some(closed) = self.window()
        {
            return closed;
        }
        let why = format!("all gates pass, {passes} of {streak} times in a row");
        Because::new(Waiting::Gates, Way::Nothing, why).goes_on_in(Some(self.rollout.interval))
    }

    fn maturity(&self) -> Option<Because> {
        let (accepted, open) = (self.evidence?.accepted, self.evidence?.open());
        let ended = ratio(accepted.saturating_sub(open), accepted);
        (accepted > 0 && ended < self.rollout.maturity).then(|| {
            let (ended, needed) = (share(ended), share(self.rollout.maturity));
            let why = format!("{ended} of {accepted} tasks have ended, {needed} needed");
            Because::new(Waiting::Maturity, Way::Promote, why)
        })
    }

    fn gates(&self) -> Option<Because> {
        let open: Vec<&Report> = self.reports().filter(|report| report.verdict != Verdict::Pass).collect();
        let text = self.undecided(|report| report.verdict != Verdict::Pass);
        if open.is_empty() {
            return self.reports().next().is_none().then(|| {
                Because::new(Waiting::Gates, Way::Nothing, "the gates are about to be looked at for the first time")
            });
        }
        if open.iter().any(|report| report.verdict == Verdict::Error) {
            return Some(Because::new(Waiting::Metrics, Way::Promote, text));
        }
        let needs = open.iter().map(|report| report.needs).collect::<Option<Vec<u64>>>();
        let most = needs.and_then(|needs| needs.into_iter().max());
        let waiting_for = if most.is_some() { Waiting::Samples } else { Waiting::Gates };
        // its cohort grows by no less
        let growth = self.evidence.map_or(0, |evidence| evidence.canaried() / GROWTH);
        let countdown = most.and_then(|most| self.time_for(most.max(growth)));
        Some(Because::new(waiting_for, Way::Promote, text).goes_on_in(countdown))
    }

    /// `needs 125 more, about 6 min at this rate`
    fn more(&self, needs: u64) -> String {
        match (self.time_for(needs), self.per_minute) {
            (Some(time), _) => format!("needs {needs} more, about {} at this rate", span(time)),
            (None, Some(_)) => format!("needs {needs} more, and no canaried request came lately"),
            (None, None) => format!("needs {needs} more"),
        }
    }

    /// How long so many canaried requests take to come at this rate.
    pub(super) fn time_for(&self, requests: u64) -> Option<Duration> {
        let rate = self.per_minute.filter(|rate| *rate > 0.0)?;
        #[allow(clippy::cast_precision_loss)] // an estimate
        let minutes = requests as f64 / rate;
        Duration::try_from_secs_f64(minutes * 60.0).ok()
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
    let ratio = part as f64 / whole as f64;
    ratio
}
