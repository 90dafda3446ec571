//! The checker can tell a bad history from a good one: each promise is broken once.

use super::history::{
    BrokenPromise, CheckRules, FaultKind, JournalEntry, TaskEnd, TortureEvent, check_history,
};

const CHECK_RULES: CheckRules = CheckRules { retries: 3, concurrency: 2, lease_ms: 5000 };

fn accepted_event() -> TortureEvent {
    TortureEvent::Accepted { id: "t".into() }
}

fn begun_event(attempt: u32) -> TortureEvent {
    TortureEvent::Begun { id: "t".into(), attempt }
}

fn ended_event(attempt: u32, ok: bool) -> TortureEvent {
    TortureEvent::Ended { id: "t".into(), attempt, ok }
}

fn task_end(status: &str, attempts: u32) -> TaskEnd {
    TaskEnd {
        status: status.into(),
        attempts,
        result_attempt: (status == "completed").then_some(attempts),
    }
}

fn final_event(status: &str, attempts: u32) -> TortureEvent {
    TortureEvent::Final { id: "t".into(), end: Some(task_end(status, attempts)) }
}

fn observed_event(status: &str, attempts: u32) -> TortureEvent {
    TortureEvent::EndObserved { id: "t".into(), end: Some(task_end(status, attempts)) }
}

fn fault_event(fault: FaultKind, from: u64) -> TortureEvent {
    TortureEvent::Fault { fault, target: "worker-1".into(), from }
}

fn dead_letter_event() -> TortureEvent {
    TortureEvent::DeadLetter { id: "t".into() }
}

fn cancelled_event() -> TortureEvent {
    TortureEvent::Cancelled { id: "t".into() }
}

/// What is broken in these events, which are a second apart, the first at 1000.
fn broken_promises(events: Vec<TortureEvent>) -> Vec<BrokenPromise> {
    let history: Vec<_> =
        (1..).zip(events).map(|(n, event)| JournalEntry { at: n * 1000, event }).collect();
    let mut found: Vec<_> =
        check_history(&history, CHECK_RULES).1.into_iter().map(|(broken, ..)| broken).collect();
    found.dedup();
    found
}

#[test]
fn histories_that_keep_every_promise_pass() {
    for good in [
        vec![
            accepted_event(),
            begun_event(1),
            ended_event(1, true),
            observed_event("completed", 1),
            final_event("completed", 1),
        ],
        vec![
            accepted_event(),
            begun_event(1),
            ended_event(1, false),
            begun_event(2),
            ended_event(2, true),
            final_event("completed", 2),
        ],
        vec![
            accepted_event(),
            begun_event(1),
            fault_event(FaultKind::Kill, 2000),
            begun_event(2),
            ended_event(2, true),
            final_event("completed", 2),
        ],
        vec![
            accepted_event(),
            begun_event(1),
            fault_event(FaultKind::Freeze, 2500),
            begun_event(2),
            ended_event(2, true),
            final_event("completed", 2),
        ],
        vec![accepted_event(), cancelled_event(), final_event("cancelled", 0)],
        vec![
            accepted_event(),
            begun_event(1),
            cancelled_event(),
            ended_event(1, true),
            final_event("cancelled", 1),
        ],
        (1..=4)
            .flat_map(|n| [begun_event(n), ended_event(n, false)])
            .chain([final_event("failed", 4), dead_letter_event()])
            .collect(),
        vec![begun_event(1), ended_event(1, true)], // nobody was told of it
    ] {
        assert_eq!(broken_promises(good.clone()), [], "{good:?}");
    }
}

#[test]
fn a_task_that_is_unknown_or_never_ends_is_lost() {
    assert_eq!(
        broken_promises(vec![accepted_event(), TortureEvent::Final { id: "t".into(), end: None }]),
        [BrokenPromise::Lost]
    );
    assert_eq!(
        broken_promises(vec![accepted_event(), begun_event(1), final_event("processing", 1)]),
        [BrokenPromise::Lost]
    );
    assert_eq!(broken_promises(vec![accepted_event()]), [BrokenPromise::Lost]);
}

#[test]
fn an_end_that_changes_is_found() {
    let ran = || {
        vec![accepted_event(), begun_event(1), ended_event(1, true), observed_event("completed", 1)]
    };
    assert_eq!(
        broken_promises([ran(), vec![final_event("cancelled", 1)]].concat()),
        [BrokenPromise::EndChanged]
    );
    assert_eq!(
        broken_promises([ran(), vec![TortureEvent::Final { id: "t".into(), end: None }]].concat()),
        [BrokenPromise::Lost, BrokenPromise::EndChanged]
    );
    assert_eq!(
        broken_promises(vec![
            accepted_event(),
            begun_event(1),
            ended_event(1, true),
            cancelled_event(),
            final_event("completed", 1)
        ]),
        [BrokenPromise::EndChanged]
    );
}

#[test]
fn a_second_run_without_a_fault_that_explains_it_is_found() {
    let twice = |between: Vec<TortureEvent>| {
        [
            vec![accepted_event(), begun_event(1)],
            between,
            vec![begun_event(2), ended_event(2, true), final_event("completed", 2)],
        ]
        .concat()
    };
    assert_eq!(
        broken_promises(twice(vec![])),
        [BrokenPromise::UnexplainedRun, BrokenPromise::TooManyRuns]
    );
    assert_eq!(
        broken_promises(twice(vec![fault_event(FaultKind::Outage, 2000)])),
        [BrokenPromise::UnexplainedRun, BrokenPromise::TooManyRuns]
    );
    let before = vec![
        fault_event(FaultKind::Kill, 900),
        accepted_event(),
        begun_event(1),
        begun_event(2),
        ended_event(2, true),
        final_event("completed", 2),
    ];
    assert_eq!(broken_promises(before), [BrokenPromise::UnexplainedRun]);
}

#[test]
fn more_second_runs_than_the_faults_explain_are_found() {
    let mut history = vec![JournalEntry { at: 2000, event: fault_event(FaultKind::Kill, 1000) }];
    for n in 0..3 {
        let id = || format!("t{n}");
        history
            .push(JournalEntry { at: 1000, event: TortureEvent::Begun { id: id(), attempt: 1 } });
        history
            .push(JournalEntry { at: 3000, event: TortureEvent::Begun { id: id(), attempt: 2 } });
    }
    let (figures, breaches) = check_history(&history, CHECK_RULES);
    assert_eq!(figures.repeated_runs, 3);
    assert_eq!(
        breaches.iter().map(|(broken, ..)| *broken).collect::<Vec<_>>(),
        [BrokenPromise::TooManyRuns]
    );
}

#[test]
fn an_attempt_that_runs_twice_is_found_even_after_a_kill() {
    let twice = vec![
        accepted_event(),
        begun_event(1),
        fault_event(FaultKind::Kill, 2000),
        begun_event(1),
        ended_event(1, true),
        final_event("completed", 1),
    ];
    assert_eq!(broken_promises(twice), [BrokenPromise::AttemptRanTwice]);
    let drained = |while_gone: Option<TortureEvent>| {
        let first = [accepted_event(), begun_event(1), fault_event(FaultKind::Drain, 2000)];
        broken_promises(
            first
                .into_iter()
                .chain(while_gone)
                .chain([begun_event(1), ended_event(1, true), final_event("completed", 1)])
                .collect(),
        )
    };
    assert_eq!(
        drained(None),
        [BrokenPromise::AttemptRanTwice, BrokenPromise::UnexplainedRun, BrokenPromise::TooManyRuns]
    );
    assert_eq!(
        drained(Some(fault_event(FaultKind::Outage, 2000))),
        [],
        "it could not say what it gives back"
    );
}

#[test]
fn a_run_after_the_end_is_found() {
    let late = vec![
        accepted_event(),
        begun_event(1),
        ended_event(1, false),
        observed_event("failed", 4),
        begun_event(2),
        final_event("failed", 4),
        dead_letter_event(),
    ];
    assert_eq!(broken_promises(late), [BrokenPromise::RanAfterEnd]);
    let mut late = vec![accepted_event(), cancelled_event()];
    late.extend((0..6).map(|_| fault_event(FaultKind::Cut, 1000)));
    late.extend([begun_event(1), final_event("cancelled", 1)]);
    assert_eq!(broken_promises(late), [BrokenPromise::RanAfterEnd]);
}

#[test]
fn attempts_over_the_limit_and_a_failure_before_they_are_spent_are_found() {
    assert_eq!(
        broken_promises(vec![
            begun_event(1),
            ended_event(1, false),
            final_event("failed", 1),
            dead_letter_event()
        ]),
        [BrokenPromise::WrongAttemptCount]
    );
    assert_eq!(
        broken_promises(vec![begun_event(7), ended_event(7, true), final_event("completed", 7)]),
        [BrokenPromise::WrongAttemptCount]
    );
}

#[test]
fn a_result_of_no_successful_run_is_found() {
    assert_eq!(
        broken_promises(vec![accepted_event(), final_event("completed", 1)]),
        [BrokenPromise::ResultWithoutSuccess]
    );
    assert_eq!(
        broken_promises(vec![
            accepted_event(),
            begun_event(1),
            ended_event(1, false),
            final_event("completed", 1)
        ]),
        [BrokenPromise::ResultWithoutSuccess]
    );
    let other = TaskEnd { result_attempt: Some(1), ..task_end("completed", 2) };
    let other = TortureEvent::Final { id: "t".into(), end: Some(other) };
    assert_eq!(
        broken_promises(vec![
            begun_event(1),
            ended_event(1, false),
            begun_event(2),
            ended_event(2, true),
            other
        ]),
        [BrokenPromise::ResultWithoutSuccess]
    );
}

#[test]
fn dead_letters_too_many_and_too_few_are_found() {
    let spent = || {
        (1..=4)
            .flat_map(|n| [begun_event(n), ended_event(n, false)])
            .chain([final_event("failed", 4)])
    };
    assert_eq!(broken_promises(spent().collect()), [BrokenPromise::WrongDeadLetterCount]);
    assert_eq!(
        broken_promises(spent().chain([dead_letter_event(), dead_letter_event()]).collect()),
        [BrokenPromise::WrongDeadLetterCount]
    );
    assert_eq!(
        broken_promises(vec![
            begun_event(1),
            ended_event(1, true),
            final_event("completed", 1),
            dead_letter_event()
        ]),
        [BrokenPromise::WrongDeadLetterCount]
    );
}
