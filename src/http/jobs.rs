//! `GET /v1/jobs/{job}`: the state of a job, by its receipt.
//!
//! The state of a segment that this process holds, or held recently, is in memory. Any other is looked up in the store by the
//! key that follows from the receipt, so every machine of a fleet knows the state of every stored job. That takes one call
//! for a job that a machine with the same settings has stored, and two for any other. While the request waits, the lookup is
//! repeated at growing intervals. With a broker, the state of a job that is not in the store is looked up there.
//!
//! With tenants, the route needs a token. Any tenant may ask for any job: nothing is kept per job, so its tenant is not known,
//! and the response contains nothing of its payloads.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::auth::Identity;
use super::client_permits::ClientKey;
use super::problem::Problem;
use super::response::{JobBody, json};
use super::rollout::RequestRollout;
use super::state::ApiState;
use crate::log_throttle::LogThrottle;
use crate::rollout::Feature;
use crate::segment::{Compression, JobId};
use crate::server::ClientAddress;
use crate::spool;
use crate::store::{StoreError, StoredObject};
use crate::tenants::RateLimit;

/// The longest `?wait=`.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// While a request waits, the store is asked again after this time, which doubles each time.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);
const LOOKUP_INTERVAL_MAX: Duration = Duration::from_secs(8);

/// While the store is unavailable, every lookup fails.
static LOOKUP_LOG: LogThrottle = LogThrottle::for_clients();

/// The state of a job.
enum JobState {
    Spooled {
        key: String,
    },
    Stored {
        key: String,
    },
    /// The object lacks so many jobs that its metadata does not list each of them.
    Unknown {
        key: String,
    },
    Dead,
    /// The end of the job's segment could not be read, so it is unknown whether the job existed.
    PossiblyLost,
}

/// The detail of a job that is possibly lost.
const POSSIBLY_LOST: &str =
    "the end of this job's segment could not be read after a crash: if the job was acknowledged, it is lost";

/// The query of the route.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    wait: Option<String>,
}

impl Parameters {
    /// How long to wait; zero without the parameter.
    fn wait(query: Result<Query<Self>, QueryRejection>) -> Result<Duration, Problem> {
        let Query(Self { wait }) = query.map_err(|_| {
            Problem::InvalidQuery("invalid query: this route knows only `wait`, once, such as ?wait=10")
        })?;
        let Some(seconds) = wait else { return Ok(Duration::ZERO) };
        let seconds = seconds.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        let seconds = seconds.ok_or(Problem::InvalidQuery("wait is a number of seconds, such as 10"))?;
        Ok(Duration::try_from_secs_f64(seconds).unwrap_or(WAIT_MAX).min(WAIT_MAX))
    }
}

/// Returns the state of the job, at once or, with `?wait=SECONDS`, when it is no longer spooled.
pub(super) async fn get(
    State(state): State<Arc<ApiState>>,
    address: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    receipt: Result<Path<String>, PathRejection>,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, Problem> {
    let identity = Identity::require_in_headers(&headers, state.tenants.as_ref())?;
    identity.take(RateLimit::Requests, 1)?;
    let address = address.map(|Extension(ClientAddress(address))| address);
    let rollout = RequestRollout::new(state.rollout.as_ref(), state.tenants.is_some(), address);
    rollout.require(Feature::Receipts, identity.tenant())?;
    // The memory of the headers is not kept while the request waits.
    drop(headers);
    // Text that is not UTF-8 is not a receipt either.
    let job: JobId = receipt.map(|Path(receipt)| receipt).unwrap_or_default().parse()?;
    let wait = Parameters::wait(query)?;
    let client = ClientKey::new(identity.tenant().map(|tenant| tenant.name()), address);
    let permit = if wait.is_zero() { None } else { state.waits.try_acquire(&client) };
    let wait = permit.as_ref().map_or(Duration::ZERO, |_| wait);
    let deadline = Instant::now() + wait;
    let job_state = match state.context.spool.segments().find(job.segment) {
        Some(segment) => {
            let settled = tokio::select! {
                biased;
                // The usual request needs no timer.
                () = std::future::ready(()), if wait.is_zero() => segment.state(),
                settled = timeout_at(deadline, segment.settled()) => settled.unwrap_or_else(|_| segment.state()),
                // A waiting request must not delay the shutdown.
                () = state.context.shutdown.draining() => segment.state(),
            };
            if !segment.has_job(job.index) {
                return Err(Problem::UnknownJob);
            }
            let key = || segment.key(&state.prefix).to_owned();
            match settled {
                settled if settled.is_dead(job.index) && segment.is_possibly_lost(job.index) => JobState::PossiblyLost,
                settled if settled.is_dead(job.index) => JobState::Dead,
                spool::SegmentState::Spooled => JobState::Spooled { key: key() },
                spool::SegmentState::Stored { .. } => JobState::Stored { key: key() },
                spool::SegmentState::Dead => JobState::Dead,
            }
        }
        None => look_up(&state, job, &client, deadline).await?,
    };
    Ok(job_state.response(&state, job))
}

/// Asks the store until it has the job's object, or until the deadline.
async fn look_up(state: &ApiState, job: JobId, client: &ClientKey, deadline: Instant) -> Result<JobState, Problem> {
    let candidates = CandidateKeys::of(state, job);
    let mut interval = LOOKUP_INTERVAL;
    let mut is_first = true;
    let mut spooled = None;
    loop {
        // Not held between two lookups, so that a client that waits does not keep others from looking up.
        let permit = state.lookups.try_acquire(client);
        let is_last = Instant::now() >= deadline;
        if permit.is_none() && (is_first || is_last) {
            return Err(Problem::StoreBusy);
        }
        if let Some(permit) = permit {
            let found = candidates.find(state, is_first, is_last).await.map_err(|error| unavailable(&error))?;
            if found.is_none() && (is_first || is_last) {
                spooled = find_in_broker(state, job).await?;
            }
            drop(permit);
            match found {
                None => {}
                Some((_, StoredObject { total_jobs: Some(total), .. })) if job.index >= total => {
                    return Err(Problem::UnknownJob);
                }
                Some((_, StoredObject { dead, .. })) if dead.iter().any(|range| range.contains(&job.index)) => {
                    return Ok(JobState::Dead);
                }
                Some((key, StoredObject { unsure, .. })) if unsure.iter().any(|range| range.contains(&job.index)) => {
                    return Ok(JobState::Unknown { key });
                }
                Some((key, _)) => return Ok(JobState::Stored { key }),
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || state.context.shutdown.is_draining() {
            return spooled.map(|key| JobState::Spooled { key }).ok_or(Problem::UnknownJob);
        }
        tokio::select! {
            () = sleep(interval.min(left)) => {}
            () = state.context.shutdown.draining() => {}
        }
        interval = (interval * 2).min(LOOKUP_INTERVAL_MAX);
        is_first = false;
    }
}

/// The key of a job whose segment is in the broker, whichever process accepted it.
async fn find_in_broker(state: &ApiState, job: JobId) -> Result<Option<String>, Problem> {
    let Some(broker) = state.context.spool.broker() else { return Ok(None) };
    let found = broker.find(job.segment).await.map_err(|error| {
        if let Some(suppressed) = LOOKUP_LOG.permit() {
            tracing::warn!(%error, suppressed, "the lookup of a job in the broker failed");
        }
        Problem::StoreUnavailable
    })?;
    let found = found.filter(|(_, tail)| job.index < tail.committed.jobs);
    Ok(found.map(|(name, _)| job.segment.key(&state.prefix, name.compression)))
}

fn unavailable(error: &StoreError) -> Problem {
    if let Some(suppressed) = LOOKUP_LOG.permit() {
        tracing::warn!(%error, suppressed, "the lookup of a job in the store failed");
    }
    Problem::StoreUnavailable
}

/// The keys that a job's object may have: a machine with another `COMPRESSION` may have stored it.
struct CandidateKeys {
    /// Their common prefix.
    stem: String,
    /// The key of this machine's codec is the first.
    keys: Vec<String>,
}

impl CandidateKeys {
    fn of(state: &ApiState, job: JobId) -> Self {
        let own = state.context.spool.compression();
        let others = Compression::ALL.into_iter().filter(|compression| *compression != own);
        let key = |compression| job.segment.key(&state.prefix, compression);
        let keys: Vec<String> = std::iter::once(own).chain(others).map(key).collect();
        let stem = keys.first().and_then(|key| key.strip_suffix(own.extension())).unwrap_or_default().to_owned();
        Self { stem, keys }
    }

    /// The first lookup tries the likeliest key alone, then all keys in one listing. Where the store denies listings, the
    /// other keys are tried in the first and in the last lookup.
    async fn find(
        &self,
        state: &ApiState,
        is_first: bool,
        is_last: bool,
    ) -> Result<Option<(String, StoredObject)>, StoreError> {
        let Some((own, others)) = self.keys.split_first() else { return Ok(None) };
        if is_first && let Some(found) = state.store.find(own).await? {
            return Ok(Some((own.clone(), found)));
        }
        let probe = match (is_first, is_last) {
            (true, _) => others,
            (false, true) => &self.keys,
            (false, false) => std::slice::from_ref(own),
        };
        state.store.find_any(&self.stem, &self.keys, probe).await
    }
}

impl JobState {
    fn response(&self, state: &ApiState, job: JobId) -> Response {
        let (name, key) = match self {
            Self::Spooled { key } => ("spooled", Some(key)),
            Self::Stored { key } => ("stored", Some(key)),
            Self::Unknown { key } => ("unknown", Some(key)),
            Self::Dead | Self::PossiblyLost => ("dead", None),
        };
        json(
            StatusCode::OK,
            &JobBody {
                job,
                state: name,
                object: key.map(|key| state.object_name(key)),
                detail: matches!(self, Self::PossiblyLost).then_some(POSSIBLY_LOST),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;

    use super::*;

    fn wait(query: &str) -> Result<Duration, Problem> {
        let uri: Uri = format!("/v1/jobs/x{query}").parse().unwrap();
        Parameters::wait(Query::try_from_uri(&uri))
    }

    #[test]
    fn a_wait_is_limited_to_a_minute() {
        assert_eq!(wait("?wait=59.5").unwrap(), Duration::from_millis(59_500));
        for long in ["?wait=60", "?wait=60.001", "?wait=3600", "?wait=1e300"] {
            assert_eq!(wait(long).unwrap(), Duration::from_secs(60), "{long}");
        }
        for wrong in ["?wait=-1", "?wait=NaN", "?wait=inf", "?wait=", "?wait=ten"] {
            assert!(wait(wrong).is_err(), "{wrong}");
        }
        assert_eq!(wait("").unwrap(), Duration::ZERO);
    }

    #[test]
    fn unknown_and_repeated_parameters_are_rejected() {
        for none in ["", "?"] {
            assert_eq!(wait(none).unwrap(), Duration::ZERO);
        }
        for bad in ["?wat=1", "?wait=1&x=1", "?x", "?wait=1&wait=2", "?WAIT=1"] {
            assert!(wait(bad).is_err(), "{bad}");
        }
    }
}
