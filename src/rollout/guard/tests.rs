use super::Outcome::{Abandoned, Failed, Ok};
use super::*;

const MS: Duration = Duration::from_millis(1);

/// A guard after `requests` of each side within a second, `(requests, errors, latency)`, and the last comparison.
fn after(own: (u64, u64, Duration), other: (u64, u64, Duration)) -> Option<Trip> {
    let began = Instant::now();
    let mut guard = Guard::new(began);
    for (side, (requests, errors, latency)) in [(Side::Own, own), (Side::Other, other)] {
        for request in 0..requests {
            let (outcome, latency) = if request < errors { (Failed, None) } else { (Ok, Some(latency)) };
            guard.record(side, began, outcome, latency);
        }
    }
    let (own, other) = (guard.own.sum(began), guard.other.sum(began));
    compare(&own, &other).map(|reason| Trip { reason, other: (&other).into(), own: (&own).into() })
}

fn reason(own: (u64, u64, Duration), other: (u64, u64, Duration)) -> Option<&'static str> {
    after(own, other).map(|trip| trip.reason.name())
}

#[test]
fn a_version_that_is_as_good_does_not_trip_the_guard() {
    for other in [(50, 0, MS), (50, 1, MS), (10_000, 100, 2 * MS), (1000, 0, 90 * MS)] {
        assert_eq!(reason((1000, 0, MS), other), None, "{other:?}");
    }
    assert_eq!(reason((1000, 1000, MS), (1000, 1000, MS)), None, "both fail, so neither is worse");
    assert_eq!(reason((1000, 100, MS), (1000, 200, MS)), None);
}

#[test]
fn a_higher_error_rate_trips_the_guard() {
    assert_eq!(reason((50, 0, MS), (50, 5, MS)), Some("errors"));
    assert_eq!(reason((1000, 100, MS), (1000, 250, MS)), Some("errors"));
    assert_eq!(reason((1000, 0, MS), (1000, 25, MS)), Some("errors"));
}

#[test]
fn few_requests_or_few_errors_do_not_trip_the_guard() {
    assert_eq!(reason((1000, 0, MS), (REQUESTS_MIN - 1, REQUESTS_MIN - 1, MS)), None);
    assert_eq!(reason((1000, 0, MS), (100, ERRORS_MIN - 1, MS)), None);
    assert_eq!(reason((REQUESTS_MIN - 1, 0, MS), (1000, 100, MS)), None);
    assert_eq!(reason((REQUESTS_MIN - 1, 0, MS), (1000, 0, 9000 * MS)), None);
    assert_eq!(reason((1000, 0, MS), (REQUESTS_MIN - 1, 0, 9000 * MS)), None);
}

#[test]
fn a_version_that_mostly_fails_trips_the_guard_although_nothing_is_handled_here() {
    assert_eq!(reason((0, 0, MS), (50, 26, MS)), Some("errors"));
    assert_eq!(reason((0, 0, MS), (50, 25, MS)), None);
}

#[test]
fn a_longer_p99_trips_the_guard() {
    assert_eq!(reason((50, 0, MS), (50, 0, 200 * MS)), Some("latency"));
    assert_eq!(reason((50, 0, 500 * MS), (50, 0, 900 * MS)), None, "less than twice as long");
    assert_eq!(reason((50, 0, 500 * MS), (50, 0, 1500 * MS)), Some("latency"));
}

#[test]
fn one_slow_response_in_a_hundred_does_not_trip_the_guard() {
    let began = Instant::now();
    let mut guard = Guard::new(began);
    for request in 0..1000 {
        guard.record(Side::Own, began, Ok, Some(MS));
        guard.record(Side::Other, began, Ok, Some(if request % 100 == 0 { 9000 * MS } else { MS }));
    }
    assert_eq!(compare(&guard.own.sum(began), &guard.other.sum(began)), None);
    guard.record(Side::Other, began, Ok, Some(9000 * MS));
    assert_eq!(compare(&guard.own.sum(began), &guard.other.sum(began)), Some(Reason::Latency));
}

#[test]
fn the_sides_are_compared_at_intervals_and_errors_that_are_older_than_the_window_do_not_count() {
    let began = Instant::now();
    let mut guard = Guard::new(began);
    for _ in 0..100 {
        assert_eq!(guard.record(Side::Own, began, Ok, None), None);
        assert_eq!(guard.record(Side::Other, began, Failed, None), None, "not compared yet");
    }
    let mut late = Guard::new(began);
    for _ in 0..100 {
        late.record(Side::Own, began, Ok, None);
        late.record(Side::Other, began, Failed, None);
    }
    late.record(Side::Other, began, Ok, None);
    assert!(guard.record(Side::Other, began + COMPARE_INTERVAL, Failed, None).is_some());
    assert_eq!(late.record(Side::Other, began + WINDOW, Failed, None), None);
}

#[test]
fn failures_in_a_row_trip_the_guard_at_any_rate_if_they_last_and_this_version_does_not_fail() {
    let began = Instant::now();
    let fails = |guard: &mut Guard, count: u32, every: Duration| {
        let trips = (0..count).map(|n| guard.record(Side::Other, began + every * n, Failed, None));
        trips.fold(None, |last, trip| trip.or(last)).map(|trip| trip.to_string())
    };
    let every = FAILURES_SPAN / (FAILURES_IN_A_ROW - 1);
    let trip = fails(&mut Guard::new(began), FAILURES_IN_A_ROW, every + MS).unwrap();
    assert!(trip.starts_with("the last 10 requests there failed; errors in the last 30 s"), "{trip}");
    assert!(fails(&mut Guard::new(began), FAILURES_IN_A_ROW, WINDOW * 2).is_some(), "a trickle");
    assert_eq!(fails(&mut Guard::new(began), FAILURES_IN_A_ROW - 1, WINDOW), None);
    assert_eq!(fails(&mut Guard::new(began), FAILURES_IN_A_ROW, every - MS), None, "in too short a time");
    let mut guard = Guard::new(began);
    assert_eq!(fails(&mut guard, FAILURES_IN_A_ROW - 1, WINDOW), None);
    guard.record(Side::Other, began, Ok, None);
    assert_eq!(fails(&mut guard, FAILURES_IN_A_ROW - 1, WINDOW), None, "a success between them");
    let mut both = Guard::new(began);
    (0..FAILURES_IN_A_ROW).for_each(|_| assert_eq!(both.record(Side::Own, began, Failed, None), None));
    assert_eq!(fails(&mut both, FAILURES_IN_A_ROW, WINDOW), None, "both fail, so neither is worse");
}

#[test]
fn abandoned_requests_are_errors_when_they_took_long_and_slow_in_any_case() {
    let abandoned = |own: u64, latency: Duration| {
        let began = Instant::now();
        let mut guard = Guard::new(began);
        (0..own).for_each(|_| assert_eq!(guard.record(Side::Own, began, Ok, Some(MS)), None));
        (0..100).for_each(|_| assert_eq!(guard.record(Side::Other, began, Abandoned, Some(latency)), None));
        compare(&guard.own.sum(began), &guard.other.sum(began))
    };
    assert_eq!(abandoned(0, ABANDONED_MIN), Some(Reason::Errors), "even if nothing is handled here");
    assert_eq!(abandoned(100, ABANDONED_MIN / 2), Some(Reason::Latency));
    assert_eq!(abandoned(100, MS), None, "clients that do not wait for responses");
    assert_eq!(abandoned(0, ABANDONED_MIN - MS), None);
}

#[test]
fn the_guard_says_what_it_can_judge() {
    let began = Instant::now();
    let mut guard = Guard::new(began);
    let add = |guard: &mut Guard, side| {
        (0..REQUESTS_MIN).for_each(|_| assert_eq!(guard.record(side, began, Ok, None), None));
    };
    add(&mut guard, Side::Own);
    assert_eq!(guard.judgement(began), Judgement::TooFewRequests);
    add(&mut guard, Side::Other);
    assert_eq!(guard.judgement(began), Judgement::Compared);
    let mut guard = Guard::new(began);
    add(&mut guard, Side::Other);
    assert_eq!(guard.judgement(began), Judgement::ErrorsOnly);
    assert_eq!(guard.judgement(began + WINDOW), Judgement::TooFewRequests);
}

#[test]
fn a_trip_says_what_both_sides_did() {
    let trip = after((100, 0, MS), (100, 50, MS)).unwrap();
    assert_eq!(
        trip.to_string(),
        "errors in the last 30 s: there 50 of 100 requests failed, p99 1.1 ms; here 0 of 100 requests failed, p99 1.1 ms"
    );
}
