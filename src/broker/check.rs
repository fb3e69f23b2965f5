//! The check of the broker by `millpond check`, which leaves nothing behind.

use std::fmt;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Config;

use super::reasons::with_advice;
use super::streams::{StreamsError, Usage};
use super::{Broker, BrokerError};

/// The limit of the stream for the check while the stream of segments exists.
const CHECK_MAX_BYTES: i64 = 1 << 20;

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerCheck {
    servers: String,
    stream: String,
    replicas: usize,
    max_bytes: u64,
    /// None if the streams do not exist yet.
    usage: Option<Usage>,
}

impl fmt::Display for BrokerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { servers, stream, replicas, max_bytes, usage } = self;
        write!(f, "Broker: stream {stream} at {servers}, replicas {replicas}, ")?;
        match usage {
            Some(Usage { bytes, max_bytes: found, waiting }) => {
                write!(f, "{bytes} of {found} bytes, segments to upload {waiting}")?;
                if found == max_bytes {
                    write!(f, ".")
                } else {
                    write!(f, "; the start of the server changes the limit to BROKER_MAX_BYTES={max_bytes}.")
                }
            }
            None => write!(f, "limit {max_bytes} bytes; it does not exist yet, and the server will create it."),
        }
    }
}

impl Broker {
    /// Connects, checks the streams, and writes a message to a stream that it creates for that and deletes.
    ///
    /// # Errors
    /// Why the server could not use the broker.
    pub async fn check_usable(&self) -> Result<BrokerCheck, StreamsError> {
        if !self.is_connected_in_time().await {
            return Err(StreamsError::Unavailable(self.connection.reason()));
        }
        self.check_streams().await.map_err(|error| match error {
            // A missing permission causes a timeout.
            StreamsError::Unavailable(error) => {
                let violation = self.connection.state().violation;
                StreamsError::Unavailable(violation.unwrap_or_else(|| with_advice(&error)))
            }
            other => other,
        })
    }

    async fn check_streams(&self) -> Result<BrokerCheck, StreamsError> {
        self.check_server()?;
        let mut is_created = true;
        for config in [self.segments_config(), self.work_config()] {
            is_created &= self.find_stream(&config).await?.is_some();
        }
        let usage = if is_created { Some(self.usage().await?) } else { None };
        let settings = &self.settings;
        let (name, subject) = (format!("{}-check", settings.stream), format!("{}.check", settings.stream));
        let segments = self.segments_config();
        let config = Config {
            name: name.clone(),
            description: Some("A check of millpond, which deletes it.".to_owned()),
            subjects: vec![subject.clone()],
            max_bytes: if is_created { CHECK_MAX_BYTES } else { segments.max_bytes },
            ..segments
        };
        let created = self.jetstream.create_stream(config).await;
        created.map_err(|error| self.rejected(settings.stream.clone(), &error))?;
        let published = self.publish(subject, PublishMessage::build().payload("check".into())).await;
        let deleted = self.jetstream.delete_stream(&name).await;
        published.map_err(|error| match error {
            BrokerError::Unavailable(text) | BrokerError::Unknown(text) => StreamsError::Unavailable(text),
            other => StreamsError::Unavailable(other.to_string()),
        })?;
        deleted.map_err(|error| StreamsError::Unavailable(error.to_string()))?;
        Ok(BrokerCheck {
            servers: settings.servers.names(),
            stream: settings.stream.clone(),
            replicas: settings.replicas,
            max_bytes: settings.max_bytes,
            usage,
        })
    }
}
