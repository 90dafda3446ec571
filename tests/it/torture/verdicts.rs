//! The checker can tell a bad history from a good one: each promise is broken once.

use super::history::{Broken, End, Entry, Event, Fault, Rules, check};

const RULES: Rules = Rules { retries: 3, concurrency: 2, lease: 5000 };

fn accepted() -> Event {
    Event::Accepted { id: "t".into() }
}

fn begun(attempt: u32) -> Event {
    Event::Begun { id: "t".into(), attempt }
}

fn ended(attempt: u32, ok: bool) -> Event {
    Event::Ended { id: "t".into(), attempt, ok }
}

fn end(status: &str, attempts: u32) -> End {
    End { status: status.into(), attempts, by: (status == "completed").then_some(attempts) }
}

fn last(status: &str, attempts: u32) -> Event {
    Event::Final { id: "t".into(), end: Some(end(status, attempts)) }
}

fn seen(status: &str, attempts: u32) -> Event {
    Event::Seen { id: "t".into(), end: Some(end(status, attempts)) }
}

fn fault(fault: Fault, from: u64) -> Event {
    Event::Fault { fault, target: "worker-1".into(), from }
}

fn letter() -> Event {
    Event::DeadLetter { id: "t".into() }
}

fn cancelled() -> Event {
    Event::Cancelled { id: "t".into() }
}

/// What is broken in these events, which are a second apart, the first at 1000.
fn broken(events: Vec<Event>) -> Vec<Broken> {
    let history: Vec<_> = (1..).zip(events).map(|(n, event)| Entry { at: n * 1000, event }).collect();
    let mut found: Vec<_> = check(&history, RULES).1.into_iter().map(|(broken, ..)| broken).collect();
    found.dedup();
    found
}

#[test]
fn histories_that_keep_every_promise_pass() {
    for good in [
        vec![accepted(), begun(1), ended(1, true), seen("completed", 1), last("completed", 1)],
        vec![accepted(), begun(1), ended(1, false), begun(2), ended(2, true), last("completed", 2)],
        vec![accepted(), begun(1), fault(Fault::Kill, 2000), begun(2), ended(2, true), last("completed", 2)],
        vec![accepted(), begun(1), fault(Fault::Freeze, 2500), begun(2), ended(2, true), last("completed", 2)],
        vec![accepted(), cancelled(), last("cancelled", 0)],
        vec![accepted(), begun(1), cancelled(), ended(1, true), last("cancelled", 1)],
        (1..=4).flat_map(|n| [begun(n), ended(n, false)]).chain([last("failed", 4), letter()]).collect(),
        vec![begun(1), ended(1, true)], // nobody was told of it
    ] {
        assert_eq!(broken(good.clone()), [], "{good:?}");
    }
}

#[test]
fn a_task_that_is_unknown_or_never_ends_is_lost() {
    assert_eq!(broken(vec![accepted(), Event::Final { id: "t".into(), end: None }]), [Broken::Lost]);
    assert_eq!(broken(vec![accepted(), begun(1), last("processing", 1)]), [Broken::Lost]);
    assert_eq!(broken(vec![accepted()]), [Broken::Lost]);
}

#[test]
fn an_end_that_changes_is_found() {
    let ran = || vec![accepted(), begun(1), ended(1, true), seen("completed", 1)];
    assert_eq!(broken([ran(), vec![last("cancelled", 1)]].concat()), [Broken::Changed]);
    assert_eq!(
        broken([ran(), vec![Event::Final { id: "t".into(), end: None }]].concat()),
        [Broken::Lost, Broken::Changed]
    );
    assert_eq!(
        broken(vec![accepted(), begun(1), ended(1, true), cancelled(), last("completed", 1)]),
        [Broken::Changed]
    );
}

#[test]
fn a_second_run_without_a_fault_that_explains_it_is_found() {
    let twice = |between: Vec<Event>| {
        [vec![accepted(), begun(1)], between, vec![begun(2), ended(2, true), last("completed", 2)]].concat()
    };
    assert_eq!(broken(twice(vec![])), [Broken::RanTwice, Broken::TooManyRuns]);
    assert_eq!(broken(twice(vec![fault(Fault::Outage, 2000)])), [Broken::RanTwice, Broken::TooManyRuns]);
    let before = vec![fault(Fault::Kill, 900), accepted(), begun(1), begun(2), ended(2, true), last("completed", 2)];
    assert_eq!(broken(before), [Broken::RanTwice]);
}

#[test]
fn more_second_runs_than_the_faults_explain_are_found() {
    let mut history = vec![Entry { at: 2000, event: fault(Fault::Kill, 1000) }];
    for n in 0..3 {
        let id = || format!("t{n}");
        history.push(Entry { at: 1000, event: Event::Begun { id: id(), attempt: 1 } });
        history.push(Entry { at: 3000, event: Event::Begun { id: id(), attempt: 2 } });
    }
    let (figures, breaches) = check(&history, RULES);
    assert_eq!(figures.doubles, 3);
    assert_eq!(breaches.iter().map(|(broken, ..)| *broken).collect::<Vec<_>>(), [Broken::TooManyRuns]);
}

#[test]
fn an_attempt_that_runs_twice_is_found_even_after_a_kill() {
    let twice = vec![accepted(), begun(1), fault(Fault::Kill, 2000), begun(1), ended(1, true), last("completed", 1)];
    assert_eq!(broken(twice), [Broken::AttemptTwice]);
    let drained = |while_gone: Option<Event>| {
        let first = [accepted(), begun(1), fault(Fault::Drain, 2000)];
        broken(first.into_iter().chain(while_gone).chain([begun(1), ended(1, true), last("completed", 1)]).collect())
    };
    assert_eq!(drained(None), [Broken::AttemptTwice, Broken::RanTwice, Broken::TooManyRuns]);
    assert_eq!(drained(Some(fault(Fault::Outage, 2000))), [], "it could not say what it gives back");
}

#[test]
fn a_run_after_the_end_is_found() {
    let late = vec![accepted(), begun(1), ended(1, false), seen("failed", 4), begun(2), last("failed", 4), letter()];
    assert_eq!(broken(late), [Broken::RanAfterItsEnd]);
    let mut late = vec![accepted(), cancelled()];
    late.extend((0..6).map(|_| fault(Fault::Cut, 1000)));
    late.extend([begun(1), last("cancelled", 1)]);
    assert_eq!(broken(late), [Broken::RanAfterItsEnd]);
}

#[test]
fn attempts_over_the_limit_and_a_failure_before_they_are_spent_are_found() {
    assert_eq!(broken(vec![begun(1), ended(1, false), last("failed", 1), letter()]), [Broken::Attempts]);
    assert_eq!(broken(vec![begun(7), ended(7, true), last("completed", 7)]), [Broken::Attempts]);
}

#[test]
fn a_result_of_no_successful_run_is_found() {
    assert_eq!(broken(vec![accepted(), last("completed", 1)]), [Broken::NoSuchResult]);
    assert_eq!(broken(vec![accepted(), begun(1), ended(1, false), last("completed", 1)]), [Broken::NoSuchResult]);
    let other = End { by: Some(1), ..end("completed", 2) };
    let other = Event::Final { id: "t".into(), end: Some(other) };
    assert_eq!(broken(vec![begun(1), ended(1, false), begun(2), ended(2, true), other]), [Broken::NoSuchResult]);
}

#[test]
fn dead_letters_too_many_and_too_few_are_found() {
    let spent = || (1..=4).flat_map(|n| [begun(n), ended(n, false)]).chain([last("failed", 4)]);
    assert_eq!(broken(spent().collect()), [Broken::DeadLetters]);
    assert_eq!(broken(spent().chain([letter(), letter()]).collect()), [Broken::DeadLetters]);
    assert_eq!(broken(vec![begun(1), ended(1, true), last("completed", 1), letter()]), [Broken::DeadLetters]);
}
