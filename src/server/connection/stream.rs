//! The socket of one connection, as hyper reads and writes it.
//!
//! It records the [`Activity`] of the connection, limits what is read in one poll of its task, so that a client that
//! always has more to send does not delay the others, and ends a flood of HTTP/2 frames that belong to no request. When
//! hyper drops it, the socket itself goes back to the connection's task, which closes it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::activity::Activity;
use super::frames::FrameBudget;
use super::protocol::Protocol;

/// Bytes of HTTP/2 that are read in one turn: a thousand of the smallest frames, some 0.1 ms.
const H2_TURN_BYTES: usize = 16 * 1024;
/// The same of HTTP/1, whose requests cost far more than their bytes. hyper closes a connection if it cannot discard a
/// rejected body at once, so a turn is longer than the usual body.
const H1_TURN_BYTES: usize = 256 * 1024;

/// A socket with its bounds.
pub(super) struct MeteredStream<IO> {
    stream: Option<IO>,
    on_drop: Option<oneshot::Sender<IO>>,
    activity: Arc<Activity>,
    protocol: Protocol,
    frames: FrameBudget,
    /// Bytes read since the socket had nothing to read, or since the last turn.
    turn_bytes: usize,
}

impl<IO: Unpin> MeteredStream<IO> {
    /// Wraps `stream`. The receiver gets it back when the wrapper is dropped.
    pub(super) fn new(stream: IO, activity: Arc<Activity>) -> (Self, oneshot::Receiver<IO>) {
        let (on_drop, returned) = oneshot::channel();
        let metered = Self {
            stream: Some(stream),
            on_drop: Some(on_drop),
            activity,
            protocol: Protocol::UNKNOWN,
            frames: FrameBudget::new(Instant::now()),
            turn_bytes: 0,
        };
        (metered, returned)
    }

    fn stream(&mut self) -> io::Result<Pin<&mut IO>> {
        // Only the drop takes it.
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<IO> Drop for MeteredStream<IO> {
    fn drop(&mut self) {
        if let Some((on_drop, stream)) = self.on_drop.take().zip(self.stream.take()) {
            // Without a receiver the socket is closed here.
            let _: Result<(), IO> = on_drop.send(stream);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for MeteredStream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let turn = if self.protocol == Protocol::Http1 { H1_TURN_BYTES } else { H2_TURN_BYTES };
        if self.turn_bytes >= turn {
            self.turn_bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = self.stream()?.poll_read(cx, buffer);
        match &polled {
            Poll::Pending => self.turn_bytes = 0,
            Poll::Ready(Err(_)) => {}
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().get(before..).unwrap_or_default();
                self.turn_bytes += bytes.len();
                let after_preface = self.protocol.detect(bytes);
                self.activity.read(bytes, self.protocol);
                if self.protocol == Protocol::Http2
                    && let Err(flood) = self.frames.read(after_preface)
                {
                    buffer.set_filled(before);
                    return Poll::Ready(Err(io::Error::other(flood)));
                }
            }
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for MeteredStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write(cx, bytes);
        self.activity.wrote(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write_vectored(cx, slices);
        self.activity.wrote(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS buffers bytes, so only a flush shows whether the socket takes them.
        let flushed = self.stream()?.poll_flush(cx);
        self.activity.wrote(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::super::protocol::H2_PREFACE;
    use super::*;

    async fn read_all(bytes: Vec<u8>) -> io::Result<usize> {
        let (mut metered, _returned) = MeteredStream::new(io::Cursor::new(bytes), Arc::new(Activity::new()));
        metered.read_to_end(&mut Vec::new()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_frames_ends_a_connection_of_http_2_and_none_of_http_1() {
        let pings = |count| b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0".repeat(count);
        assert!(read_all([&H2_PREFACE[..], &pings(1000)].concat()).await.is_ok());
        assert!(read_all([&H2_PREFACE[..], &pings(1001)].concat()).await.is_err());
        assert!(read_all([&b"PRINT / HTTP/1.1\r\n\r\n"[..], &pings(2000)].concat()).await.is_ok());
    }

    #[tokio::test]
    async fn a_client_that_always_has_more_to_send_yields_to_others() {
        let (mut metered, _returned) = MeteredStream::new(tokio::io::repeat(b'x'), Arc::new(Activity::new()));
        let mut buffer = vec![0; H1_TURN_BYTES];
        let mut read = || {
            let mut buffer = ReadBuf::new(&mut buffer);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            Pin::new(&mut metered).poll_read(&mut cx, &mut buffer).is_ready()
        };
        assert_eq!([read(), read(), read(), read()], [true, false, true, false]);
    }
}
