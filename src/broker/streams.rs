//! The streams: created if they do not exist, and rejected if their settings break a promise.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, ConsumerError, ConsumerErrorKind, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType,
};

use super::{Broker, describe};

/// The shortest window in which the broker recognizes a repeated message: longer than any append is tried.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// The most bytes of the work queue: 250 bytes for a segment.
const WORK_MAX_BYTES: i64 = 1 << 30;
/// The first version of nats-server, major and minor, that corrects at its start a consumer that is ahead of its stream.
const SERVER_VERSION_MIN: (i64, i64) = (2, 14);
/// The smallest `max_payload` of a server. With a smaller one, each frame would be many messages, each with its own commit.
const MAX_PAYLOAD_MIN: usize = 4 << 10;
/// The consumer of all workers.
pub(super) const WORKERS: &str = "workers";
/// A segment that its worker does not report on goes to another worker after this time.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(30);
/// Segments that all workers together may hold.
const HELD_MAX: i64 = 65_536;
/// Workers that can wait for a segment at the same time.
const WAITING_MAX: i64 = 65_536;

/// How full the streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// Of all segments.
    pub(super) bytes: u64,
    /// The limit of the stream of segments, which may be that of another process.
    pub(super) max_bytes: u64,
    /// Segments that wait for a worker or are with one.
    pub(super) waiting: u64,
}

/// Why the streams cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamsError {
    /// A stream exists with other settings.
    #[error(
        "the stream {stream} of the broker has settings that lose batches: {problems}; correct them, or set BROKER_STREAM to another name"
    )]
    Unsafe {
        /// Its name.
        stream: String,
        /// What to change.
        problems: String,
    },
    /// The broker rejected the stream.
    #[error("the broker cannot create the stream {stream}: {reason}")]
    Rejected {
        /// Its name.
        stream: String,
        /// Why, and what to change.
        reason: String,
    },
    /// The server is too old.
    #[error("the broker runs nats-server {found}, which can lose track of segments after a power cut; install {}.{} or later", SERVER_VERSION_MIN.0, SERVER_VERSION_MIN.1)]
    Version {
        /// Its version.
        found: String,
    },
    /// The server takes only small messages.
    #[error(
        "a server of the broker takes messages of at most {found} bytes; set max_payload in its configuration to at least {MAX_PAYLOAD_MIN} (its default is 1MB)"
    )]
    MaxPayload {
        /// Its `max_payload`, in bytes.
        found: usize,
    },
    /// A stream does not exist any more.
    #[error("the stream {0} of the broker does not exist")]
    Missing(String),
    /// The broker does not respond, or not all of its servers do.
    #[error("the broker is not available: {0}")]
    Unavailable(String),
}

impl Broker {
    /// The settings of the stream of segments.
    pub(super) fn segments_config(&self) -> Config {
        Config {
            name: self.settings.stream.clone(),
            description: Some("Segments that millpond has not stored yet. Do not change.".to_owned()),
            subjects: vec![self.subjects.segments()],
            max_bytes: i64::try_from(self.settings.max_bytes).unwrap_or(i64::MAX),
            allow_direct: true,
            allow_message_ttl: true,
            ..self.config()
        }
    }

    /// The settings of the work queue.
    pub(super) fn work_config(&self) -> Config {
        Config {
            name: self.subjects.work_stream(),
            description: Some("Sealed segments that wait for a worker of millpond. Do not change.".to_owned()),
            subjects: vec![self.subjects.works()],
            retention: RetentionPolicy::WorkQueue,
            max_bytes: WORK_MAX_BYTES,
            max_messages_per_subject: 1,
            discard_new_per_subject: true,
            ..self.config()
        }
    }

    fn config(&self) -> Config {
        Config {
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::New,
            num_replicas: self.settings.replicas,
            duplicate_window: DUPLICATE_WINDOW,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            ..Config::default()
        }
    }

    /// Creates the streams and the consumer of the workers, or checks them. The first time, the stream of segments gets the limit of
    /// the settings.
    pub(super) async fn prepare_streams(&self) -> Result<(), StreamsError> {
        self.check_server()?;
        let is_start = !self.connection.has_prepared();
        for config in [self.segments_config(), self.work_config()] {
            self.prepare(config, is_start).await?;
        }
        self.connection.set_prepared();
        self.create_workers().await.map(drop).map_err(|error| match error.kind() {
            ConsumerErrorKind::JetStream(ref cause) if !is_temporary(cause.error_code()) => {
                let advice = format!("delete its consumer {WORKERS}, which is created again");
                StreamsError::Rejected {
                    stream: self.subjects.work_stream(),
                    reason: format!("{}; {advice}", describe(&error)),
                }
            }
            _ => StreamsError::Unavailable(describe(&error)),
        })
    }

    /// Checks the version and the limit of the server that this process is connected to.
    pub(super) fn check_server(&self) -> Result<(), StreamsError> {
        if !self.knows_server() {
            return Err(StreamsError::Unavailable("the server has not said its version yet".to_owned()));
        }
        let (major, minor) = SERVER_VERSION_MIN;
        if !self.client.is_server_compatible(major, minor, 0) {
            return Err(StreamsError::Version { found: self.client.server_info().version });
        }
        self.check_max_payload()
    }

    fn check_max_payload(&self) -> Result<(), StreamsError> {
        match self.max_payload() {
            // 0 is not known yet.
            found @ 1..MAX_PAYLOAD_MIN => Err(StreamsError::MaxPayload { found }),
            _ => Ok(()),
        }
    }

    /// The consumer of all workers. It is created if it does not exist, or any more.
    pub(super) async fn workers(&self) -> Result<PullConsumer, ConsumerError> {
        match self.jetstream.get_consumer_from_stream(WORKERS, self.subjects.work_stream()).await {
            Err(error) if matches!(error.kind(), ConsumerErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::CONSUMER_NOT_FOUND) => {
                self.create_workers().await
            }
            found => found,
        }
    }

    async fn create_workers(&self) -> Result<PullConsumer, ConsumerError> {
        let config = pull::Config {
            durable_name: Some(WORKERS.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: HELD_MAX,
            max_waiting: WAITING_MAX,
            ..pull::Config::default()
        };
        self.jetstream.create_consumer_on_stream(config, self.subjects.work_stream()).await
    }

    async fn prepare(&self, wanted: Config, is_start: bool) -> Result<(), StreamsError> {
        let name = wanted.name.clone();
        let Some(Info { config: found, .. }) = self.find_stream(&wanted).await? else {
            let created = self.jetstream.create_stream(wanted).await;
            return created.map(drop).map_err(|error| self.rejected(name, &error));
        };
        // The limit is the setting that an operator may change, with a start.
        if is_start && found.max_bytes != wanted.max_bytes {
            tracing::warn!(
                stream = name,
                before = found.max_bytes,
                after = wanted.max_bytes,
                "the limit of the stream is changed; all processes of a fleet need the same BROKER_MAX_BYTES"
            );
            let changed = Config { max_bytes: wanted.max_bytes, ..found };
            let updated = self.jetstream.update_stream(changed).await;
            updated.map_err(|error| self.rejected(name, &error))?;
        }
        Ok(())
    }

    /// What the broker says of a stream with the right settings; none if it does not exist.
    pub(super) async fn find_stream(&self, wanted: &Config) -> Result<Option<Info>, StreamsError> {
        let Some(found) = self.stream_info(&wanted.name).await? else { return Ok(None) };
        let problems = problems(wanted, &found.config);
        if problems.is_empty() {
            return Ok(Some(found));
        }
        Err(StreamsError::Unsafe { stream: wanted.name.clone(), problems: problems.join(", ") })
    }

    /// What the broker says of a stream; none if it does not exist.
    async fn stream_info(&self, name: &str) -> Result<Option<Info>, StreamsError> {
        match self.jetstream.get_stream(name).await {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(missing) if missing.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Ok(None)
                }
                _ => Err(StreamsError::Unavailable(describe(&error))),
            },
        }
    }

    pub(super) fn rejected(
        &self,
        stream: String,
        error: &async_nats::jetstream::context::CreateStreamError,
    ) -> StreamsError {
        let text = describe(error);
        if matches!(error.kind(), CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::Response) {
            return StreamsError::Unavailable(text);
        }
        let advice = if text.contains("replicas") || text.contains("peers") {
            format!("; start {} servers as a cluster, or lower BROKER_REPLICAS", self.settings.replicas)
        } else if text.contains("insufficient") || text.contains("resources") {
            "; give the servers more storage for JetStream, or lower BROKER_MAX_BYTES".to_owned()
        } else if text.contains("overlap") {
            "; set BROKER_STREAM to another name".to_owned()
        } else {
            String::new()
        };
        let reason = format!("{text}{advice}");
        match error.kind() {
            CreateStreamErrorKind::JetStream(cause) if is_temporary(cause.error_code()) => {
                StreamsError::Unavailable(reason)
            }
            _ => StreamsError::Rejected { stream, reason },
        }
    }

    /// Reads how full the streams are. Fails if their settings have been changed so that batches can be lost, or if the server to
    /// which this process has reconnected takes only small messages.
    pub(super) async fn usage(&self) -> Result<Usage, StreamsError> {
        self.check_max_payload()?;
        let [segments, work] = [self.segments_config(), self.work_config()];
        let (segments, work) = (self.existing_stream(&segments).await?, self.existing_stream(&work).await?);
        // Without a limit of the stream, the setting is in force.
        let max_bytes = u64::try_from(segments.config.max_bytes).ok().filter(|max| *max > 0);
        Ok(Usage {
            bytes: segments.state.bytes,
            max_bytes: max_bytes.unwrap_or(self.settings.max_bytes),
            waiting: work.state.messages,
        })
    }

    async fn existing_stream(&self, wanted: &Config) -> Result<Info, StreamsError> {
        let found = self.find_stream(wanted).await?;
        found.ok_or_else(|| StreamsError::Missing(wanted.name.clone()))
    }
}

/// Whether a cluster reports an error that ends when all its servers run.
fn is_temporary(code: ErrorCode) -> bool {
    [ErrorCode::CLUSTER_NO_PEERS, ErrorCode::CLUSTER_NOT_AVAILABLE, ErrorCode::CLUSTER_NOT_LEADER].contains(&code)
}

/// What is wrong with a stream that exists.
fn problems(wanted: &Config, found: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |is_right: bool, advice: String| {
        if !is_right {
            problems.push(advice);
        }
    };
    check(found.storage == wanted.storage, "storage must be file".to_owned());
    check(found.retention == wanted.retention, format!("retention must be {:?}", wanted.retention));
    check(found.discard == wanted.discard, "discard must be new".to_owned());
    check(found.max_age.is_zero(), "max_age must be 0".to_owned());
    check(found.max_messages <= 0, "max_msgs must be unlimited".to_owned());
    check(
        found.max_messages_per_subject.max(-1) == wanted.max_messages_per_subject.max(-1)
            || (found.max_messages_per_subject <= 0 && wanted.max_messages_per_subject <= 0),
        format!("max_msgs_per_subject must be {}", wanted.max_messages_per_subject),
    );
    check(
        found.discard_new_per_subject == wanted.discard_new_per_subject,
        format!("discard_new_per_subject must be {}", wanted.discard_new_per_subject),
    );
    check(found.max_message_size <= 0, "max_msg_size must be unlimited".to_owned());
    check(
        found.num_replicas >= wanted.num_replicas,
        format!("replicas must be at least BROKER_REPLICAS={}", wanted.num_replicas),
    );
    check(found.duplicate_window >= wanted.duplicate_window, "duplicate_window must be at least 2m".to_owned());
    check(!found.no_ack, "no_ack must be off".to_owned());
    check(!found.sealed, "the stream must not be sealed".to_owned());
    check(!found.deny_purge, "deny_purge must be off".to_owned());
    check(found.persist_mode != Some(PersistenceMode::Async), "persist_mode must not be async".to_owned());
    check(found.mirror.is_none() && found.sources.is_none(), "it must have no mirror and no sources".to_owned());
    check(found.consumer_limits.is_none(), "consumer_limits must be unset".to_owned());
    check(found.subject_transform.is_none(), "it must not transform subjects".to_owned());
    check(found.subjects == wanted.subjects, format!("subjects must be {}", wanted.subjects.join(", ")));
    check(found.allow_direct >= wanted.allow_direct, "allow_direct must be on".to_owned());
    check(found.allow_message_ttl >= wanted.allow_message_ttl, "allow_msg_ttl must be on".to_owned());
    problems
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::ConsumerLimits;

    use super::*;

    fn config() -> Config {
        Config {
            name: "millpond".to_owned(),
            subjects: vec!["millpond.segment.*.*".to_owned()],
            discard: DiscardPolicy::New,
            num_replicas: 3,
            duplicate_window: DUPLICATE_WINDOW,
            max_messages: -1,
            max_messages_per_subject: -1,
            allow_direct: true,
            allow_message_ttl: true,
            ..Config::default()
        }
    }

    #[test]
    fn each_setting_that_breaks_a_promise_is_named() {
        assert_eq!(problems(&config(), &config()), Vec::<String>::new());
        let larger = Config { num_replicas: 5, duplicate_window: DUPLICATE_WINDOW * 2, ..config() };
        assert_eq!(problems(&config(), &larger), Vec::<String>::new());
        let cases = [
            (Config { storage: StorageType::Memory, ..config() }, "storage"),
            (Config { retention: RetentionPolicy::Interest, ..config() }, "retention"),
            (Config { discard: DiscardPolicy::Old, ..config() }, "discard"),
            (Config { max_age: Duration::from_secs(3600), ..config() }, "max_age"),
            (Config { max_messages: 10, ..config() }, "max_msgs "),
            (Config { max_messages_per_subject: 1, ..config() }, "max_msgs_per_subject"),
            (Config { discard_new_per_subject: true, ..config() }, "discard_new_per_subject"),
            (Config { max_message_size: 1000, ..config() }, "max_msg_size"),
            (Config { num_replicas: 1, ..config() }, "BROKER_REPLICAS=3"),
            (Config { duplicate_window: Duration::from_secs(1), ..config() }, "duplicate_window"),
            (Config { no_ack: true, ..config() }, "no_ack"),
            (Config { sealed: true, ..config() }, "sealed"),
            (Config { deny_purge: true, ..config() }, "deny_purge"),
            (Config { persist_mode: Some(PersistenceMode::Async), ..config() }, "persist_mode"),
            (Config { subjects: vec!["orders".to_owned()], ..config() }, "subjects"),
            (Config { allow_direct: false, ..config() }, "allow_direct"),
            (Config { consumer_limits: Some(ConsumerLimits::default()), ..config() }, "consumer_limits"),
            (Config { allow_message_ttl: false, ..config() }, "allow_msg_ttl"),
        ];
        for (found, name) in cases {
            let problems = problems(&config(), &found);
            assert!(matches!(&problems[..], [one] if one.contains(name)), "{name}: {problems:?}");
        }
    }
}
