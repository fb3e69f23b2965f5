//! Arbitrary bytes before a request of a trusted proxy: after a valid PROXY header the request is served, otherwise the
//! connection is closed without a response.

#![no_main]

mod world;

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use millpond::http::render_rejection;
use millpond::server::{ServerConfig, TrustedProxies, bind, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio_util::sync::CancellationToken;

use world::{World, settled};

const MAX_CONNECTIONS: usize = 16;
const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

// The first byte selects the size of the pieces, and whether the input follows the signature of a binary header.
fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let start: &[u8] = if how & 128 == 0 { b"" } else { b"\r\n\r\n\0\r\nQUIT\n" };
    let sent = [start, rest, REQUEST].concat();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(converse(&sent, if how & 127 == 0 { sent.len() } else { usize::from(how & 127) }));
});

async fn converse(sent: &[u8], piece: usize) {
    let World { public, timeouts, dispatcher, metrics, depth } = World::new(false).await;
    let listener = bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = listener.local_addr().expect("bound");
    let proxies = TrustedProxies::new(&["127.0.0.0/8".parse().expect("a network")]);
    let plain = ServerConfig::plain(MAX_CONNECTIONS, timeouts, render_rejection);
    let config = ServerConfig { proxies, proxy_protocol: true, ..plain };
    let stop = CancellationToken::new();
    let server = serve(listener, move |peer| public.of(peer), config, stop.clone());
    let client = async move {
        let mut stream = TcpStream::connect(address).await.expect("a listener");
        let mut answers = Vec::new();
        for piece in sent.chunks(piece) {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // An error means that the server has closed the connection before it read everything.
        let _: Result<_, _> = stream.shutdown().await;
        let within = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answers));
        let _: Result<_, _> = within.await.expect("the server closes");
        stop.cancel();
        answers
    };
    let (answers, (), ()) = tokio::join!(client, server, dispatcher.run());
    settled(&depth, &metrics, &answers);
}
