//! The route of a request, as a label of the request metrics.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use super::name;

/// Which route a request is for, so that ingestion is measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/v1/payloads` and `/`.
    Payloads,
    /// `/v1/jobs/{job}`.
    Jobs,
    /// `/health`.
    Health,
    /// Any other path, and connections that were refused before a request was read.
    Other,
}

impl Route {
    pub(super) const ALL: [(Self, &'static str); 4] =
        [(Self::Payloads, "payloads"), (Self::Jobs, "jobs"), (Self::Health, "health"), (Self::Other, "other")];

    /// The route of a path. A request is counted for it whatever its method, and also if it is refused.
    pub fn of(path: &str) -> Self {
        match path {
            "/" | "/v1/payloads" => Self::Payloads,
            "/health" => Self::Health,
            _ if path.starts_with("/v1/jobs/") => Self::Jobs,
            _ => Self::Other,
        }
    }
}

/// The element of `all` that belongs to `route`: each array is made from [`Route::ALL`], in its order.
pub(super) fn pick<T>([payloads, jobs, health, other]: &[T; Route::ALL.len()], route: Route) -> &T {
    match route {
        Route::Payloads => payloads,
        Route::Jobs => jobs,
        Route::Health => health,
        Route::Other => other,
    }
}

/// `requests_total`, for each route and each of `outcomes`.
pub(super) fn counters<const N: usize>(
    registry: &Registry,
    outcomes: [&str; N],
) -> prometheus::Result<[[IntCounter; N]; Route::ALL.len()]> {
    let options = Opts::new(name("requests_total"), "Requests, by route and outcome");
    let counters = IntCounterVec::new(options, &["route", "outcome"])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(Route::ALL.map(|(_, route)| outcomes.map(|outcome| counters.with_label_values(&[route, outcome]))))
}

/// `request_seconds`, for each route.
pub(super) fn histograms(registry: &Registry, buckets: &[f64]) -> prometheus::Result<[Histogram; Route::ALL.len()]> {
    let options = HistogramOpts::new(name("request_seconds"), "Time from the headers of a request to its response");
    let histograms = HistogramVec::new(options.buckets(buckets.to_vec()), &["route"])?;
    registry.register(Box::new(histograms.clone()))?;
    Ok(Route::ALL.map(|(_, route)| histograms.with_label_values(&[route])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_of_the_server_has_its_label_and_every_other_path_shares_one() {
        let routes = ["/", "/v1/payloads", "/v1/jobs/0", "/health", "/v1/jobs", "/healthy", "/x"].map(Route::of);
        use Route::{Health, Jobs, Other, Payloads};
        assert_eq!(routes, [Payloads, Payloads, Jobs, Health, Other, Other, Other]);
        for (index, (route, _)) in Route::ALL.into_iter().enumerate() {
            assert_eq!(*pick(&[0, 1, 2, 3], route), index);
        }
    }
}
