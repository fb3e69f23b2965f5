//! Payloads into the body of one request.

use std::fmt;

use anyhow::Context;
use clap::ValueEnum;
use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::bulk::Compressor;

use crate::payload::{Number, Payloads};

/// zstd's level: as fast as a client would have it.
const ZSTD_LEVEL: i32 = 1;

/// How the payloads of a request are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Form {
    /// `{"version":"1","token":"…","data":[…]}`
    #[default]
    Envelope,
    /// `[…]`
    Array,
    /// One payload a line.
    Ndjson,
}

impl Form {
    /// Its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Envelope | Self::Array => "application/json",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// The content encoding of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Encoding {
    /// Not encoded.
    #[default]
    Identity,
    /// One gzip member.
    Gzip,
    /// One zstd frame.
    Zstd,
}

impl Encoding {
    /// The value of `Content-Encoding`, if there is one.
    pub fn header(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// Writes bodies, and uses its buffers again.
pub struct Batch {
    payloads: Payloads,
    form: Form,
    opening: Vec<u8>,
    encoder: Encoder,
    plain: Vec<u8>,
}

enum Encoder {
    Identity,
    // flate2's own encoder of gzip cannot be used again.
    Gzip(Compress),
    Zstd(Compressor<'static>),
}

impl Batch {
    /// A writer of bodies in this form and encoding; the token goes into envelopes.
    /// Errors: there is no compressor.
    pub fn new(payloads: Payloads, form: Form, encoding: Encoding, token: &str) -> anyhow::Result<Self> {
        let token = serde_json::Value::from(token);
        let opening = match form {
            Form::Envelope => format!("{{\"version\":\"1\",\"token\":{token},\"data\":[").into_bytes(),
            Form::Array => b"[".to_vec(),
            Form::Ndjson => Vec::new(),
        };
        let encoder = match encoding {
            Encoding::Identity => Encoder::Identity,
            Encoding::Gzip => Encoder::Gzip(Compress::new_gzip(Compression::fast(), 15)),
            Encoding::Zstd => Encoder::Zstd(Compressor::new(ZSTD_LEVEL)?),
        };
        Ok(Self { payloads, form, opening, encoder, plain: Vec::new() })
    }

    /// Appends the body with `count` payloads from `first` on to `out`.
    /// Errors: the compressor failed, which it does not on bytes in memory.
    pub fn write(&mut self, first: Number, count: usize, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        match &mut self.encoder {
            Encoder::Identity => self.write_plain(first, count, out),
            Encoder::Gzip(_) | Encoder::Zstd(_) => self.write_plain(first, count, &mut plain),
        }
        match &mut self.encoder {
            Encoder::Identity => {}
            Encoder::Gzip(gzip) => compress(gzip, &plain, out)?,
            Encoder::Zstd(zstd) => out.extend_from_slice(&zstd.compress(&plain)?),
        }
        self.plain = plain;
        Ok(())
    }

    fn write_plain(&self, first: Number, count: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.opening);
        for sequence in first.sequence..first.sequence + count as u64 {
            self.payloads.write(Number { sequence, ..first }, out);
            out.push(if self.form == Form::Ndjson { b'\n' } else { b',' });
        }
        let closing: &[u8] = match self.form {
            Form::Envelope => b"]}",
            Form::Array => b"]",
            Form::Ndjson => return,
        };
        if count > 0 {
            // The last comma.
            out.pop();
        }
        out.extend_from_slice(closing);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("payloads", &self.payloads).field("form", &self.form).finish_non_exhaustive()
    }
}

fn compress(gzip: &mut Compress, plain: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
    gzip.reset();
    loop {
        out.reserve(plain.len() / 2 + 128);
        let taken = usize::try_from(gzip.total_in())?;
        let status = gzip.compress_vec(&plain[taken..], out, FlushCompress::Finish);
        if status.context("compressing a request's body")? == Status::StreamEnd {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use serde_json::Value;

    use super::*;

    const FIRST: Number = Number { client: 2, sequence: 40 };

    fn body(form: Form, encoding: Encoding) -> Vec<u8> {
        let mut out = Vec::new();
        let mut batch = Batch::new(Payloads::new(7, 290), form, encoding, "t\"1").unwrap();
        // Twice, since the buffers and the compressor are used again.
        batch.write(FIRST, 1, &mut Vec::new()).unwrap();
        batch.write(FIRST, 3, &mut out).unwrap();
        out
    }

    #[test]
    fn each_form_holds_the_payloads_in_order() {
        let envelope: Value = serde_json::from_slice(&body(Form::Envelope, Encoding::Identity)).unwrap();
        assert_eq!(envelope["token"], "t\"1");
        let array: Value = serde_json::from_slice(&body(Form::Array, Encoding::Identity)).unwrap();
        assert_eq!(envelope["data"], array);
        let sequences: Vec<_> = array.as_array().unwrap().iter().map(|p| p["sequence"].as_u64().unwrap()).collect();
        assert_eq!(sequences, [40, 41, 42]);
        let ndjson = String::from_utf8(body(Form::Ndjson, Encoding::Identity)).unwrap();
        let lines: Vec<Value> = ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(Value::from(lines), array);
    }

    #[test]
    fn an_encoded_body_unpacks_to_the_plain_one() {
        for form in [Form::Envelope, Form::Array, Form::Ndjson] {
            let plain = body(form, Encoding::Identity);
            let mut unpacked = Vec::new();
            GzDecoder::new(&body(form, Encoding::Gzip)[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, plain);
            assert_eq!(zstd::decode_all(&body(form, Encoding::Zstd)[..]).unwrap(), plain);
        }
    }
}
