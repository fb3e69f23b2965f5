//! Payloads into the body of one request.

use std::fmt;

use anyhow::Context;
use clap::ValueEnum;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use serde::Deserialize;

use crate::payload::{Number, Payloads};

/// How the payloads of a request are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// The content type that goes with it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Envelope | Self::Array => "application/json",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// How the body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As it is.
    #[default]
    Identity,
    /// As one gzip member.
    Gzip,
}

/// Writes bodies, reusing its buffers.
pub struct Batch {
    payloads: Payloads,
    form: Form,
    opening: Vec<u8>,
    gzip: Option<Gzip>,
    plain: Vec<u8>,
}

struct Gzip {
    deflate: Compress,
}

impl Batch {
    /// A writer of bodies in this form and encoding; the token goes into envelopes.
    pub fn new(payloads: Payloads, form: Form, encoding: Encoding, token: &str) -> Self {
        let token = serde_json::Value::from(token);
        let opening = match form {
            Form::Envelope => format!("{{\"version\":\"1\",\"token\":{token},\"data\":[").into_bytes(),
            Form::Array => b"[".to_vec(),
            Form::Ndjson => Vec::new(),
        };
        let gzip = (encoding == Encoding::Gzip).then(|| Gzip { deflate: Compress::new(Compression::fast(), false) });
        Self { payloads, form, opening, gzip, plain: Vec::new() }
    }

    /// Appends the body with `count` payloads from `first` on to `out`.
    ///
    /// # Errors
    ///
    /// The compressor failed, which it does not on bytes in memory.
    pub fn write(&mut self, first: Number, count: usize, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let Some(mut gzip) = self.gzip.take() else {
            self.write_plain(first, count, out);
            return Ok(());
        };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        self.write_plain(first, count, &mut plain);
        let done = gzip.write(&plain, out);
        self.plain = plain;
        self.gzip = Some(gzip);
        done
    }

    fn write_plain(&self, first: Number, count: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.opening);
        for sequence in first.sequence..first.sequence + count as u64 {
            self.payloads.write(Number { sequence, ..first }, out);
            out.push(if self.form == Form::Ndjson { b'\n' } else { b',' });
        }
        match self.form {
            Form::Envelope => replace_comma(out, b"]}"),
            Form::Array => replace_comma(out, b"]"),
            Form::Ndjson => {}
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("payloads", &self.payloads).field("form", &self.form).finish_non_exhaustive()
    }
}

impl Gzip {
    /// One gzip member (RFC 1952) written by hand, since flate2's own encoder cannot be used again.
    fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
        out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
        self.deflate.reset();
        let mut taken = 0;
        loop {
            out.reserve(plain.len() / 2 + 128);
            let status = self
                .deflate
                .compress_vec(&plain[taken..], out, FlushCompress::Finish)
                .context("compressing a request's body")?;
            taken = usize::try_from(self.deflate.total_in())?;
            if status == Status::StreamEnd {
                break;
            }
        }
        let mut crc = Crc::new();
        crc.update(plain);
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend_from_slice(&crc.amount().to_le_bytes());
        Ok(())
    }
}

fn replace_comma(out: &mut Vec<u8>, closing: &[u8]) {
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.extend_from_slice(closing);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use serde_json::Value;

    use super::*;

    const FIRST: Number = Number { endpoint: 2, sequence: 40 };

    fn body(form: Form, encoding: Encoding) -> Vec<u8> {
        let mut out = Vec::new();
        let mut batch = Batch::new(Payloads::new(7, 290), form, encoding, "t\"1");
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
    fn a_gzip_body_unpacks_to_the_plain_one() {
        for form in [Form::Envelope, Form::Array, Form::Ndjson] {
            let mut unpacked = Vec::new();
            GzDecoder::new(&body(form, Encoding::Gzip)[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, body(form, Encoding::Identity));
        }
    }
}
