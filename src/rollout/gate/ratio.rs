//! Gates that ask for a share: failed, answered with a 4xx, deferred, slow; of copies, answered otherwise.
//!
//! PASS is held against the requests that have an outcome, FAIL against all that were canaried: tasks that fail at once
//! end before those that succeed slowly, and to take what is out for lost would turn a healthy canary back in its first
//! seconds. 4xx are the clients' fault and are in neither half of the error ratio: requests that were refused for what
//! they are say nothing of the path, and would only thin the failures out.

use std::time::Duration;

use super::{Late, Look, Memory, Report, Verdict, words};
use crate::config::{Gate, GateKind, Latency, Limits, MinSamples};
use crate::rollout::evidence::{By, Counts, Evidence, clients, slower_than};
use crate::rollout::sequential::{self, FALSE_PASS, Scores};
use crate::rollout::stats::{self, Bounded};
use crate::rollout::words::exact;
use crate::task::Took;

/// How many requests' worth the evidence has in the async share of a look's news. A task's failure ends in another
/// look than its request came in, so that at little traffic a look's own share says nothing of it.
const PULL: f64 = 1_000.0;

/// What a gate counts.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// Async ones that were bad.
    bad: u64,
    /// Of those with an outcome.
    ended: u64,
    /// Of all that may still have one.
    all: u64,
    /// Bad ones of the sync path, of how many.
    sync: (u64, u64),
}

/// What the async path is compared with.
#[derive(Clone, Copy, Debug)]
enum Against {
    /// Nothing, as the gate has no margin.
    Nothing,
    /// Nothing, as there is nothing.
    Nobody,
    /// The sync path of the same time: bad ones, of how many.
    Live(u64, u64),
    /// That of an earlier step.
    Frozen(u64, u64),
}

/// One of the things that a gate asks.
struct Finding {
    holds: bool,
    text: String,
    needs: Option<u64>,
}

/// Clients whose failures a look has counted, by path: a client that tries again and again is one that fails.
#[derive(Default)]
struct Told {
    asynchronous: By,
    sync: By,
}

/// All that a gate's answer comes of.
struct Case<'a> {
    gate: &'a Gate,
    limits: &'a Limits,
    min: MinSamples,
    look: &'a Look<'a>,
    evidence: Counted,
    against: Against,
    /// The share above which it fails; `max`, or what the frozen baseline and `margin` come to.
    ceiling: Option<f64>,
}

pub(super) fn judge(gate: &Gate, limits: &Limits, min: MinSamples, memory: &mut Memory, look: &Look<'_>) -> Report {
    let case = Case::new(gate, limits, min, look);
    case.remember(memory);
    let broken = case.broken(memory);
    let asked = case.asked();
    let verdict = match () {
        () if !broken.is_empty() => Verdict::Fail,
        () if asked.iter().all(|finding| finding.holds) => Verdict::Pass,
        () => Verdict::Inconclusive,
    };
    let needs = asked.iter().filter_map(|finding| finding.needs).max();
    let needs = needs.filter(|needs| *needs > 0 && verdict == Verdict::Inconclusive);
    case.report(verdict, needs, if broken.is_empty() { asked.into_iter().map(|f| f.text).collect() } else { broken })
}

// === impl Case ===

impl<'a> Case<'a> {
    fn new(gate: &'a Gate, limits: &'a Limits, min: MinSamples, look: &'a Look<'a>) -> Self {
        let evidence = Counted::of(&gate.kind, look.evidence);
        let against = match (limits.margin, look.baseline) {
            (None, _) => Against::Nothing,
            _ if defers(&gate.kind) => Against::Nothing,
            (_, Some(baseline)) => match on_path(&gate.kind, baseline) {
                (_, 0) => Against::Nobody,
                (bad, of) => Against::Frozen(bad, of),
            },
            _ if min.sync == 0 => Against::Nobody,
            _ => Against::Live(evidence.sync.0, evidence.sync.1),
        };
        let mut case = Self { gate, limits, min, look, evidence, against, ceiling: None };
        case.ceiling = case.max().into_iter().chain(case.beside_frozen()).reduce(f64::min);
        case
    }

    /// The highest share that passes. The sync path defers nobody: a margin over that is a limit.
    fn max(&self) -> Option<f64> {
        let over_none = self.limits.margin.filter(|_| defers(&self.gate.kind));
        self.limits.max.into_iter().chain(over_none).reduce(f64::min)
    }

    fn beside_frozen(&self) -> Option<f64> {
        let (Against::Frozen(bad, of), Some(margin)) = (self.against, self.limits.margin) else { return None };
        Some((stats::wilson(bad, of, stats::Z95).1 + margin).min(1.0))
    }

    fn remember(&self, memory: &mut Memory) {
        let Look { news, late, .. } = *self.look;
        if matches!(self.against, Against::Live(..)) {
            let now = self.async_share(&Counted::of(&self.gate.kind, news));
            let mut told = Told::default();
            let mut more = self.scored(news, now, &mut told);
            for Late { news, whole } in late.iter().rev() {
                // Its share is known. At a higher one now, the sync failures that these are met by are few.
                let whole = Counted::of(&self.gate.kind, whole);
                let share = stats::share(whole.all, whole.all + whole.sync.1).max(now);
                sequential::add(&mut more, &self.scored(news, share, &mut told));
            }
            sequential::add(&mut memory.since_start, &more);
            sequential::add_restarted(&mut memory.since_worst, &more);
        }
        if let Some(ceiling) = self.ceiling {
            let all: Evidence = late.iter().map(|late| &late.news).chain([news]).sum();
            let Counted { bad, all, .. } = Counted::of(&self.gate.kind, &all);
            sequential::add_restarted(&mut memory.over_limit, &sequential::scored(bad, all, ceiling, 1.0));
        }
    }

    /// What the failures of both paths say, where that share of the requests was async: all of them, or one of each
    /// client, whichever speaks less against the async path. So a client that tries again and again turns nothing back, and
    /// neither does one that has most of the sync path's requests, which the share is of.
    fn scored(&self, news: &Evidence, share: f64, told: &mut Told) -> Scores {
        let Counted { bad, sync, .. } = Counted::of(&self.gate.kind, news);
        let scored = |bad, sync| sequential::scored(bad, bad + sync, share, self.limits.tolerated_ratio);
        let of_all = scored(bad, sync.0);
        let by = bad_by(&self.gate.kind, &news.asynchronous).zip(bad_by(&self.gate.kind, &news.sync));
        let once = by.and_then(|(of_async, of_sync)| {
            Some((once(&mut told.asynchronous, bad, of_async)?, once(&mut told.sync, sync.0, of_sync)?))
        });
        let Some((bad, sync)) = once else { return of_all };
        let of_each = scored(bad, sync);
        std::array::from_fn(|at| of_all[at].min(of_each[at]))
    }

    /// Which share of the news' requests was async.
    fn async_share(&self, news: &Counted) -> f64 {
        let (asynchronous, sync) = (stats::float(news.all), stats::float(news.sync.1));
        match self.evidence.all + self.evidence.sync.1 {
            0 => stats::share(news.all, news.all + news.sync.1),
            both => (asynchronous + PULL * stats::share(self.evidence.all, both)) / (asynchronous + sync + PULL),
        }
    }

    /// What it fails by.
    fn broken(&self, memory: &Memory) -> Vec<String> {
        let (alpha, Counted { bad, all, .. }) = (self.limits.alpha, self.evidence);
        let from_start = |log_e: f64| !self.look.healthy && log_e >= sequential::speaks(alpha);
        let lately = |scores| sequential::log_e(scores) >= sequential::speaks_restarted(alpha);
        let mut broken = Vec::new();
        if let Some(ceiling) = self.ceiling {
            if from_start(sequential::against_at_most(ceiling, bad, all)) {
                let lower = sequential::lower(bad, all, alpha);
                broken.push(format!("lower bound {}", words::compared(lower, ceiling)));
            } else if lately(&memory.over_limit) {
                broken.push(format!("lately more than {}", words::percent(ceiling)));
            }
        }
        if matches!(self.against, Against::Live(..)) {
            let ratio = self.limits.tolerated_ratio;
            if from_start(sequential::log_e(&memory.since_start)) {
                broken.push(format!("more than {ratio} times the sync path's share"));
            } else if lately(&memory.since_worst) {
                broken.push(format!("lately more than {ratio} times the sync path's share"));
            }
        }
        broken
    }

    /// What PASS asks.
    fn asked(&self) -> Vec<Finding> {
        if is_of_copies(&self.gate.kind) && self.look.full {
            return vec![Finding { holds: true, text: "nothing to shadow at 100 %".into(), needs: None }];
        }
        let limit = self.max().map(|max| self.limit(max));
        let margin = match (self.against, self.limits.margin) {
            (Against::Live(bad, of) | Against::Frozen(bad, of), Some(margin)) => Some(self.margin(bad, of, margin)),
            (Against::Nobody, _) => Some(Finding { holds: true, text: "compared with nothing".into(), needs: None }),
            _ => None,
        };
        let (samples, sync) = (self.samples(), self.sync_samples());
        limit.into_iter().chain(margin).chain(samples).chain(sync).collect()
    }

    fn limit(&self, max: f64) -> Finding {
        let Counted { bad, ended, .. } = self.evidence;
        let needs = sequential::clean_until(max, bad, ended, FALSE_PASS);
        let bound = sequential::upper(bad, ended, FALSE_PASS);
        Finding { holds: needs == Some(0), text: format!("upper bound {}", words::compared(bound, max)), needs }
    }

    fn margin(&self, bad: u64, of: u64, margin: f64) -> Finding {
        let lower = sequential::lower(bad, of, FALSE_PASS);
        let sync = Bounded { share: stats::share(bad, of), lower, upper: 1.0 };
        let bound = |more: u64| {
            let (bad, ended) = (self.evidence.bad, self.evidence.ended + more);
            let (share, upper) = (stats::share(bad, ended), sequential::upper(bad, ended, FALSE_PASS));
            stats::newcombe_upper(Bounded { share, lower: 0.0, upper }, sync)
        };
        let needs = stats::least(0, |more| bound(more) <= margin);
        let text = format!("upper bound of the difference {}", words::compared(bound(0), margin));
        Finding { holds: needs == Some(0), text, needs }
    }

    /// That there are enough outcomes, and not too many to come; nothing where all is well.
    fn samples(&self) -> Option<Finding> {
        if is_of_copies(&self.gate.kind) {
            return None; // they are requests of the other path: the bound alone asks for enough
        }
        let ended = self.evidence.ended;
        let missing = self.min.asynchronous.saturating_sub(ended);
        let text = words::too_early(ended, self.min, self.look)?;
        // The count itself is told once, at the end.
        let text = if missing > 0 { format!("min_samples {}", words::count(self.min.asynchronous)) } else { text };
        Some(Finding { holds: false, text, needs: Some(missing).filter(|missing| *missing > 0) })
    }

    fn sync_samples(&self) -> Option<Finding> {
        let Against::Live(_, of) = self.against else { return None };
        let min = self.min.sync;
        (of < min).then(|| {
            let text = format!("{} of {} sync requests", words::count(of), words::count(min));
            Finding { holds: false, text, needs: None }
        })
    }

    fn report(&self, verdict: Verdict, needs: Option<u64>, findings: Vec<String>) -> Report {
        let Counted { bad, ended, all, .. } = self.evidence;
        let sync = match self.against {
            Against::Live(bad, of) | Against::Frozen(bad, of) => Some((bad, of)),
            Against::Nothing | Against::Nobody => None,
        };
        let beside = sync.map(|(bad, of)| {
            let frozen = if matches!(self.against, Against::Frozen(..)) { " before" } else { "" };
            format!("{} of {} sync{frozen}", words::count(bad), words::count(of))
        });
        let who = if is_of_copies(&self.gate.kind) { "copies" } else { "async" };
        let told = format!("{} of {} {who} {}", words::count(bad), words::count(ended), what(&self.gate.kind));
        let missing = needs.map(|needs| format!("needs {} more", words::count(needs)));
        let parts: Vec<String> = [told].into_iter().chain(beside).chain(findings).chain(missing).collect();
        Report {
            gate: self.gate.name.clone(),
            kind: self.gate.kind.as_str(),
            verdict,
            why: format!("{}: {}", self.gate.name, parts.join(", ")),
            // What it needs are copies, and nobody is to wait for as many canaried requests.
            needs: needs.filter(|_| !is_of_copies(&self.gate.kind)),
            asynchronous: Some((bad, ended)),
            sync,
            value: (ended > 0).then(|| stats::share(bad, ended)),
            interval: Some((sequential::lower(bad, all, self.limits.alpha), sequential::upper(bad, ended, FALSE_PASS))),
        }
    }
}

// === impl Counted ===

impl Counted {
    fn of(kind: &GateKind, evidence: &Evidence) -> Self {
        let Evidence { asynchronous, accepted, cancelled, .. } = evidence;
        let bad_of = on_path(kind, asynchronous);
        // What came in and may have an outcome; more outcomes than that are late ones of earlier requests.
        let due = evidence.canaried().saturating_sub(*cancelled);
        let (bad, ended, all) = match kind {
            GateKind::DeferredRatio(_) => (evidence.deferred, *accepted, *accepted),
            GateKind::ShadowMismatch(_) => (evidence.mismatched, evidence.compared, evidence.copied),
            GateKind::SlowRatio { threshold, of: Latency::Acknowledgement, .. } => {
                let (bad, of) = slow(&evidence.acknowledged, *threshold);
                (bad, of, of)
            }
            GateKind::ErrorRatio(_) => (bad_of.0, bad_of.1, due.saturating_sub(asynchronous.client_errors)),
            _ => (bad_of.0, bad_of.1, due),
        };
        Self { bad, ended: ended.max(bad), all: all.max(ended).max(bad), sync: on_path(kind, &evidence.sync) }
    }
}

/// How many of a path's outcomes were bad, of how many.
fn on_path(kind: &GateKind, counts: &Counts) -> (u64, u64) {
    match kind {
        GateKind::ErrorRatio(_) => (counts.failed, counts.total.saturating_sub(counts.client_errors)),
        GateKind::ClientErrorRatio(_) => (counts.client_errors, counts.total),
        GateKind::SlowRatio { threshold, .. } => slow(&counts.took, *threshold),
        _ => (0, 0),
    }
}

/// Of `bad` requests, those of clients that nothing tells apart, and one of every other client that was not `told` of yet.
/// None where those are too many to be told apart.
fn once(told: &mut By, bad: u64, by: &By) -> Option<u64> {
    let before = clients(told)?;
    for (told, more) in told.iter_mut().zip(by) {
        *told += more;
    }
    let (grouped, new) = (by.iter().sum(), clients(told)? - before);
    Some(bad.saturating_sub(grouped) + new.min(grouped))
}

/// Which clients they were of, where a client's next request is likely to go the same way.
fn bad_by<'a>(kind: &GateKind, counts: &'a Counts) -> Option<&'a By> {
    match kind {
        GateKind::ErrorRatio(_) => Some(&counts.failed_by),
        GateKind::ClientErrorRatio(_) => Some(&counts.client_errors_by),
        _ => None,
    }
}

fn slow(took: &Took, threshold: Duration) -> (u64, u64) {
    (slower_than(took, threshold.as_secs_f64()), took.iter().sum())
}

fn defers(kind: &GateKind) -> bool {
    matches!(kind, GateKind::DeferredRatio(_))
}

fn is_of_copies(kind: &GateKind) -> bool {
    matches!(kind, GateKind::ShadowMismatch(_))
}

fn what(kind: &GateKind) -> String {
    match kind {
        GateKind::ClientErrorRatio(_) => "got a 4xx".into(),
        GateKind::DeferredRatio(_) => "were deferred".into(),
        GateKind::ShadowMismatch(_) => "were answered otherwise".into(),
        GateKind::SlowRatio { threshold, of: Latency::EndToEnd, .. } => {
            format!("took over {}", exact(*threshold))
        }
        GateKind::SlowRatio { threshold, of: Latency::Acknowledgement, .. } => {
            format!("were answered after {}", exact(*threshold))
        }
        _ => "failed".into(),
    }
}
