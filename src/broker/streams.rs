//! The streams: created if they do not exist, and rejected if their settings break a promise.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, ConsumerErrorKind, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{ErrorCode, consumer};

use super::{Broker, describe};

/// The shortest window in which the broker recognizes a repeated message: longer than any append is tried.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// The most bytes of the work queue: 250 bytes for a segment.
const WORK_MAX_BYTES: i64 = 1 << 30;
/// The consumer of all workers.
pub(super) const WORKERS: &str = "workers";
/// A segment that its worker does not report on goes to another worker after this time.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(30);
/// Segments that all workers together may hold.
const HELD_MAX: i64 = 65_536;

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
    /// A stream does not exist any more.
    #[error("the stream {0} of the broker does not exist")]
    Missing(String),
    /// The broker does not respond.
    #[error("the broker does not respond: {0}")]
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

    /// Creates the streams and the consumer of the workers, or checks them.
    pub(super) async fn prepare_streams(&self) -> Result<(), StreamsError> {
        for config in [self.segments_config(), self.work_config()] {
            self.prepare(config).await?;
        }
        let work = self.subjects.work_stream();
        let config = pull::Config {
            durable_name: Some(WORKERS.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: HELD_MAX,
            ..pull::Config::default()
        };
        let created: Result<consumer::PullConsumer, _> = self.jetstream.create_consumer_on_stream(config, &work).await;
        created.map(drop).map_err(|error| match error.kind() {
            ConsumerErrorKind::JetStream(_) => StreamsError::Rejected { stream: work, reason: describe(&error) },
            _ => StreamsError::Unavailable(describe(&error)),
        })
    }

    async fn prepare(&self, wanted: Config) -> Result<(), StreamsError> {
        let name = wanted.name.clone();
        let Some(found) = self.find_stream(&wanted).await? else {
            let created = self.jetstream.create_stream(wanted).await;
            return created.map(drop).map_err(|error| self.rejected(name, &error));
        };
        // The limit is the setting that an operator may change.
        if found.max_bytes != wanted.max_bytes {
            let changed = Config { max_bytes: wanted.max_bytes, ..found };
            let updated = self.jetstream.update_stream(changed).await;
            updated.map_err(|error| self.rejected(name, &error))?;
        }
        Ok(())
    }

    /// The settings of a stream; none if it does not exist.
    pub(super) async fn find_stream(&self, wanted: &Config) -> Result<Option<Config>, StreamsError> {
        let found = match self.jetstream.get_stream(&wanted.name).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) => {
                return match error.kind() {
                    GetStreamErrorKind::JetStream(missing) if missing.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                        Ok(None)
                    }
                    _ => Err(StreamsError::Unavailable(describe(&error))),
                };
            }
        };
        let problems = problems(wanted, &found);
        if problems.is_empty() {
            return Ok(Some(found));
        }
        Err(StreamsError::Unsafe { stream: wanted.name.clone(), problems: problems.join(", ") })
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
        StreamsError::Rejected { stream, reason: format!("{text}{advice}") }
    }

    /// The bytes of all segments, and the number of segments that wait for a worker or are with one.
    pub(super) async fn usage(&self) -> Result<(u64, u64), StreamsError> {
        let mut states = [(0, 0); 2];
        for (state, name) in states.iter_mut().zip([self.settings.stream.clone(), self.subjects.work_stream()]) {
            let info = self.jetstream.get_stream(&name).await.map_err(|error| match error.kind() {
                GetStreamErrorKind::JetStream(missing) if missing.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    StreamsError::Missing(name)
                }
                _ => StreamsError::Unavailable(describe(&error)),
            })?;
            let found = &info.cached_info().state;
            *state = (found.bytes, found.messages);
        }
        let [(bytes, _), (_, waiting)] = states;
        Ok((bytes, waiting))
    }
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
    check(found.subject_transform.is_none(), "it must not transform subjects".to_owned());
    check(found.subjects == wanted.subjects, format!("subjects must be {}", wanted.subjects.join(", ")));
    check(found.allow_direct >= wanted.allow_direct, "allow_direct must be on".to_owned());
    check(found.allow_message_ttl >= wanted.allow_message_ttl, "allow_msg_ttl must be on".to_owned());
    problems
}

#[cfg(test)]
mod tests {
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
            (Config { allow_message_ttl: false, ..config() }, "allow_msg_ttl"),
        ];
        for (found, name) in cases {
            let problems = problems(&config(), &found);
            assert!(matches!(&problems[..], [one] if one.contains(name)), "{name}: {problems:?}");
        }
    }
}
