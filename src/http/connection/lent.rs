//! A socket that is lent to hyper and comes back when hyper lets go of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::version::Version;

/// The socket as hyper has it.
pub(super) struct Lent<IO> {
    stream: Option<IO>,
    back: Arc<Mutex<Option<IO>>>,
    activity: Arc<Activity>,
    version: Version,
}

/// Where the socket comes back to.
pub(super) struct Returned<IO>(Arc<Mutex<Option<IO>>>);

impl<IO: Unpin> Lent<IO> {
    pub(super) fn lend(stream: IO, activity: Arc<Activity>) -> (Self, Returned<IO>) {
        let back = Arc::new(Mutex::new(None));
        (Self { stream: Some(stream), back: Arc::clone(&back), activity, version: Version::NEW }, Returned(back))
    }

    fn stream(&mut self) -> io::Result<Pin<&mut IO>> {
        // It is taken only by the drop.
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<IO> Returned<IO> {
    /// The socket, once hyper has dropped its end.
    pub(super) fn take(&self) -> Option<IO> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<IO> Drop for Lent<IO> {
    fn drop(&mut self) {
        *self.back.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Lent<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.stream()?.poll_read(cx, buffer))?;
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        self.version.follow(bytes);
        self.activity.read(bytes, self.version);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Lent<IO> {
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
        // TLS holds bytes of its own, so that only this shows whether they go anywhere.
        let flushed = self.stream()?.poll_flush(cx);
        self.activity.wrote(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
