//! Numbered payloads: run, client and sequence determine the exact bytes, so that what is read back can be compared byte
//! for byte with what was sent, and nothing has to be kept.
//!
//! ```text
//! {"run":"9f3a01c2", "client":17,"sequence":123456,"ts":1790000123456,"device":"probe-03f2",
//!  "site":"Malm\u00f6 \"N\"","ok":true,"temp":21.50,"scale":1.3e3,"volts":[3.301,3.299],
//!  "pos":{"lat":55.6049,"lon":13.0038,"fix":null},"note":"…","samples":[…],"trace":"5f2c…"}
//! ```
//!
//! Numbers keep their trailing zeros and exponents, strings have escapes and raw UTF-8, and there is white space
//! between some tokens: a server that parses and prints them again changes them.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The default size of a payload, in bytes.
pub const DEFAULT_SIZE: usize = 290;

/// Names of places as a JSON document writes them between its quotes: escapes, raw UTF-8, and both.
const SITES: [&str; 8] = [
    r#"Malm\u00f6 \"N\""#,
    "Kraków/Płaszów",
    r"shelf\\4\tleft",
    "東京-2",
    "dock 7",
    r"caf\u00e9 \ud83d\ude00",
    "Ærø",
    r"line one\nline two",
];

const NOTES: [&str; 4] = ["nominal", "door open, fan at 40 %", "recalibrated <&>", "pressure rising"];

/// The number of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number {
    /// The simulated client, from 0.
    pub client: u32,
    /// The number among the payloads of that client, from 0.
    pub sequence: u64,
}

/// All payloads of one run: they share its id and the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payloads {
    run: u32,
    size: usize,
}

/// What the bytes of a payload say about themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// It has this number and exactly the bytes that were sent with it.
    Intact(Number),
    /// It is of this run and differs from what was sent.
    Altered,
    /// It is of another run.
    OtherRun,
    /// It is not of loadtest.
    Unknown,
}

impl Payloads {
    /// The payloads of the run `run`, each of `size` bytes, or a little over where the size is too small for the
    /// numbers (some 90 bytes).
    pub fn new(run: u32, size: usize) -> Self {
        Self { run, size }
    }

    /// Appends the bytes of one payload to `out`.
    pub fn write(&self, number: Number, out: &mut Vec<u8>) {
        let start = out.len();
        let mut noise = Noise::of(self.run, number);
        out.extend_from_slice(b"{\"run\":\"");
        hex(self.run.into(), 8, out);
        out.extend_from_slice(b"\", \"client\":");
        decimal(number.client.into(), out);
        out.extend_from_slice(b",\"sequence\":");
        decimal(number.sequence, out);
        // The fields below need up to 225 bytes; a payload that has no room for them is its number and its trace.
        if self.size >= 286 {
            fields(&mut noise, number, out);
        }
        // Large payloads are long series of readings, as large telemetry is.
        if self.size > out.len() - start + 64 {
            out.extend_from_slice(b",\"samples\":[");
            let mut reading = 2_000 + noise.below(500);
            while self.size > out.len() - start + 40 {
                reading = (reading + noise.below(21) - 10).max(500);
                fixed(reading, 2, out);
                out.push(b',');
            }
            fixed(reading, 2, out);
            out.push(b']');
        }
        out.extend_from_slice(b",\"trace\":\"");
        let mut left = self.size.saturating_sub(out.len() - start + 2);
        while left > 0 {
            let digits = left.min(16);
            hex(noise.next(), digits, out);
            left -= digits;
        }
        out.extend_from_slice(b"\"}");
    }

    /// Says which payload these bytes are, and whether they are as they were sent. `scratch` is a buffer to use again.
    pub fn identify(&self, payload: &[u8], scratch: &mut Vec<u8>) -> Identity {
        let Ok(named) = serde_json::from_slice::<Named<'_>>(payload) else { return Identity::Unknown };
        let Ok(run) = u32::from_str_radix(named.run, 16) else { return Identity::Unknown };
        if run != self.run {
            return Identity::OtherRun;
        }
        let number = Number { client: named.client, sequence: named.sequence };
        scratch.clear();
        self.write(number, scratch);
        if scratch == payload { Identity::Intact(number) } else { Identity::Altered }
    }
}

#[derive(Deserialize)]
struct Named<'a> {
    run: &'a str,
    client: u32,
    sequence: u64,
}

fn fields(noise: &mut Noise, number: Number, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"ts\":");
    decimal(1_790_000_000_000 + number.sequence * 250 + noise.below(250), out);
    out.extend_from_slice(b",\"device\":\"probe-");
    hex((u64::from(number.client) * 0x9e37) & 0xffff, 4, out);
    out.extend_from_slice(b"\",\"site\":\"");
    out.extend_from_slice(pick(&SITES, number.client.into()).as_bytes());
    out.extend_from_slice(if noise.below(16) == 0 { b"\",\"ok\":false" } else { b"\",\"ok\":true" });
    out.extend_from_slice(b",\"temp\":");
    // Tenths with a zero after them: 21.50 and 21.5 are the same number and not the same bytes.
    fixed((180 + noise.below(90)) * 10, 2, out);
    out.extend_from_slice(b",\"scale\":1.");
    decimal(noise.below(10), out);
    out.extend_from_slice(b"e3,\"volts\":[");
    fixed(3_280 + noise.below(40), 3, out);
    out.extend_from_slice(b", ");
    fixed(11_900 + noise.below(200), 3, out);
    out.extend_from_slice(b"],\"pos\":{\"lat\":");
    fixed(556_000 + noise.below(999), 4, out);
    out.extend_from_slice(b",\"lon\":-");
    fixed(130_000 + noise.below(999), 4, out);
    out.extend_from_slice(b",\"fix\":null},\"note\":\"");
    out.extend_from_slice(pick(&NOTES, noise.below(32).saturating_sub(28)).as_bytes());
    out.push(b'"');
}

fn pick<'a>(from: &[&'a str], at: u64) -> &'a str {
    let at = usize::try_from(at).unwrap_or(0) % from.len();
    from.get(at).copied().unwrap_or_default()
}

/// SplitMix64 (Steele, Lea and Flood, 2014) seeded with the number: cheap, and well spread for neighbouring seeds.
struct Noise(u64);

impl Noise {
    fn of(run: u32, number: Number) -> Self {
        let seed = u64::from(run) << 32 | u64::from(number.client);
        Self(seed.wrapping_mul(0xa076_1d64_78bd_642f) ^ number.sequence.wrapping_mul(0xe703_7ed1_a0b4_28db))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn decimal(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `value` with its last `places` digits behind the point.
fn fixed(value: u64, places: usize, out: &mut Vec<u8>) {
    let scale = 10_u64.pow(places as u32);
    decimal(value / scale, out);
    out.push(b'.');
    let mut unit = scale / 10;
    while unit > 0 {
        out.push(b'0' + (value / unit % 10) as u8);
        unit /= 10;
    }
}

/// The lowest `digits` hexadecimal digits of `value`, at most 16.
fn hex(value: u64, digits: usize, out: &mut Vec<u8>) {
    for at in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * at) & 0xf) as usize]);
    }
}

/// The bytes of the payload within a stored line: the `payload` field of a record, or the line itself.
///
/// `None` where the line is no JSON object.
pub fn of_line(line: &[u8]) -> Option<&[u8]> {
    #[derive(Deserialize)]
    struct Record<'a> {
        #[serde(borrow)]
        payload: Option<&'a RawValue>,
    }
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    Some(record.payload.map_or(line, |payload| payload.get().as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn bytes(size: usize, client: u32, sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        Payloads::new(0xc0ffee, size).write(Number { client, sequence }, &mut out);
        out
    }

    #[test]
    fn every_payload_is_one_json_object_on_one_line_of_the_given_size() {
        for size in [100, 140, 286, 290, 291, 330, 331, 400, 1_000, 100_000] {
            for (client, sequence) in (0..20).flat_map(|client| [0, 1, 999_999, 123_456_789].map(|n| (client, n))) {
                let payload = bytes(size, client, sequence);
                let value: Value = serde_json::from_slice(&payload).unwrap();
                assert!(value["sequence"] == sequence && !payload.contains(&b'\n'), "{value}");
                assert!(payload.len().abs_diff(size) <= 12, "{} bytes of {size}: {value}", payload.len());
            }
        }
    }

    #[test]
    fn the_number_alone_decides_the_bytes_and_no_two_are_alike() {
        assert_eq!(bytes(290, 3, 7), bytes(290, 3, 7));
        let all: HashSet<_> = (0..10).flat_map(|e| (0..1_000).map(move |s| bytes(290, e, s))).collect();
        assert_eq!(all.len(), 10_000);
    }

    #[test]
    fn a_payload_is_identified_and_an_altered_or_reprinted_one_is_noticed() {
        let payloads = Payloads::new(0xc0ffee, 290);
        let number = Number { client: 4, sequence: 99 };
        let identify = |payloads: Payloads, payload: &[u8]| payloads.identify(payload, &mut Vec::new());
        let mut payload = bytes(290, 4, 99);
        assert_eq!(identify(payloads, &payload), Identity::Intact(number));
        assert_eq!(identify(Payloads::new(1, 290), &payload), Identity::OtherRun);
        for unknown in [b"{\"a\":1}", &payload[..50]] {
            assert_eq!(identify(payloads, unknown), Identity::Unknown);
        }
        let reprinted = serde_json::from_slice::<Value>(&payload).unwrap().to_string();
        assert_eq!(identify(payloads, reprinted.as_bytes()), Identity::Altered);
        let last = payload.len() - 3;
        payload[last] = if payload[last] == b'0' { b'1' } else { b'0' };
        assert_eq!(identify(payloads, &payload), Identity::Altered);
        let text = String::from_utf8((0..8).flat_map(|e| bytes(290, e, 5)).collect()).unwrap();
        for piece in [r#"\""#, r"\u00f6", "東京", "0,\"scale\":1.", "e3", ", "] {
            assert!(text.contains(piece), "{piece} in {text}");
        }
    }

    #[test]
    fn it_compresses_like_telemetry_and_not_like_noise_or_zeros() {
        let all: Vec<u8> = (0..1_000).flat_map(|s| bytes(290, (s % 200) as u32, s)).collect();
        let ratio = all.len() as f64 / zstd::bulk::compress(&all, 1).unwrap().len() as f64;
        assert!((3.0..10.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn the_payload_is_cut_out_of_its_line_exactly() {
        let line = br#"{"received_at":"x","payload":{"a": 1.50,"b":"\u00e9"}}"#;
        assert_eq!(of_line(line), Some(&br#"{"a": 1.50,"b":"\u00e9"}"#[..]));
        assert_eq!(of_line(br#"{"a":1}"#), Some(&br#"{"a":1}"#[..]));
        assert_eq!((of_line(b"[1]x"), of_line(br#"{"a":"#)), (None, None));
    }
}
