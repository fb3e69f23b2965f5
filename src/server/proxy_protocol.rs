//! The header of the PROXY protocol, versions 1 and 2, with which a proxy names the client of a connection.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>. It is read only from proxies that are configured to send
//! it, and is required there: a receiver that detected it would let every client choose its own address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str;

use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The signature of version 2. No line of text begins with it.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and the length of the rest in two bytes.
const V2_FIXED_BYTES: usize = 16;
/// The longest line of version 1, with its CR LF.
const V1_MAX_BYTES: usize = 107;
/// Addresses take 52 bytes. The fields that may follow them are ignored.
const MAX_BYTES: usize = 4096;

/// A header and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    bytes: usize,
    /// The client; none for a connection of the proxy itself, such as a health check.
    source: Option<IpAddr>,
}

/// Why no header could be read.
#[derive(Debug, Error)]
pub(super) enum HeaderError {
    /// The bytes are not a valid header.
    #[error("{0}")]
    Malformed(&'static str),
    /// The connection failed or was closed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header and nothing after it. Returns the client, if the connection is not the proxy's own.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<IpAddr>, HeaderError> {
    let mut buffer = vec![0; MAX_BYTES];
    let mut have = 0;
    loop {
        let free = buffer.get_mut(have..).filter(|free| !free.is_empty()).ok_or(HeaderError::Malformed("too long"))?;
        let seen = stream.peek(free).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let header = parse(buffer.get(..have + seen).unwrap_or_default()).map_err(HeaderError::Malformed)?;
        // An incomplete header is consumed, so that the next peek waits for more bytes.
        let whole = header.map_or(have + seen, |header| header.bytes);
        if let Some(part) = buffer.get_mut(have..whole) {
            stream.read_exact(part).await?;
        }
        have = whole;
        if let Some(header) = header {
            return Ok(header.source);
        }
    }
}

/// Parses the header at the start of `bytes`. Returns `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    if bytes.starts_with(V2_SIGNATURE) {
        v2(bytes)
    } else if V2_SIGNATURE.starts_with(bytes) {
        Ok(None)
    } else {
        v1(bytes)
    }
}

fn v1(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    const START: &[u8] = b"PROXY ";
    if !bytes.starts_with(START) {
        return if START.starts_with(bytes) { Ok(None) } else { Err("no PROXY header") };
    }
    let line = bytes.get(..V1_MAX_BYTES).unwrap_or(bytes);
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= V1_MAX_BYTES { Err("the line of version 1 does not end") } else { Ok(None) };
    };
    let text = line.get(START.len()..end).and_then(|text| str::from_utf8(text).ok());
    let mut words = text.ok_or("not text")?.split(' ');
    let source = match words.next() {
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => {
            let address = |word: Option<&str>| match family {
                "TCP4" => word?.parse::<Ipv4Addr>().ok().map(IpAddr::from),
                _ => word?.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            };
            let port = |word: Option<&str>| word?.parse::<u16>().ok();
            let addresses = (address(words.next()), address(words.next()));
            let (ports, rest) = ((port(words.next()), port(words.next())), words.next());
            let ((Some(source), Some(_)), (Some(_), Some(_)), None) = (addresses, ports, rest) else {
                return Err("invalid addresses in version 1");
            };
            Some(source)
        }
        _ => return Err("an unknown family in version 1"),
    };
    Ok(Some(Header { bytes: end + 2, source }))
}

fn v2(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let Some(&[command, family, high, low]) = bytes.get(V2_SIGNATURE.len()..V2_FIXED_BYTES) else { return Ok(None) };
    let whole = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if whole > MAX_BYTES {
        return Err("too long");
    }
    // LOCAL, or PROXY.
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err("an unknown version or command"),
    };
    let Some(addresses) = bytes.get(V2_FIXED_BYTES..whole) else { return Ok(None) };
    let source = match family {
        _ if is_local => None,
        // TCP over IPv4 and IPv6: source and destination, then their ports.
        0x11 => {
            Some(addresses.first_chunk::<12>().and_then(|both| both.first_chunk()).map(|v4: &[u8; 4]| (*v4).into()))
        }
        0x21 => {
            Some(addresses.first_chunk::<36>().and_then(|both| both.first_chunk()).map(|v6: &[u8; 16]| (*v6).into()))
        }
        // Unspecified, datagrams and Unix sockets have no address that limits could count.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err("an unknown family in version 2"),
    };
    match source {
        Some(None) => Err("version 2 is too short for its addresses"),
        source => Ok(Some(Header { bytes: whole, source: source.flatten() })),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family][..], &length, rest].concat()
    }

    fn source(bytes: &[u8]) -> Option<String> {
        let header = parse(bytes).unwrap().expect("a whole header");
        assert_eq!(header.bytes, bytes.len());
        header.source.map(|source| source.to_string())
    }

    #[test]
    fn both_versions_name_the_client() {
        let of = |source: &str| Some(source.to_owned());
        assert_eq!(source(b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n"), of("192.0.2.7"));
        assert_eq!(source(b"PROXY TCP6 2001:db8::7 ::1 56324 443\r\n"), of("2001:db8::7"));
        assert_eq!(source(&binary(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 1, 2, 3, 4])), of("192.0.2.7"));
        let with_more = [&[0x20, 1, 0x0d, 0xb8], &[0; 32][..], b"\x04\0\x03abc"].concat();
        assert_eq!(source(&binary(0x21, 0x21, &with_more)), of("2001:db8::"));
    }

    #[test]
    fn a_connection_of_the_proxy_itself_or_without_addresses_names_no_client() {
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), None);
        assert_eq!(source(&binary(0x20, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 1, 2, 3, 4])), None);
        assert_eq!(source(&binary(0x20, 0x00, &[])), None);
        assert_eq!(source(&binary(0x21, 0x31, &[0; 216])), None);
    }

    #[test]
    fn malformed_headers_are_rejected_as_soon_as_they_can_be() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; V1_MAX_BYTES]].concat();
        for bad in [
            &b"G"[..],
            b"POST / HTTP/1.1\r\n",
            b"\x16\x03\x01",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"PROXY TCP5 192.0.2.7 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 65536\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.7\n10.0.0.1 1 2\r\n",
            b"PROXY \xff\r\n",
            &long,
            &binary(0x31, 0x11, &[0; 12]),
            &binary(0x22, 0x11, &[0; 12]),
            &binary(0x21, 0x13, &[0; 12]),
            &binary(0x21, 0x11, &[0; 11]),
            &binary(0x21, 0x21, &[0; 35]),
            &binary(0x21, 0x11, &[0; MAX_BYTES]),
        ] {
            parse(bad).expect_err(&bad.escape_ascii().to_string());
        }
    }

    fn any_header() -> impl Strategy<Value = (Vec<u8>, Option<IpAddr>)> {
        let more = proptest::collection::vec(any::<u8>(), 0..64);
        let ports = any::<(u16, u16)>();
        prop_oneof![
            (any::<[u8; 8]>(), ports, more.clone()).prop_map(|(both, (a, b), more)| {
                let source = Ipv4Addr::from(*both.first_chunk().unwrap());
                let rest = [&both[..], &a.to_be_bytes(), &b.to_be_bytes(), &more].concat();
                (binary(0x21, 0x11, &rest), Some(source.into()))
            }),
            (any::<[u8; 32]>(), ports, more).prop_map(|(both, (a, b), more)| {
                let source = Ipv6Addr::from(*both.first_chunk().unwrap());
                let rest = [&both[..], &a.to_be_bytes(), &b.to_be_bytes(), &more].concat();
                (binary(0x21, 0x21, &rest), Some(source.into()))
            }),
            (any::<(Ipv4Addr, Ipv4Addr)>(), ports)
                .prop_map(|((s, d), (a, b))| (format!("PROXY TCP4 {s} {d} {a} {b}\r\n").into_bytes(), Some(s.into()))),
            (any::<(Ipv6Addr, Ipv6Addr)>(), ports)
                .prop_map(|((s, d), (a, b))| (format!("PROXY TCP6 {s} {d} {a} {b}\r\n").into_bytes(), Some(s.into()))),
        ]
    }

    proptest! {
        #[test]
        fn an_incomplete_header_is_waited_for_and_nothing_after_it_is_read(
            (header, source) in any_header(),
            after in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            for end in 0..header.len() {
                prop_assert_eq!(parse(&header[..end]), Ok(None));
            }
            let bytes = header.len();
            prop_assert_eq!(parse(&[header, after].concat()), Ok(Some(Header { bytes, source })));
        }

        #[test]
        fn any_bytes_are_a_header_within_their_length_or_an_error(
            start in prop_oneof![
                Just(&b""[..]),
                Just(&b"PROXY "[..]),
                Just(&b"PROXY TCP4 1"[..]),
                Just(&V2_SIGNATURE[..]),
                Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..]),
            ],
            rest in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let bytes = [start, &rest].concat();
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.bytes <= bytes.len());
            }
        }
    }
}
