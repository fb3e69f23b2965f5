//! The connection to the servers of the broker, and whether appends can succeed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::reasons::Reasons;
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
/// How often the streams are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Appends are rejected when the stream has this share of its bytes, so that segments can still be ended.
const FULL_PERCENT: u64 = 95;

static STREAMS_LOG: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// What is known of the connection.
#[derive(Debug)]
pub(super) struct Connection {
    is_connected: AtomicBool,
    /// Whether the streams exist with the right settings.
    are_streams_ready: AtomicBool,
    became_ready: Notify,
    reasons: Reasons,
    max_bytes: u64,
    bytes: AtomicU64,
    waiting: AtomicU64,
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
    /// Sealed segments that are not stored.
    pub waiting: u64,
}

impl Connection {
    pub(super) fn new(settings: &BrokerSettings) -> Self {
        Self {
            is_connected: AtomicBool::new(false),
            are_streams_ready: AtomicBool::new(false),
            became_ready: Notify::new(),
            reasons: Reasons::new(settings.servers.names()),
            max_bytes: settings.max_bytes,
            bytes: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }
    }

    /// Whether an append can succeed.
    pub(super) fn is_ready(&self) -> bool {
        self.is_connected.load(Ordering::Acquire) && self.are_streams_ready.load(Ordering::Acquire)
    }

    /// Waits until [`is_ready`](Self::is_ready) changes to true.
    pub(super) async fn became_ready(&self) {
        self.became_ready.notified().await;
    }

    /// Why it is not ready.
    pub(super) fn reason(&self) -> String {
        self.reasons.text()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) / FULL_PERCENT >= self.max_bytes / 100
    }

    pub(super) fn state(&self) -> BrokerState {
        let is_ready = self.is_ready();
        let is_full = is_ready && self.is_full();
        let failing = match is_ready {
            true => is_full.then(|| BrokerError::Full.to_string()),
            false => Some(BrokerError::Unavailable(self.reason()).to_string()),
        };
        let is_connected = self.is_connected.load(Ordering::Acquire);
        let [bytes, waiting] = [&self.bytes, &self.waiting].map(|number| number.load(Ordering::Relaxed));
        BrokerState { failing, is_full, is_connected, violation: self.reasons.violation(), bytes, waiting }
    }

    fn set(&self, flag: &AtomicBool, value: bool) {
        let was_ready = self.is_ready();
        flag.store(value, Ordering::Release);
        if !was_ready && self.is_ready() {
            self.became_ready.notify_waiters();
        }
    }

    fn record(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.set(&self.is_connected, true);
                tracing::info!("connected to the broker");
            }
            Event::Disconnected | Event::Closed => {
                self.set(&self.is_connected, false);
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
    let mut options = ConnectOptions::new()
        .name("millpond")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .custom_inbox_prefix(format!("_INBOX_{}", settings.stream))
        .reconnect_delay_callback(|attempts| {
            let limit =
                RECONNECT_DELAY_MAX.min(Duration::from_millis(50) * u32::try_from(attempts).unwrap_or(u32::MAX));
            limit.mul_f64(fastrand::f64())
        });
    if let Some((user, password)) = settings.servers.login() {
        options = options.user_and_password(user, password);
    }
    if let Some(path) = &settings.credentials {
        options = options.credentials_file(path).await?;
    }
    if let Some(path) = &settings.ca {
        options = options.add_root_certificates(path.clone());
    }
    let recorder = Arc::clone(connection);
    options = options.reconnect_to_server_callback(move |servers, _| {
        recorder.reasons.attempts_failed(&servers);
        // The client chooses the server.
        std::future::ready(None)
    });
    let recorder = Arc::clone(connection);
    options = options.event_callback(move |event| {
        recorder.record(&event);
        std::future::ready(())
    });
    options.connect(settings.servers.addresses()).await.map_err(io::Error::other)
}

impl Broker {
    /// The largest message that the server takes, headers included.
    pub(super) fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    /// Waits for the connection. Returns whether there is one.
    pub(super) async fn is_connected_in_time(&self) -> bool {
        let connected = async {
            while !self.connection.is_connected.load(Ordering::Acquire) {
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
            Ok(()) => self.connection.set(&self.connection.are_streams_ready, true),
            Err(StreamsError::Unavailable(reason)) => self.connection.reasons.set(&reason),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Creates or checks the streams when they can be reached, and watches how full they are.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            if self.connection.is_connected.load(Ordering::Acquire) {
                self.check().await;
            }
            sleep(CHECK_INTERVAL).await;
        }
    }

    async fn check(&self) {
        if !self.connection.are_streams_ready.load(Ordering::Acquire) {
            match self.prepare_streams().await {
                Ok(()) => self.connection.set(&self.connection.are_streams_ready, true),
                Err(error) => {
                    if let Some(suppressed) = STREAMS_LOG.permit() {
                        tracing::error!(%error, suppressed, "the streams of the broker cannot be used; batches are rejected");
                    }
                    self.connection.reasons.set(&error.to_string());
                    return;
                }
            }
        }
        match self.usage().await {
            Ok((bytes, waiting)) => {
                self.connection.bytes.store(bytes, Ordering::Relaxed);
                self.connection.waiting.store(waiting, Ordering::Relaxed);
            }
            Err(StreamsError::Missing(_)) => self.connection.set(&self.connection.are_streams_ready, false),
            // An append that succeeds proves more than a check that fails.
            Err(error) => tracing::debug!(%error, "cannot read the state of the broker's streams"),
        }
    }
}
