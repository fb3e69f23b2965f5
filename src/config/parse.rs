//! One value each: text in, a value or what was expected instead. Pure.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{Ack, AllowedOrigins, LINES_ALLOWED_BYTES, LINES_PER_DECODED, ReceiptObject};
use crate::decode::{Readers, Record};
use crate::digest::Digest;
use crate::segment::{Compression, FRAME_MAX_BYTES};

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIMES: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// S3 takes no more than this in one PUT.
pub(super) const PUT_MAX_BYTES: usize = 5 << 30;
/// A frame's header has 32 bits for its length.
pub(super) const FRAME_LIMIT_BYTES: usize = u32::MAX as usize;
/// What cannot be compressed becomes larger by less than this share (deflate: 5 bytes in 16 KiB; zstd: 3 in 128 KiB), and by
/// less than this many bytes beside it.
const CODEC_SHARE: usize = 256;
const CODEC_BYTES: usize = 4096;
/// S3's keys end at 1,024 bytes; this leaves room for what follows the prefix.
const PREFIX_MAX_BYTES: usize = 900;
/// The same for every account of AWS.
const ACCOUNT_ID_DIGITS: usize = 12;
/// A shorter token can be guessed.
const TOKEN_MIN_BYTES: usize = 16;
/// A longer wait than this is a slip of the unit.
const MAX_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A whole number with one of `units` behind it, or with none for `bare`, in the smallest unit.
fn scaled(text: &str, units: &[(&str, u64)], bare: u64) -> Option<u64> {
    let (digits, factor) = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits.trim_end(), *factor)))
        .unwrap_or((text, bare));
    // `parse` alone would take a plus sign.
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse::<u64>().ok()?.checked_mul(factor)).flatten()
}

pub(super) fn positive_size(text: &str) -> Result<usize, String> {
    scaled(text, &SIZES, 1)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|bytes| (1..=isize::MAX as usize).contains(bytes))
        .ok_or_else(|| "a size in bytes above 0, such as 524288, 512KiB, 8MiB or 10GiB".to_owned())
}

pub(super) fn object_size(text: &str) -> Result<usize, String> {
    positive_size(text)
        .ok()
        .filter(|bytes| *bytes <= PUT_MAX_BYTES)
        .ok_or_else(|| "a size from 1 byte to 5GiB (the most that S3 takes in one PUT), such as 8MiB".to_owned())
}

/// How large the frame can be that fills an object, as stored: of one batch, if that is larger than a frame otherwise is.
pub(super) fn largest_frame(max_decoded_bytes: usize, max_queue_bytes: usize) -> usize {
    let batch = max_decoded_bytes.saturating_mul(LINES_PER_DECODED).max(LINES_ALLOWED_BYTES).min(max_queue_bytes);
    let lines = batch.max(FRAME_MAX_BYTES);
    lines.saturating_add(lines / CODEC_SHARE).saturating_add(CODEC_BYTES)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, &TIMES, 1_000)
        .map(Duration::from_millis)
        .filter(|time| *time <= MAX_TIME)
        .ok_or_else(|| "a time in seconds up to 7 days, or one such as 200ms, 60s, 5m or 1h".to_owned())
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err("a time above 0".to_owned()),
        other => other,
    }
}

pub(super) fn count(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    scaled(text, &[], 1)
        .and_then(|count| usize::try_from(count).ok())
        .filter(|count| range.contains(count))
        .ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
}

/// An account of AWS.
pub(super) fn account_id(text: &str) -> Result<String, String> {
    if text.len() == ACCOUNT_ID_DIGITS && text.bytes().all(|b| b.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err(format!("the {ACCOUNT_ID_DIGITS} digits of an AWS account's id, such as 111122223333"))
    }
}

pub(super) fn receipt_object(text: &str) -> Result<ReceiptObject, String> {
    match text {
        "key" => Ok(ReceiptObject::Key),
        "location" => Ok(ReceiptObject::Location),
        _ => Err("key or location".to_owned()),
    }
}

/// A share of something, in percent.
pub(super) fn percent(text: &str) -> Result<usize, String> {
    scaled(text.strip_suffix('%').unwrap_or_default(), &[], 1)
        .and_then(|percent| usize::try_from(percent).ok())
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| "a share from 1% to 100%".to_owned())
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an IP address and a port, such as 0.0.0.0:8080 or [::1]:8080".to_owned())
}

/// Addresses and networks between commas or spaces. An address is the network of itself alone.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |part: &str| part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)).ok();
    text.split([',', ' ', '\t'])
        .filter(|part| !part.is_empty())
        .map(network)
        .collect::<Option<_>>()
        .ok_or_else(|| "IP addresses and networks between commas, such as 10.0.0.0/8,192.0.2.1,fd00::/8".to_owned())
}

/// Origins between commas or spaces, as browsers send them, or `*`.
pub(super) fn origins(text: &str) -> Result<AllowedOrigins, String> {
    let is_origin = |origin: &str| {
        let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        authority.is_some_and(|a| !a.is_empty() && a.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@*".contains(&b)))
    };
    let parts: Vec<_> = text.split([',', ' ', '\t']).filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["*"] => Ok(AllowedOrigins::Any),
        parts if parts.iter().all(|part| is_origin(part)) => {
            // Browsers leave default ports out.
            let written = |origin: &str| {
                let port = if origin.starts_with("https://") { ":443" } else { ":80" };
                origin.strip_suffix(port).unwrap_or(origin).to_owned()
            };
            Ok(AllowedOrigins::Only(parts.iter().map(|part| written(part)).collect()))
        }
        _ => {
            Err("*, or origins between commas without a path, such as https://a.example,http://localhost:3000"
                .to_owned())
        }
    }
}

/// How many at most; none is no limit.
pub(super) fn limit(text: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, String> {
    match text {
        "off" | "0" => Ok(None),
        _ => count(text, range).map(Some).map_err(|expected| format!("{expected}, or off")),
    }
}

/// A token that can stand in a header, and is not known again once it is read.
pub(super) fn token(text: &str) -> Result<Digest, String> {
    if text.len() >= TOKEN_MIN_BYTES && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(Digest::of(text.as_bytes()))
    } else {
        Err(format!("at least {TOKEN_MIN_BYTES} letters, digits and signs of ASCII, without spaces"))
    }
}

/// Whether two listeners would ask for the same port of the same address.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// Whether two paths are the same but for how they are written.
pub(super) fn same_folder(a: &Path, b: &Path) -> bool {
    let plain = |path: &Path| path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
    plain(a) == plain(b)
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') { Err("a path without a NUL byte".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// The naming rules of general purpose buckets, as far as shape goes.
pub(super) fn bucket(text: &str) -> Result<String, String> {
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let bytes = text.as_bytes();
    let good = (3..=63).contains(&bytes.len())
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| inside(*b))
        && !text.contains("..");
    if good {
        Ok(text.to_owned())
    } else {
        Err("a bucket's name: 3 to 63 lower-case letters, digits, hyphens and dots, no s3:// and no path".to_owned())
    }
}

/// A path of plain segments; a slash at either end is taken off.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!-_.*'()=/".contains(&b);
    let trimmed = text.trim_matches('/');
    let segments = || trimmed.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..");
    let good = trimmed.len() <= PREFIX_MAX_BYTES && trimmed.bytes().all(plain) && (trimmed.is_empty() || segments());
    if good {
        Ok(trimmed.to_owned())
    } else {
        Err("a path such as telemetry/eu, of letters, digits and !-_.*'()= between single slashes".to_owned())
    }
}

pub(super) fn region(text: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.len() <= 64 && text.bytes().all(plain) {
        Ok(())
    } else {
        Err("a region's name, such as eu-central-1".to_owned())
    }
}

pub(super) fn endpoint(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && text.parse::<hyper::Uri>().is_ok() => Ok(()),
        _ => Err("a URL such as https://s3.example.net or http://127.0.0.1:9000".to_owned()),
    }
}

pub(super) fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "none" => Ok(Compression::None),
        _ => Err("gzip, zstd or none".to_owned()),
    }
}

pub(super) fn readers(text: &str) -> Result<Readers, String> {
    match text {
        "strict" => Ok(Readers::Strict),
        "any" => Ok(Readers::Any),
        _ => Err("strict or any".to_owned()),
    }
}

pub(super) fn record(text: &str) -> Result<Record, String> {
    match text {
        "envelope" => Ok(Record::Envelope),
        "payload" => Ok(Record::Payload),
        _ => Err("envelope or payload".to_owned()),
    }
}

pub(super) fn ack(text: &str) -> Result<Ack, String> {
    text.parse().map_err(|()| "memory, disk or stored".to_owned())
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

pub(super) fn log_filter(text: &str) -> Result<Targets, String> {
    let filter: Targets =
        text.parse().map_err(|_| "a level such as info, or levels by target such as info,millpond=debug".to_owned())?;
    // They warn of what a sender does, line by line: a flood of it is not to become a flood of the log.
    Ok(["h2", "rustls"].into_iter().filter(|name| !text.contains(name)).fold(filter, |filter, name| {
        let level = filter.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::ERROR);
        filter.with_target(name, level)
    }))
}

pub(super) fn log_format(text: &str) -> Result<bool, String> {
    match text {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err("text or json".to_owned()),
    }
}
