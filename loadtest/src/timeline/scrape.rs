//! A look at a server's metrics: one GET, and the few lines of Prometheus's text format that matter here.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A scrape that takes longer is given up. It is shorter than the second from one to the next.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Longer answers are no metrics of millpond's.
const MAX_ANSWER: u64 = 1 << 20;

/// The gauges of millpond that say how full it is. What a server does not tell is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauges {
    /// Jobs waiting to be packed.
    pub queue_jobs: Option<u64>,
    /// Bytes waiting to be packed or being received.
    pub queue_bytes: Option<u64>,
    /// Workers that have a segment.
    pub busy_workers: Option<u64>,
    /// Uploads that may run at once.
    pub upload_limit: Option<u64>,
    /// Sealed segments that no worker has taken.
    pub segments_waiting: Option<u64>,
    /// Bytes on disk in the spool.
    pub spool_bytes: Option<u64>,
    /// Connections open on the public listener.
    pub connections: Option<u64>,
}

/// The gauges of the server whose admin listener this is; `None` if they cannot be had in time.
pub(super) async fn scrape(admin: SocketAddr) -> Option<Gauges> {
    let text = tokio::time::timeout(TIMEOUT, get(admin)).await.ok()?.ok()?;
    Some(Gauges::read(&text))
}

/// The body of `/metrics`. HTTP/1.0, so that it comes in one piece and ends with the connection.
async fn get(admin: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {admin}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other("the server would not show its metrics"));
    }
    Ok(body.to_owned())
}

impl Gauges {
    fn read(text: &str) -> Self {
        let mut gauges = Self::default();
        for (name, value) in samples(text) {
            let slot = match name.strip_prefix("millpond_") {
                Some("queue_jobs") => &mut gauges.queue_jobs,
                Some("queue_bytes") => &mut gauges.queue_bytes,
                Some("busy_workers") => &mut gauges.busy_workers,
                Some("upload_limit") => &mut gauges.upload_limit,
                Some("segments_waiting") => &mut gauges.segments_waiting,
                Some("spool_bytes") => &mut gauges.spool_bytes,
                Some("connections") => &mut gauges.connections,
                _ => continue,
            };
            // Counts and bytes: a negative one would be between two updates of the server's, and means none.
            *slot = value.is_finite().then_some(value.max(0.0) as u64);
        }
        gauges
    }
}

/// The samples that have no labels, by name. Lines that are not of the format are passed over.
///
/// The format: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>, lines of
/// `name value [timestamp]`, or `name{label="…"} value [timestamp]`; comments begin with `#`.
fn samples(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next().filter(|name| !name.starts_with('#') && !name.contains('{'))?;
        Some((name, fields.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const TEXT: &str = "# HELP millpond_queue_jobs Jobs waiting to be packed\n\
        # TYPE millpond_queue_jobs gauge\n\
        millpond_queue_jobs 42\n\
        millpond_queue_bytes 1.5e3 1700000000000\n\
        millpond_requests_total{outcome=\"queue full 7\",route=\"payloads\"} 3\n\
        millpond_frame_jobs_bucket{le=\"+Inf\"} 3\n\
        millpond_busy_workers NaN\n\
        millpond_spool_bytes -1\n\
        millpond_connections\n\
        other_queue_jobs 9\n\
        \n\
        nonsense nonsense\n";

    #[test]
    fn gauges_are_read_and_everything_else_is_passed_over() {
        let gauges = Gauges::read(TEXT);
        let expected =
            Gauges { queue_jobs: Some(42), queue_bytes: Some(1500), spool_bytes: Some(0), ..Gauges::default() };
        assert_eq!(gauges, expected);
        assert_eq!(Gauges::read(""), Gauges::default());
    }

    #[test]
    fn samples_with_labels_and_comments_are_none() {
        let names: Vec<_> = samples(TEXT).map(|(name, _)| name).collect();
        let expected = [
            "millpond_queue_jobs",
            "millpond_queue_bytes",
            "millpond_busy_workers",
            "millpond_spool_bytes",
            "other_queue_jobs",
        ];
        assert_eq!(names, expected);
    }

    async fn answered(answer: &str) -> Option<Gauges> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 24];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"GET /metrics HTTP/1.0\r\nH");
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Closed without reading the rest, it would be reset.
            stream.shutdown().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let (gauges, ()) = tokio::join!(scrape(listener.local_addr().unwrap()), server);
        gauges
    }

    #[tokio::test]
    async fn a_good_answer_is_read_and_any_other_is_a_gap() {
        let good = answered("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nmillpond_busy_workers 2\n").await;
        assert_eq!(good, Some(Gauges { busy_workers: Some(2), ..Gauges::default() }));
        assert_eq!(answered("HTTP/1.0 404 Not Found\r\n\r\nmillpond_busy_workers 2\n").await, None);
        assert_eq!(answered("HTTP/1.0 200 OK\r\n").await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_a_gap() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (gauges, held) = tokio::join!(scrape(listener.local_addr().unwrap()), listener.accept());
        assert!(gauges.is_none() && held.is_ok());
    }
}
