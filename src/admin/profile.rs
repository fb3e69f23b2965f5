//! The routes of the profiler.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::profile::{
    self, CpuSettings, ProfileError, ProfileSlot, RATE_DEFAULT, RATE_MAX, SECONDS_DEFAULT, SECONDS_MAX,
};
use crate::shutdown::Shutdown;

const PPROF: HeaderValue = HeaderValue::from_static("application/octet-stream");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const CPU_FILE: HeaderValue = HeaderValue::from_static("attachment; filename=\"millpond-cpu.pb.gz\"");
const HEAP_FILE: HeaderValue = HeaderValue::from_static("attachment; filename=\"millpond-heap.pb.gz\"");
/// How much of an unknown parameter a response repeats, in characters.
const NAME_MAX: usize = 40;

#[derive(Clone)]
struct Profiling {
    slot: ProfileSlot,
    shutdown: Shutdown,
}

/// `/debug/pprof/profile`, `/debug/pprof/flamegraph` and `/debug/pprof/heap`.
pub(super) fn routes(shutdown: Shutdown) -> Router {
    // Without this, a HEAD request would take a profile and drop it.
    let no_head = || async { StatusCode::METHOD_NOT_ALLOWED };
    Router::new()
        .route("/debug/pprof/profile", get(cpu).head(no_head))
        .route("/debug/pprof/flamegraph", get(flamegraph).head(no_head))
        .route("/debug/pprof/heap", get(heap).head(no_head))
        .with_state(Profiling { slot: ProfileSlot::default(), shutdown })
}

async fn cpu(State(profiling): State<Profiling>, RawQuery(query): RawQuery) -> Result<Response, Rejection> {
    let settings = cpu_settings(query.as_deref().unwrap_or_default())?;
    let permit = profiling.slot.acquire(settings.duration())?;
    let body = profile::record(permit, settings, &profiling.shutdown, profile::encode).await?;
    Ok(file(PPROF, [(CONTENT_DISPOSITION, CPU_FILE)], body))
}

async fn flamegraph(State(profiling): State<Profiling>, RawQuery(query): RawQuery) -> Result<Response, Rejection> {
    let settings = cpu_settings(query.as_deref().unwrap_or_default())?;
    let permit = profiling.slot.acquire(settings.duration())?;
    let body = profile::record(permit, settings, &profiling.shutdown, profile::page).await?;
    let policy = HeaderValue::try_from(profile::content_security_policy());
    let policy = policy.unwrap_or(HeaderValue::from_static("default-src 'none'"));
    Ok(file(HTML, [(CONTENT_SECURITY_POLICY, policy)], body))
}

async fn heap(State(profiling): State<Profiling>, RawQuery(query): RawQuery) -> Result<Response, Rejection> {
    if let Some(name) = parameters(query.as_deref().unwrap_or_default()).next().map(|(name, _)| name) {
        return Err(unknown_parameter(name, "a heap profile has no parameters"));
    }
    let body = profile::heap(&profiling.slot).await?;
    Ok(file(PPROF, [(CONTENT_DISPOSITION, HEAP_FILE)], body))
}

fn file(content_type: HeaderValue, headers: [(HeaderName, HeaderValue); 1], body: Vec<u8>) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    let no_sniff = HeaderValue::from_static("nosniff");
    let common = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, no_store), (X_CONTENT_TYPE_OPTIONS, no_sniff)];
    (common, headers, body).into_response()
}

/// Why a request gets no profile.
enum Rejection {
    Parameter(String),
    Profile(ProfileError),
}

impl From<ProfileError> for Rejection {
    fn from(error: ProfileError) -> Self {
        Self::Profile(error)
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let error = match self {
            Self::Parameter(text) => return (StatusCode::BAD_REQUEST, text + "\n").into_response(),
            Self::Profile(error) => error,
        };
        let text = format!("{error}\n");
        match error {
            ProfileError::Busy { retry_after } => {
                let retry_after = HeaderValue::from(retry_after.as_secs());
                (StatusCode::CONFLICT, [(RETRY_AFTER, retry_after)], text).into_response()
            }
            ProfileError::NoHeapProfiler => (StatusCode::NOT_IMPLEMENTED, text).into_response(),
            ProfileError::Draining => (StatusCode::SERVICE_UNAVAILABLE, text).into_response(),
            ProfileError::TemporaryFile(_) | ProfileError::Failed(_) => {
                tracing::warn!(error = %error_chain(&error), "cannot take a profile");
                (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
            }
        }
    }
}

fn error_chain(error: &ProfileError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The name and value of each parameter.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn unknown_parameter(name: &str, known: &str) -> Rejection {
    let name: String = name.chars().take(NAME_MAX).collect();
    Rejection::Parameter(format!("unknown parameter {name:?}: {known}"))
}

fn cpu_settings(query: &str) -> Result<CpuSettings, Rejection> {
    let (mut seconds, mut rate) = (None, None);
    for (name, value) in parameters(query) {
        let (place, max) = match name {
            "seconds" => (&mut seconds, SECONDS_MAX),
            "hz" => (&mut rate, RATE_MAX),
            _ => return Err(unknown_parameter(name, "a CPU profile has seconds and hz")),
        };
        let number = value.parse().ok().filter(|number| (1..=max).contains(number));
        let number = number.ok_or_else(|| Rejection::Parameter(format!("{name}: expected 1 to {max}")))?;
        if place.replace(number).is_some() {
            return Err(Rejection::Parameter(format!("{name} is given twice")));
        }
    }
    Ok(CpuSettings { seconds: seconds.unwrap_or(SECONDS_DEFAULT), rate: rate.unwrap_or(RATE_DEFAULT) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Result<(u32, u32), String> {
        match cpu_settings(query) {
            Ok(settings) => Ok((settings.seconds, settings.rate)),
            Err(Rejection::Parameter(text)) => Err(text),
            Err(Rejection::Profile(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn the_length_and_the_rate_have_bounds_and_defaults() {
        assert_eq!(parsed(""), Ok((10, 99)));
        assert_eq!(parsed("seconds=1"), Ok((1, 99)));
        assert_eq!(parsed("hz=250&seconds=60"), Ok((60, 250)));
        for wrong in ["0", "61", "9999", "-1", "1.5", "ten", "", "99999999999", "1s", "%31"] {
            assert_eq!(parsed(&format!("seconds={wrong}")), Err("seconds: expected 1 to 60".to_owned()), "{wrong}");
        }
        for wrong in ["0", "251", "x"] {
            assert_eq!(parsed(&format!("hz={wrong}")), Err("hz: expected 1 to 250".to_owned()), "{wrong}");
        }
        assert_eq!(parsed("seconds=1&seconds=2"), Err("seconds is given twice".to_owned()));
        let unknown = parsed(&format!("{}=1", "x".repeat(1000))).unwrap_err();
        assert!(unknown.starts_with("unknown parameter \"xxx") && unknown.len() < 120, "{unknown}");
    }
}
