//! The connection to the servers of the broker, and whether appends can succeed.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::files::authenticate;
use super::reasons::Reasons;
use super::streams::Usage;
use super::subjects::Subjects;
use super::{Broker, BrokerError, StreamsError};
use crate::config::BrokerSettings;
use crate::log_throttle::LogThrottle;

/// How long a connection to one server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that does not respond to two pings in a row is left.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// The longest delay before the next server is tried. Each delay is a random part of it, so that the processes of a fleet do
/// not come back at the same moment.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
/// How long a start waits for the connection.
const START_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_POLL: Duration = Duration::from_millis(10);
/// How often the streams are checked while they cannot be used or are nearly full.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often they are checked otherwise.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// A fleet may add so many bytes between two checks.
const BURST_BYTES: u64 = 1 << 30;
/// Appends are rejected when the stream has this share of its bytes, so that segments can still be ended.
const FULL_PERCENT: u64 = 95;

static STREAMS_LOG: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// What is known of the connection.
#[derive(Debug)]
pub(super) struct Connection {
    client: OnceLock<Client>,
    /// Whether the streams exist with the right settings.
    are_streams_ready: AtomicBool,
    /// Whether they were once, so that this process has set the limit.
    has_prepared: AtomicBool,
    events: Arc<Events>,
    /// The limit of the stream, or the setting before it is known.
    max_bytes: AtomicU64,
    bytes: AtomicU64,
    waiting: AtomicU64,
}

/// The room for batches in the stream of segments, in bytes, as it was known at the last check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) used: u64,
    pub(crate) max: u64,
}

/// What the client reports. It drops events when they are not read in time, so only log lines, the text of an error and the
/// length of a pause depend on them.
#[derive(Debug)]
struct Events {
    reasons: Reasons,
    became_ready: Notify,
}

/// The state of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerState {
    /// Why appends fail; none if they can succeed.
    pub failing: Option<String>,
    /// Whether that is because the stream is full.
    pub is_full: bool,
    /// Whether there is a connection to a server.
    pub is_connected: bool,
    /// A permission that the user lacks, although there is a connection.
    pub violation: Option<String>,
    /// Bytes in the stream of segments.
    pub bytes: u64,
    /// The limit of that stream.
    pub max_bytes: u64,
    /// Sealed segments that are not stored.
    pub waiting: u64,
}

impl Connection {
    pub(super) fn new(servers: String, max_bytes: u64) -> Self {
        Self {
            client: OnceLock::new(),
            are_streams_ready: AtomicBool::new(false),
            has_prepared: AtomicBool::new(false),
            events: Arc::new(Events { reasons: Reasons::new(servers), became_ready: Notify::new() }),
            max_bytes: AtomicU64::new(max_bytes),
            bytes: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }
    }

    fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn has_prepared(&self) -> bool {
        self.has_prepared.load(Ordering::Relaxed)
    }

    pub(super) fn set_prepared(&self) {
        self.has_prepared.store(true, Ordering::Relaxed);
    }

    fn is_connected(&self) -> bool {
        self.client.get().is_some_and(|client| client.connection_state() == State::Connected)
    }

    /// Whether an append can succeed.
    pub(super) fn is_ready(&self) -> bool {
        self.is_connected() && self.are_streams_ready.load(Ordering::Acquire)
    }

    /// Waits until [`is_ready`](Self::is_ready) may have changed to true. It can miss that, so the caller needs a timeout.
    pub(super) async fn became_ready(&self) {
        self.events.became_ready.notified().await;
    }

    /// Why it is not ready.
    pub(super) fn reason(&self) -> String {
        self.events.reasons.text()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) / FULL_PERCENT >= self.max_bytes() / 100
    }

    pub(super) fn room(&self) -> Room {
        Room { used: self.bytes.load(Ordering::Relaxed), max: self.max_bytes() / 100 * FULL_PERCENT }
    }

    pub(super) fn state(&self) -> BrokerState {
        let is_ready = self.is_ready();
        let is_full = is_ready && self.is_full();
        let failing = match is_ready {
            true => is_full.then(|| BrokerError::Full.to_string()),
            false => Some(BrokerError::Unavailable(self.reason()).to_string()),
        };
        let [bytes, max_bytes, waiting] =
            [&self.bytes, &self.max_bytes, &self.waiting].map(|number| number.load(Ordering::Relaxed));
        let (is_connected, violation) = (self.is_connected(), self.events.reasons.violation());
        BrokerState { failing, is_full, is_connected, violation, bytes, max_bytes, waiting }
    }

    fn set_streams_ready(&self, are_ready: bool) {
        self.are_streams_ready.store(are_ready, Ordering::Release);
        if are_ready {
            self.events.became_ready.notify_waiters();
        }
    }

    /// Appends are rejected until the streams can be used again.
    fn streams_failed(&self, error: &StreamsError) {
        self.set_streams_ready(false);
        if let Some(suppressed) = STREAMS_LOG.permit() {
            tracing::error!(%error, suppressed, "the streams of the broker cannot be used; batches are rejected");
        }
        self.events.reasons.set(&error.to_string());
    }

    /// How long the stream of segments can be left unchecked.
    fn check_interval(&self) -> Duration {
        let is_far_from_full = self.bytes.load(Ordering::Relaxed) + BURST_BYTES < self.max_bytes() / 100 * FULL_PERCENT;
        if is_far_from_full { CHECK_INTERVAL_MAX } else { CHECK_INTERVAL }
    }
}

impl Events {
    fn record(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.became_ready.notify_waiters();
                tracing::info!("connected to the broker");
            }
            Event::Disconnected | Event::Closed => {
                self.reasons.disconnected();
                tracing::warn!("the connection to the broker is lost; reconnecting");
            }
            Event::ServerError(error) => self.reasons.failed(&error.to_string()),
            Event::LameDuckMode => tracing::info!("a server of the broker is shutting down"),
            Event::SlowConsumer(_) => {
                tracing::warn!("messages of the broker were dropped: this process reads too slowly")
            }
            // `Reasons::attempts_failed` has the cause of an error of the client.
            Event::ClientError(_) | Event::Draining => {}
        }
    }
}

/// Begins to connect.
pub(super) async fn open(settings: &BrokerSettings, connection: &Arc<Connection>) -> io::Result<Client> {
    let options = match (settings.credentials.clone(), settings.servers.login()) {
        (Some(path), _) => ConnectOptions::with_auth_callback(move |nonce| authenticate(path.clone(), nonce)),
        (None, Some((user, password))) => ConnectOptions::with_user_and_password(user, password),
        (None, None) => ConnectOptions::new(),
    };
    let mut options = options
        .name("millpond")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .custom_inbox_prefix(Subjects::reply_prefix(&settings.stream))
        .reconnect_delay_callback(|attempts| {
            let limit =
                RECONNECT_DELAY_MAX.min(Duration::from_millis(50) * u32::try_from(attempts).unwrap_or(u32::MAX));
            limit.mul_f64(fastrand::f64())
        });
    if let Some(path) = &settings.ca {
        options = options.add_root_certificates(path.clone());
    }
    let addresses = settings.servers.addresses();
    // Servers that the client learns of from other servers have no scheme.
    let is_tls = settings.ca.is_some() || addresses.iter().any(|server| server.tls_required());
    let events = Arc::clone(&connection.events);
    options = options.require_tls(is_tls).reconnect_to_server_callback(move |servers, _| {
        events.reasons.attempts_failed(&servers);
        // The client chooses the server.
        std::future::ready(None)
    });
    let events = Arc::clone(&connection.events);
    let options = options.event_callback(move |event| {
        events.record(&event);
        std::future::ready(())
    });
    let client = options.connect(addresses).await.map_err(io::Error::other)?;
    Ok(connection.client.get_or_init(|| client).clone())
}

impl Broker {
    /// The largest message that the server takes, headers included.
    pub(super) fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    /// Whether the server has said its version and its limits, which the client knows a moment after it is connected.
    pub(super) fn knows_server(&self) -> bool {
        !self.client.server_info().version.is_empty()
    }

    /// Waits for the connection. Returns whether there is one.
    pub(super) async fn is_connected_in_time(&self) -> bool {
        let connected = async {
            while !self.connection.is_connected() || !self.knows_server() {
                sleep(CONNECT_POLL).await;
            }
        };
        timeout(START_TIMEOUT, connected).await.is_ok()
    }

    /// Checks the streams once, if the broker can be reached in a short time.
    ///
    /// # Errors
    /// Their settings are wrong, and an operator has to change something.
    pub async fn check_at_start(&self) -> Result<(), StreamsError> {
        if !self.is_connected_in_time().await {
            let (servers, reason) = (self.settings.servers.names(), self.connection.reason());
            tracing::warn!(servers, reason, "the broker cannot be reached yet; batches are rejected until it can");
            return Ok(());
        }
        match self.prepare_streams().await {
            Ok(()) => self.connection.set_streams_ready(true),
            Err(StreamsError::Unavailable(reason)) => self.connection.events.reasons.set(&reason),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Creates or checks the streams when they can be reached, and watches how full they are.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut checked: Option<Instant> = None;
        loop {
            let is_due = checked.is_none_or(|checked| checked.elapsed() >= self.connection.check_interval());
            let is_failing = !self.connection.are_streams_ready.load(Ordering::Acquire);
            if self.connection.is_connected() && (is_due || is_failing) {
                self.check().await;
                checked = Some(Instant::now());
            }
            // The processes of a fleet do not ask at the same moment.
            sleep(CHECK_INTERVAL.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        }
    }

    async fn check(&self) {
        if !self.connection.are_streams_ready.load(Ordering::Acquire) {
            match self.prepare_streams().await {
                Ok(()) => self.connection.set_streams_ready(true),
                Err(error) => return self.connection.streams_failed(&error),
            }
        }
        match self.usage().await {
            Ok(Usage { bytes, max_bytes, waiting }) => {
                self.connection.bytes.store(bytes, Ordering::Relaxed);
                self.connection.max_bytes.store(max_bytes, Ordering::Relaxed);
                self.connection.waiting.store(waiting, Ordering::Relaxed);
            }
            // An append that succeeds proves more than a check that fails.
            Err(StreamsError::Unavailable(error)) => {
                tracing::debug!(error, "cannot read the state of the broker's streams");
            }
            Err(error) => self.connection.streams_failed(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_are_checked_seldom_only_if_the_limit_is_far() {
        let interval = |max_bytes, bytes| {
            let connection = Connection::new(String::new(), max_bytes);
            connection.bytes.store(bytes, Ordering::Relaxed);
            connection.check_interval()
        };
        assert_eq!(interval(16 << 30, 0), CHECK_INTERVAL_MAX);
        assert_eq!(interval(16 << 30, 13 << 30), CHECK_INTERVAL_MAX);
        assert_eq!(interval(16 << 30, 15 << 30), CHECK_INTERVAL);
        assert_eq!(interval(1 << 30, 0), CHECK_INTERVAL, "one burst can fill it");
    }
}
