//! A connection between two processes: bounded lines of JSON, and sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::geteuid;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::HandoverError;
use super::message::Message;

/// The longest message.
const MESSAGE_MAX_BYTES: usize = 4096;
/// Sockets that one connection may send.
const SOCKETS_MAX: usize = 2;

/// A connection to a process of the same user.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// What has arrived of the next messages.
    received: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

impl Channel {
    /// Takes a connection.
    ///
    /// # Errors
    /// If the process at its other end belongs to another user.
    pub(super) fn new(stream: UnixStream) -> Result<Self, HandoverError> {
        let user = stream.peer_cred()?.uid();
        if user != geteuid().as_raw() {
            return Err(HandoverError::OtherUser(user));
        }
        Ok(Self { stream, received: Vec::new(), sockets: Vec::new() })
    }

    /// Sends a message, and sockets with it.
    pub(super) async fn send(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> Result<(), HandoverError> {
        let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
        line.push(b'\n');
        let (mut rest, mut sockets) = (line.as_slice(), sockets);
        while !rest.is_empty() {
            let sent = self.stream.async_io(Interest::WRITABLE, || send_once(&self.stream, rest, sockets)).await?;
            rest = rest.get(sent..).unwrap_or_default();
            sockets = &[];
        }
        Ok(())
    }

    /// Receives the next message.
    ///
    /// # Errors
    /// `Exited` if the other process has closed the connection; `Io` only if this process cannot receive.
    pub(super) async fn receive(&mut self) -> Result<Message, HandoverError> {
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(message);
            }
            let arrived = self.stream.async_io(Interest::READABLE, || receive_once(&self.stream)).await?;
            self.keep(arrived)?;
        }
    }

    /// Receives the next message, which is called `name`, until `deadline`.
    pub(super) async fn receive_until(
        &mut self,
        deadline: Instant,
        name: &'static str,
    ) -> Result<Message, HandoverError> {
        if let Ok(received) = timeout_at(deadline, self.receive()).await {
            return received;
        }
        // After a pause of this process, the timer may expire before the runtime learns of what arrived in time.
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(message);
            }
            match receive_once(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(HandoverError::TimedOut(name)),
                arrived => self.keep(arrived?)?,
            }
        }
    }

    /// The next message of what has arrived, if it is complete.
    fn next_message(&mut self) -> Result<Option<Message>, HandoverError> {
        let Some(end) = self.received.iter().position(|byte| *byte == b'\n') else {
            return match self.received.len() {
                0..MESSAGE_MAX_BYTES => Ok(None),
                _ => Err(HandoverError::Protocol(format!("longer than {MESSAGE_MAX_BYTES} bytes"))),
            };
        };
        let line: Vec<u8> = self.received.drain(..=end).collect();
        serde_json::from_slice(&line).map(Some).map_err(|error| HandoverError::Protocol(error.to_string()))
    }

    fn keep(&mut self, (bytes, sockets): (Vec<u8>, Vec<OwnedFd>)) -> Result<(), HandoverError> {
        self.sockets.extend(sockets);
        if self.sockets.len() > SOCKETS_MAX {
            return Err(HandoverError::Protocol(format!("more than {SOCKETS_MAX} sockets")));
        }
        if bytes.is_empty() {
            return Err(HandoverError::Exited);
        }
        self.received.extend(bytes);
        Ok(())
    }

    /// The sockets that have arrived.
    pub(super) fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }
}

fn send_once(stream: &UnixStream, bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other(format!("more than {SOCKETS_MAX} sockets")));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags)?)
}

fn receive_once(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; MESSAGE_MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = match recvmsg(stream, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags) {
        // The other process has exited, and had not read everything. It is the end, as without that.
        Err(Errno::CONNRESET) => return Ok((Vec::new(), Vec::new())),
        received => received?,
    };
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("sockets were not received; check the limit on open files"));
    }
    buffer.truncate(received.bytes);
    Ok((buffer, sockets))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> [Channel; 2] {
        let (one, other) = UnixStream::pair().unwrap();
        [one, other].map(|stream| Channel::new(stream).unwrap())
    }

    #[tokio::test]
    async fn messages_and_sockets_arrive_in_order() {
        let [one, mut other] = pair();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        one.send(&Message::hello(), &[]).await.unwrap();
        one.send(&Message::Ready, &[listener.as_fd(), listener.as_fd()]).await.unwrap();
        assert_eq!(other.receive().await.unwrap(), Message::hello());
        assert_eq!(other.receive().await.unwrap(), Message::Ready);
        let sockets: Vec<_> = other.take_sockets().into_iter().map(std::net::TcpListener::from).collect();
        assert_eq!(sockets.len(), 2);
        assert_eq!(sockets[0].local_addr().unwrap(), listener.local_addr().unwrap());
        drop(one);
        assert!(matches!(other.receive().await, Err(HandoverError::Exited)));
    }

    #[tokio::test]
    async fn messages_and_sockets_have_bounds() {
        let [mut one, other] = pair();
        other.stream.try_write(&[b' '; MESSAGE_MAX_BYTES]).unwrap();
        assert!(matches!(one.receive().await, Err(HandoverError::Protocol(_))));
        let [mut one, other] = pair();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let both = [listener.as_fd(); SOCKETS_MAX];
        other.send(&Message::Ready, &both).await.unwrap();
        other.send(&Message::Ready, &both).await.unwrap();
        one.receive().await.unwrap();
        assert!(matches!(one.receive().await, Err(HandoverError::Protocol(_))));
        let [mut one, other] = pair();
        other.stream.try_write(b"{\"type\":\"unknown\"}\n").unwrap();
        assert!(matches!(one.receive().await, Err(HandoverError::Protocol(_))));
    }
}
