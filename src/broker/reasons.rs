//! Why the broker cannot be used, and what an operator can do about it.

use std::time::{Duration, Instant};

use async_nats::Server;
use parking_lot::Mutex;

use crate::config::server_name;
use crate::log_throttle::LogThrottle;

/// A missing permission is reported for this long after the last operation that needed it.
const VIOLATION_SHOWN: Duration = Duration::from_secs(300);
/// Servers of which the errors are reported.
const ERRORS_MAX: usize = 8;
/// What a part of an error, in lower case, says to do.
const ADVICE: [(&[&str], &str); 5] = [
    (&["permissions violation"], "the user of the broker lacks a permission; docs/fleet.md#security lists them"),
    (&["authorization"], "check BROKER_CREDENTIALS, or the user and password in BROKER_URL"),
    (&["certificate", "tls error"], "check BROKER_CA, and that the certificate has the name in BROKER_URL"),
    (&["corrupt message"], "the server does not speak TLS: configure it there, or use nats:// in BROKER_URL"),
    (
        &["requested jetstream resource", "jetstream not enabled"],
        "start the servers with JetStream (nats-server --jetstream)",
    ),
];

static LOG: LogThrottle = LogThrottle::new(Duration::from_secs(10));

/// The last errors.
#[derive(Debug)]
pub(super) struct Reasons {
    servers: String,
    last: Mutex<String>,
    /// The last permission that was missing on this connection, and when.
    violation: Mutex<Option<(Instant, String)>>,
}

impl Reasons {
    /// For these servers.
    pub(super) fn new(servers: String) -> Self {
        Self { servers, last: Mutex::new("not connected yet".to_owned()), violation: Mutex::default() }
    }

    /// Why the broker cannot be used, and of which servers.
    pub(super) fn text(&self) -> String {
        let reason = self.violation().unwrap_or_else(|| self.last.lock().clone());
        format!("{reason} (servers: {})", self.servers)
    }

    /// A permission that the user lacks. That of a subscription is reported once, and lacks as long as the connection lasts.
    pub(super) fn violation(&self) -> Option<String> {
        let violation = self.violation.lock();
        let is_shown = |at: &Instant, text: &str| is_of_subscription(text) || at.elapsed() < VIOLATION_SHOWN;
        violation.as_ref().filter(|(at, text)| is_shown(at, text)).map(|(_, text)| text.clone())
    }

    /// Records an error that the caller logs.
    pub(super) fn set(&self, error: &str) {
        *self.last.lock() = with_advice(error);
    }

    pub(super) fn disconnected(&self) {
        *self.violation.lock() = None;
        self.set("not connected");
    }

    /// Records and logs an error of a server.
    pub(super) fn failed(&self, error: &str) {
        let error = with_advice(error);
        if error.contains("Permissions Violation") {
            let mut violation = self.violation.lock();
            if !violation.as_ref().is_some_and(|(_, text)| is_of_subscription(text)) {
                *violation = Some((Instant::now(), error.clone()));
            }
        }
        let mut last = self.last.lock();
        if *last != error
            && let Some(suppressed) = LOG.permit()
        {
            tracing::warn!(error, suppressed, "the broker reports an error");
        }
        *last = error;
    }

    /// Records the errors of the last attempts to connect. The event of a failed attempt lacks its cause.
    pub(super) fn attempts_failed(&self, servers: &[Server]) {
        let failed = servers.iter().filter_map(|server| Some((&server.addr, server.last_error.as_ref()?)));
        let named = failed.take(ERRORS_MAX).map(|(addr, error)| {
            if servers.len() > 1 { format!("{}: {error}", server_name(addr)) } else { error.clone() }
        });
        let errors: Vec<_> = named.collect();
        if !errors.is_empty() {
            self.failed(&errors.join("; "));
        }
    }
}

fn is_of_subscription(violation: &str) -> bool {
    violation.contains("Subscription")
}

/// The error, with what to do about it if that is known.
pub(super) fn with_advice(error: &str) -> String {
    let text = error.to_ascii_lowercase();
    let advice = ADVICE.iter().find(|(parts, _)| parts.iter().any(|part| text.contains(part)));
    advice.map_or_else(|| error.to_owned(), |(_, advice)| format!("{error}: {advice}"))
}
