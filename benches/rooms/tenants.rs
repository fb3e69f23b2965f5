//! Authentication of a tenant by its token, its rate limits, and reservations of the queue.

use std::sync::Arc;

use divan::{Bencher, black_box};
use millpond::digest::Digest;
use millpond::queue::queue;
use millpond::tenants::{RateLimit, RateLimits, TenantEntry, Tenants};

const TOKEN: &str = "mp_7d1f5b0c9a3e4f68b2d0c1e5a7f93b46";

/// `count` tenants with one token each. The last one has [`TOKEN`].
fn tenants(count: usize) -> Tenants {
    let per_second = Some(1_000_000);
    let limits = RateLimits {
        requests_per_second: per_second,
        payloads_per_second: Some(1_000_000_000),
        bytes_per_second: Some(1_000_000_000_000),
        burst_seconds: 3600,
    };
    let entry = |n: usize| {
        let token = if n + 1 == count { TOKEN.to_owned() } else { format!("token-{n}") };
        let tokens = vec![Digest::of(token.as_bytes())];
        TenantEntry { name: format!("tenant-{n}"), tokens, limits: limits.clone(), ack_max: None }
    };
    let (queue, _) = queue(10_000, 256 << 20, Arc::default());
    Tenants::from_entries((0..count).map(entry).collect(), queue.share_limits(50), 1 << 20, Arc::default())
}

#[divan::bench(args = [1, 100_000], max_time = 1)]
fn token(bencher: Bencher<'_, '_>, count: usize) {
    let tenants = tenants(count);
    bencher.bench_local(|| tenants.find(black_box(TOKEN.as_bytes())).unwrap());
}

#[divan::bench(max_time = 1)]
fn unknown_token(bencher: Bencher<'_, '_>) {
    let tenants = tenants(100_000);
    bencher.bench_local(|| assert!(tenants.find(black_box(b"an unknown token of about the same length")).is_none()));
}

#[divan::bench(max_time = 1)]
fn quotas(bencher: Bencher<'_, '_>) {
    let tenants = tenants(1);
    let tenant = tenants.find(TOKEN.as_bytes()).unwrap();
    bencher.bench_local(|| {
        let quota = tenant.rate_limiters();
        let taken = [(RateLimit::Requests, 1), (RateLimit::Bytes, 3500), (RateLimit::Payloads, 10)]
            .map(|(limit, amount)| quota.take(limit, black_box(amount)));
        assert_eq!(taken, [Ok(()); 3]);
    });
}

/// A reservation for a body, without a share and with one.
#[divan::bench(args = [100, 50], max_time = 1)]
fn reservation(bencher: Bencher<'_, '_>, percent: usize) {
    let (queue, _receiver) = queue(10_000, 256 << 20, Arc::default());
    let share = queue.share_limits(percent).new_share();
    bencher.bench_local(|| {
        let mut reservation = queue.reserve(black_box(share.as_ref()));
        assert_eq!(reservation.grow_to(3500), Ok(()));
    });
}
