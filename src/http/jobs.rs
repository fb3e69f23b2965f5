//! `GET /v1/jobs/{job}`: what became of a job, by its receipt.
//!
//! A segment that this process has, or had lately, is answered from memory. Any other is looked for in the store under the
//! key that follows from the receipt, so that every machine of a fleet can answer for every job. That takes one call for a
//! job that a machine of the same settings has stored, and two for any other; while the request waits, it is repeated with
//! growing intervals.
//!
//! Where senders need tokens, so do those who ask. Any tenant may ask after any job: nothing is kept per job, so nobody
//! knows whose it is, and the answer tells nothing of what is in it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, RawQuery, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, sleep, timeout_at};

use super::payloads::JSON;
use super::peer::ClientAddress;
use super::places::Client;
use super::sender::Sender;
use super::{Edge, Problem, query};
use crate::config::ReceiptObject;
use crate::log_throttle::LogThrottle;
use crate::segment::{Compression, JobId};
use crate::spool::State;
use crate::store::{StoreError, StoredObject};
use crate::tenants::{Limit, Tenant};

/// Nobody is kept waiting longer.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// What one is told to wait when the store is asked for too many, in seconds, beyond the first: the most, so that they do
/// not come back together.
const ASK_AGAIN_SECS: u64 = 2;
/// After what time the store is asked again for a segment of another machine while a request waits; doubled each time.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// The longest of these times.
const ASK_INTERVAL_MAX: Duration = Duration::from_secs(8);

/// Every lookup can fail while the store does.
static STORE_SILENT: LogThrottle = LogThrottle::for_clients();

/// What became of a job.
enum Fate {
    Spooled {
        key: String,
    },
    Stored {
        key: String,
    },
    /// The object lacks so many jobs that it does not say of each whether it has it.
    Unknown {
        key: String,
    },
    Dead,
    /// The end of its segment could not be read, so it is not known whether there was such a job.
    PossiblyLost,
}

/// What is said beside `dead` of a job that is possibly lost.
const POSSIBLY_LOST: &str =
    "the end of this job's segment could not be read after a crash: if the job was acknowledged, it is lost";

/// Answers for the job, at once or, with `?wait=SECONDS`, when it is spooled no more.
pub(super) async fn get(
    Shared(edge): Shared<Arc<Edge>>,
    address: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    uri: Uri,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let sender = Sender::in_headers(&headers, edge.tenants.as_ref())?;
    sender.take(Limit::Requests, 1)?;
    // Nothing of the head is kept while the request waits: it is memory that no queue counts.
    drop(headers);
    // As it stands: a receipt has nothing in it that would be escaped.
    let receipt = uri.path().rsplit('/').next().unwrap_or_default();
    let job: JobId = receipt.parse().map_err(Problem::InvalidReceipt)?;
    let asked = wait(query.as_deref())?;
    drop((uri, query));
    let address = address.map(|Extension(ClientAddress(address))| address);
    let client = Client::new(sender.tenant().map(Tenant::name), address);
    let place = if asked.is_zero() { None } else { edge.waits.begin(&client) };
    let wait = place.as_ref().map_or(Duration::ZERO, |_| asked);
    let until = Instant::now() + wait;
    let fate = match edge.context.spool.segments().find(job.segment) {
        Some(segment) => {
            let state = tokio::select! {
                biased;
                // The usual question costs neither a timer nor a place among those who wait.
                () = std::future::ready(()), if wait.is_zero() => segment.state(),
                settled = timeout_at(until, segment.settled()) => settled.unwrap_or_else(|_| segment.state()),
                // Nobody is to hold up a stop by waiting.
                () = edge.context.shutdown.draining() => segment.state(),
            };
            if !segment.has_job(job.index) {
                return Err(Problem::UnknownJob);
            }
            let key = || segment.key(&edge.prefix).to_owned();
            match state {
                state if state.is_dead(job.index) && segment.is_possibly_lost(job.index) => Fate::PossiblyLost,
                state if state.is_dead(job.index) => Fate::Dead,
                State::Spooled => Fate::Spooled { key: key() },
                State::Stored { .. } => Fate::Stored { key: key() },
                State::Dead => Fate::Dead,
            }
        }
        None => in_store(&edge, job, &client, until).await?,
    };
    Ok(fate.answer(&edge, job))
}

/// Asks the store, until it has the job's object or the time is over.
async fn in_store(edge: &Edge, job: JobId, client: &Client, until: Instant) -> Result<Fate, Problem> {
    let names = Names::of(edge, job);
    let mut interval = ASK_INTERVAL;
    let mut is_first = true;
    loop {
        // Not held between two questions: a client that waits keeps no other from asking.
        let lookup = edge.lookups.begin(client);
        let is_last = Instant::now() >= until;
        if lookup.is_none() && (is_first || is_last) {
            return Err(Problem::StoreBusy { retry_after: 1 + fastrand::u64(0..=ASK_AGAIN_SECS) });
        }
        if let Some(lookup) = lookup {
            let found = names.find(edge, is_first, is_last).await.map_err(|error| silent(edge, &error))?;
            drop(lookup);
            match found {
                None => {}
                Some((_, StoredObject { total_jobs: Some(total), .. })) if job.index >= total => {
                    return Err(Problem::UnknownJob);
                }
                Some((_, StoredObject { dead, .. })) if dead.iter().any(|places| places.contains(&job.index)) => {
                    return Ok(Fate::Dead);
                }
                Some((key, StoredObject { unsure, .. })) if unsure.iter().any(|places| places.contains(&job.index)) => {
                    return Ok(Fate::Unknown { key });
                }
                Some((key, _)) => return Ok(Fate::Stored { key }),
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || edge.context.shutdown.is_draining() {
            return Err(Problem::UnknownJob);
        }
        tokio::select! {
            () = sleep(interval.min(left)) => {}
            () = edge.context.shutdown.draining() => {}
        }
        interval = (interval * 2).min(ASK_INTERVAL_MAX);
        is_first = false;
    }
}

fn silent(edge: &Edge, error: &StoreError) -> Problem {
    if let Some(suppressed) = STORE_SILENT.permit() {
        tracing::warn!(%error, suppressed, "a job cannot be looked up in the store");
    }
    Problem::StoreSilent { retry_after: edge.retry_after() }
}

/// The keys that a job's object may have: a machine with another `COMPRESSION` may have stored it.
struct Names {
    /// What all of them begin with.
    stem: String,
    /// That of this machine's codec first.
    keys: Vec<String>,
}

impl Names {
    fn of(edge: &Edge, job: JobId) -> Self {
        let own = edge.context.spool.compression();
        let others = Compression::ALL.into_iter().filter(|compression| *compression != own);
        let key = |compression| job.segment.key(&edge.prefix, compression);
        let keys: Vec<String> = std::iter::once(own).chain(others).map(key).collect();
        let stem = keys.first().and_then(|key| key.strip_suffix(own.extension())).unwrap_or_default().to_owned();
        Self { stem, keys }
    }

    /// Asks for the likeliest key alone first; if it is not there, and from then on, for all of them at once. Where the store
    /// cannot be listed the others are asked for at the first and at the last time.
    async fn find(
        &self,
        edge: &Edge,
        is_first: bool,
        is_last: bool,
    ) -> Result<Option<(String, StoredObject)>, StoreError> {
        let Some((own, others)) = self.keys.split_first() else { return Ok(None) };
        if is_first && let Some(found) = edge.store.find(own).await? {
            return Ok(Some((own.clone(), found)));
        }
        let probe = match (is_first, is_last) {
            (true, _) => others,
            (false, true) => &self.keys,
            (false, false) => std::slice::from_ref(own),
        };
        edge.store.find_any(&self.stem, &self.keys, probe).await
    }
}

impl Fate {
    fn answer(&self, edge: &Edge, job: JobId) -> Response {
        let (state, key) = match self {
            Self::Spooled { key } => ("spooled", Some(key)),
            Self::Stored { key } => ("stored", Some(key)),
            Self::Unknown { key } => ("unknown", Some(key)),
            Self::Dead | Self::PossiblyLost => ("dead", None),
        };
        let mut body = format!("{{\"job\":\"{job}\",\"state\":\"{state}\"");
        if let Some(key) = key {
            body.push_str(",\"object\":");
            push_object(&mut body, edge, key);
        }
        if matches!(self, Self::PossiblyLost) {
            body.push_str(",\"detail\":\"");
            body.push_str(POSSIBLY_LOST);
            body.push('"');
        }
        body.push_str("}\n");
        (StatusCode::OK, [(CONTENT_TYPE, JSON)], Body::from(body)).into_response()
    }
}

/// Appends what an object is or will be called, as a JSON string.
pub(super) fn push_object(body: &mut String, edge: &Edge, key: &str) {
    // Where the store is, is told to known senders alone, and to them only if the operator wants it.
    let (location, slash) = match edge.settings.receipt_object {
        ReceiptObject::Key => ("", ""),
        ReceiptObject::Location => (edge.store.location(), "/"),
    };
    let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    if is_plain(location) && is_plain(key) {
        // As nearly all are: there is nothing to escape.
        ["\"", location, slash, key, "\""].iter().for_each(|part| body.push_str(part));
    } else {
        body.push_str(&serde_json::Value::from(format!("{location}{slash}{key}")).to_string());
    }
}

/// Seconds to wait, from the query; none if it does not say.
fn wait(query: Option<&str>) -> Result<Duration, Problem> {
    let Some(seconds) = query::parameter(query, "wait", "10")? else { return Ok(Duration::ZERO) };
    let seconds = seconds.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let seconds = seconds.ok_or_else(|| Problem::InvalidQuery("wait is a number of seconds, such as 10".to_owned()))?;
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(WAIT_MAX).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_cut_off_at_a_minute_however_long_one_is_asked_for() {
        let asked = |query| wait(Some(query)).unwrap();
        assert_eq!(asked("wait=59.5"), Duration::from_millis(59_500));
        for long in ["wait=60", "wait=60.001", "wait=3600", "wait=1e300"] {
            assert_eq!(asked(long), Duration::from_secs(60), "{long}");
        }
        for wrong in ["wait=-1", "wait=NaN", "wait=inf", "wait=", "wait=ten"] {
            assert!(wait(Some(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(wait(None).unwrap(), Duration::ZERO);
    }
}
