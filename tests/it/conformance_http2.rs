//! Conformance to RFC 9113 (HTTP/2), as a table of frames and expected reactions.

use loadtest::attack::frames::{
    self, ACK, END_HEADERS, END_STREAM, Frame, GET, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, PADDED, POST, PREFACE, kind,
};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::support::{Connection, PATIENCE, Server};

/// An HTTP/2 connection on which the test sends every frame itself.
struct Http2 {
    connection: Connection,
    input: Vec<u8>,
}

impl Http2 {
    async fn open(server: &Server) -> Self {
        let mut connection = server.connect().await;
        connection.write(&frames::opening(&[])).await;
        Self { connection, input: Vec::new() }
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.input) {
                return Some(frame);
            }
            let read =
                timeout(PATIENCE, self.connection.0.read_buf(&mut self.input)).await.expect("a frame or the end");
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }

    /// Waits until the server closes the connection. Frames before that are ignored.
    async fn closes(&mut self, what: &str) {
        let end = async { while self.frame().await.is_some() {} };
        timeout(PATIENCE, end).await.unwrap_or_else(|_| panic!("{what}: the connection stays open"));
    }

    /// The first frame that ends a stream or the connection; `None` if the connection is closed without one.
    async fn end(&mut self) -> Option<Frame> {
        while let Some(frame) = self.frame().await {
            let ends = frame.flags & END_STREAM != 0 && matches!(frame.kind, kind::DATA | kind::HEADERS);
            // A GOAWAY without an error only announces the end.
            if ends || frame.kind == kind::RST_STREAM || frame.kind == kind::GOAWAY && frame.error_code() != Some(0) {
                return Some(frame);
            }
        }
        None
    }
}

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

/// The expected reaction to some frames. h2 uses PROTOCOL_ERROR for some errors that have a code of their own. That is
/// accepted, because it ends the connection as well.
#[derive(Clone, Copy)]
enum Must {
    /// A response to the request on stream 1.
    Answer,
    /// The stream ends with one of these errors, or the connection (5.4.2).
    EndStream(&'static [u32]),
    /// The connection ends with one of these errors.
    EndConnection(&'static [u32]),
}
use Must::{Answer, EndConnection, EndStream};

#[tokio::test]
async fn http_2_frames_are_accepted_or_rejected_as_rfc_9113_requires() {
    let get = || frames::headers(1, END_STREAM, GET);
    let opened = || frames::headers(1, 0, POST);
    let with = |fields: &[&[u8]]| [GET, &fields.concat()].concat();
    let request = |block: &[u8]| frames::headers(1, END_STREAM, block);
    let field = frames::field;
    let settings = |pairs: &[(u16, u32)]| [frames::settings(pairs), get()].concat();
    let any = frames::frame;
    let padded = [&[3][..], GET, &[0, 0, 0]].concat();
    let prioritised = [&[0, 0, 0, 0, 15][..], GET].concat();
    let on_itself = [&[0, 0, 0, 1, 15][..], GET].concat();
    let (begun, rest) = GET.split_at(2);
    let cases: Vec<(&str, Vec<u8>, Must)> = vec![
        ("a request", get(), Answer),
        ("padding", any(kind::HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &padded), Answer),
        ("a priority", any(kind::HEADERS, END_STREAM | END_HEADERS | 0x20, 1, &prioritised), Answer),
        ("an unknown frame type is passed over (4.1)", [any(0x99, 0xff, 7, b"?"), get()].concat(), Answer),
        ("unknown flags are (4.1)", any(kind::HEADERS, END_STREAM | END_HEADERS | 0x50, 1, GET), Answer),
        ("an unknown setting is (6.5.2)", settings(&[(0x99, 1)]), Answer),
        ("the reserved bit is (4.1)", any(kind::HEADERS, END_STREAM | END_HEADERS, 0x8000_0001, GET), Answer),
        (
            "a header block in pieces",
            [any(kind::HEADERS, END_STREAM, 1, begun), any(kind::CONTINUATION, END_HEADERS, 1, rest)].concat(),
            Answer,
        ),
        (
            "priorities of streams that are none",
            [any(kind::PRIORITY, 0, 99, &[0, 0, 0, 0, 15]), get()].concat(),
            Answer,
        ),
        ("a window at its most", [frames::window_update(0, 0x7fff_ffff - 65_535), get()].concat(), Answer),
        // 4.2, 6.x: frame sizes.
        (
            "a frame over 16 KiB",
            any(kind::HEADERS, END_STREAM | END_HEADERS, 1, &[0x84; 16_385]),
            EndConnection(&[FRAME_SIZE_ERROR]),
        ),
        ("a ping of 7 bytes", any(kind::PING, 0, 0, &[0; 7]), EndConnection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR])),
        ("settings of 7 bytes", any(kind::SETTINGS, 0, 0, &[0; 7]), EndConnection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR])),
        (
            "settings acknowledged with a payload",
            any(kind::SETTINGS, ACK, 0, &[0; 6]),
            EndConnection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "a window update of 3 bytes",
            any(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
            EndConnection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "a reset of 3 bytes",
            [opened(), any(kind::RST_STREAM, 0, 1, &[0; 3])].concat(),
            EndConnection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        // 5.1: stream states.
        ("data on a stream that is idle", any(kind::DATA, 0, 1, b"{}"), EndConnection(&[PROTOCOL_ERROR])),
        ("a reset of one", frames::cancel(1), EndConnection(&[PROTOCOL_ERROR])),
        ("a window for one", frames::window_update(1, 1), EndConnection(&[PROTOCOL_ERROR])),
        ("CONTINUATION of nothing", any(kind::CONTINUATION, END_HEADERS, 1, GET), EndConnection(&[PROTOCOL_ERROR])),
        (
            "data after the end",
            [opened(), any(kind::DATA, END_STREAM, 1, b"{"), any(kind::DATA, 0, 1, b"}")].concat(),
            EndStream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        ("an even stream (5.1.1)", frames::headers(2, END_STREAM, GET), EndConnection(&[PROTOCOL_ERROR])),
        ("stream 0", frames::headers(0, END_STREAM, GET), EndConnection(&[PROTOCOL_ERROR])),
        (
            "a stream below the last (5.1.1)",
            [frames::headers(5, 0, POST), frames::headers(3, END_STREAM, GET)].concat(),
            EndConnection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        (
            "a stream that depends on itself",
            any(kind::HEADERS, END_STREAM | END_HEADERS | 0x20, 1, &on_itself),
            EndStream(&[PROTOCOL_ERROR]),
        ),
        // 6: frames on the wrong stream.
        ("data on stream 0", any(kind::DATA, 0, 0, b"{}"), EndConnection(&[PROTOCOL_ERROR])),
        ("a ping on a stream", any(kind::PING, 0, 1, &[0; 8]), EndConnection(&[PROTOCOL_ERROR])),
        ("settings on a stream", any(kind::SETTINGS, 0, 1, &[]), EndConnection(&[PROTOCOL_ERROR])),
        ("going away on a stream", any(kind::GOAWAY, 0, 1, &[0; 8]), EndConnection(&[PROTOCOL_ERROR])),
        (
            "a push from a client",
            [opened(), any(kind::PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])].concat(),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        (
            "another frame within a header block",
            [any(kind::HEADERS, END_STREAM, 1, begun), any(kind::PING, 0, 0, &[0; 8])].concat(),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        (
            "another stream's within one",
            [any(kind::HEADERS, END_STREAM, 1, begun), any(kind::CONTINUATION, END_HEADERS, 3, rest)].concat(),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        (
            "padding as long as the frame",
            [opened(), any(kind::DATA, PADDED, 1, &[2, 0])].concat(),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("settings: push of 2", settings(&[(2, 2)]), EndConnection(&[PROTOCOL_ERROR])),
        (
            "settings: a window of 2^31",
            settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]),
            EndConnection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        ("settings: frames below 16 KiB", settings(&[(MAX_FRAME_SIZE, 16_383)]), EndConnection(&[PROTOCOL_ERROR])),
        ("settings: frames over 16 MiB", settings(&[(MAX_FRAME_SIZE, 1 << 24)]), EndConnection(&[PROTOCOL_ERROR])),
        ("a window that grows by nothing", frames::window_update(0, 0), EndConnection(&[PROTOCOL_ERROR])),
        ("a stream's that does", [opened(), frames::window_update(1, 0)].concat(), EndStream(&[PROTOCOL_ERROR])),
        ("a window over its most", frames::window_update(0, 0x7fff_ffff), EndConnection(&[FLOW_CONTROL_ERROR])),
        (
            "a stream's over its most",
            [opened(), frames::window_update(1, 0x7fff_ffff)].concat(),
            EndStream(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "a header block that is no HPACK",
            request(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            EndConnection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
        ("an index that is in no table", request(&[0xfe]), EndConnection(&[COMPRESSION_ERROR, PROTOCOL_ERROR])),
        // 8: requests.
        ("a name in upper case", request(&with(&[&field(b"X-A", b"b")])), EndStream(&[PROTOCOL_ERROR])),
        ("an unknown pseudo-header", request(&with(&[&field(b":x", b"y")])), EndStream(&[PROTOCOL_ERROR])),
        ("an answer's pseudo-header", request(&with(&[&field(b":status", b"200")])), EndStream(&[PROTOCOL_ERROR])),
        (
            "a pseudo-header behind a header",
            request(&[&[0x83, 0x86][..], &field(b"x", b"y"), &[0x84]].concat()),
            EndStream(&[PROTOCOL_ERROR]),
        ),
        ("one given twice", request(&with(&[&[0x84]])), EndStream(&[PROTOCOL_ERROR])),
        ("no method", request(&[0x86, 0x84]), EndStream(&[PROTOCOL_ERROR])),
        ("no scheme", request(&[0x82, 0x84]), EndStream(&[PROTOCOL_ERROR])),
        // h2 accepts the path, so the response is 404.
        ("no path", request(&[0x82, 0x86]), Answer),
        ("an empty path", request(&[&[0x82, 0x86][..], &field(b":path", b"")].concat()), EndStream(&[PROTOCOL_ERROR])),
        ("Connection (8.2.2)", request(&with(&[&field(b"connection", b"close")])), EndStream(&[PROTOCOL_ERROR])),
        (
            "Transfer-Encoding (8.2.2)",
            request(&with(&[&field(b"transfer-encoding", b"chunked")])),
            EndStream(&[PROTOCOL_ERROR]),
        ),
        ("TE other than trailers (8.2.2)", request(&with(&[&field(b"te", b"gzip")])), EndStream(&[PROTOCOL_ERROR])),
        ("NUL in a value", request(&with(&[&field(b"x", b"a\0b")])), EndStream(&[PROTOCOL_ERROR])),
        ("a line break in a value", request(&with(&[&field(b"x", b"a\r\nb")])), EndStream(&[PROTOCOL_ERROR])),
        (
            "more data than its content-length (8.1.1)",
            [
                frames::headers(1, 0, &[POST, &field(b"content-length", b"1")].concat()),
                any(kind::DATA, END_STREAM, 1, b"{}"),
            ]
            .concat(),
            EndStream(&[PROTOCOL_ERROR]),
        ),
        (
            "less than that",
            [
                frames::headers(1, 0, &[POST, &field(b"content-length", b"9")].concat()),
                any(kind::DATA, END_STREAM, 1, b"{}"),
            ]
            .concat(),
            EndStream(&[PROTOCOL_ERROR]),
        ),
        (
            "trailers that do not end the stream (8.1)",
            [opened(), any(kind::DATA, 0, 1, b"{"), frames::headers(1, 0, &field(b"x", b"y"))].concat(),
            EndStream(&[PROTOCOL_ERROR]),
        ),
    ];
    let server = Server::start(&[]).await;
    let mut wrong = Vec::new();
    for (what, bytes, must) in cases {
        let mut http2 = Http2::open(&server).await;
        http2.connection.write(&bytes).await;
        let end = http2.end().await;
        let code = end.as_ref().and_then(Frame::error_code);
        let came = end.as_ref().map(|frame| frame.kind);
        let good = match must {
            Answer => matches!(came, Some(kind::DATA | kind::HEADERS)),
            EndStream(codes) => code.is_some_and(|code| codes.contains(&code)),
            EndConnection(codes) => came == Some(kind::GOAWAY) && code.is_some_and(|code| codes.contains(&code)),
        };
        if came == Some(kind::GOAWAY) {
            http2.closes(what).await;
        }
        if !good {
            wrong.push(format!("{what}: {end:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn pings_and_settings_are_acknowledged() {
    let server = Server::start(&[]).await;
    let mut http2 = Http2::open(&server).await;
    http2.connection.write(&frames::frame(kind::PING, 0, 0, b"12345678")).await;
    let (mut settings, mut acknowledged, mut pong) = (false, false, false);
    while !(settings && acknowledged && pong) {
        let frame = http2.frame().await.expect("a frame");
        match (frame.kind, frame.flags & ACK != 0) {
            (kind::SETTINGS, is_ack) => {
                settings |= !is_ack;
                acknowledged |= is_ack;
            }
            (kind::PING, true) => {
                assert_eq!(frame.payload, b"12345678");
                pong = true;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_invalid_preface_ends_the_connection() {
    let server = Server::start(&[]).await;
    let mut connection = server.connect().await;
    connection.write(&[&PREFACE[..PREFACE.len() - 1], b"X"].concat()).await;
    connection.write(&frames::headers(1, END_STREAM, GET)).await;
    if let Some(answer) = connection.answer().await {
        assert_eq!(answer.status, 400);
        assert!(connection.closed().await);
    }
}
