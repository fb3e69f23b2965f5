use super::*;
use crate::metrics::Ledger;
use crate::queue::{JobQueue, queue};

fn tenants(text: &str) -> (Tenants, JobQueue) {
    let (queue, _) = queue(100, 1000, Arc::<Ledger>::default());
    (Tenants::from_entries(entries(text), queue.share_limits(50), 100, Arc::default()), queue)
}

/// Parses `name:token+token:requests_per_second`, separated by spaces.
fn entries(text: &str) -> Vec<TenantEntry> {
    let entry = |word: &str| {
        let mut parts = word.split(':');
        let name = parts.next().unwrap().to_owned();
        let tokens = parts.next().unwrap().split('+').map(|token| Digest::of(token.as_bytes())).collect();
        let requests_per_second = parts.next().map(|rate| rate.parse().unwrap());
        TenantEntry { name, tokens, limits: RateLimits { requests_per_second, ..RateLimits::default() }, ack_max: None }
    };
    text.split(' ').map(entry).collect()
}

fn name(tenants: &Tenants, token: &str) -> Option<String> {
    tenants.find(token.as_bytes()).map(|tenant| tenant.name().to_owned())
}

#[test]
fn a_tenant_is_found_by_each_of_its_tokens() {
    let (tenants, _) = tenants("a:one+two b:three");
    assert_eq!(["one", "two", "three"].map(|token| name(&tenants, token).unwrap()), ["a", "a", "b"]);
    for token in ["", "on", "onee", "ONE", "one\0", &"x".repeat(10_000)] {
        assert_eq!(name(&tenants, token), None, "{token}");
    }
}

#[test]
fn after_a_reload_tenants_keep_their_share_and_usage_and_removed_tenants_are_dropped() {
    let (tenants, queue) = tenants("same:one:1 changed:two:1 gone:three:1");
    let before = ["one", "two", "three"].map(|token| tenants.find(token.as_bytes()).unwrap());
    before.iter().for_each(|tenant| assert_eq!(tenant.rate_limiters().take(RateLimit::Requests, 1), Ok(())));
    let gone = Arc::downgrade(&before[2]);

    tenants.replace(entries("same:one+four:1 changed:two:2 new:five:1"));
    assert_eq!(name(&tenants, "three"), None);
    let [same, changed] = ["four", "two"].map(|token| tenants.find(token.as_bytes()).unwrap());
    assert!(
        matches!(same.rate_limiters().take(RateLimit::Requests, 1), Err(RateLimitExceeded::RetryAfter(_))),
        "a new token does not reset the rate limiters"
    );
    assert_eq!(changed.rate_limiters().take(RateLimit::Requests, 1), Ok(()), "new limits reset the rate limiters");
    let held = [&before[0], &before[1]].map(|tenant| {
        let mut held = queue.reserve(tenant.share());
        assert_eq!(held.grow_to(500), Ok(()));
        held
    });
    assert!(
        [&same, &changed].iter().all(|tenant| tenant.share().unwrap().is_full()),
        "earlier reservations still count"
    );
    drop((before, held));
    assert!(gone.upgrade().is_none(), "a removed tenant is dropped");
}

#[test]
fn debug_output_shows_no_token_and_no_digest() {
    let (tenants, _) = tenants("a:s3cret");
    let digest = "1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0";
    assert_eq!(digest.parse::<Digest>(), Ok(Digest::of(b"s3cret")));
    let printed = format!("{tenants:?} {:?}", entries("a:s3cret"));
    assert!(!printed.contains("s3cret") && !printed.contains("1ec1c2") && !printed.contains("30, 193"), "{printed}");
}
