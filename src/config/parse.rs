//! One value each: text in; a value, or what was expected instead, out. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{Ack, AllowedOrigins, LINES_ALLOWED_BYTES, LINES_PER_DECODED, typos};
use crate::digest::Digest;
use crate::segment::FRAME_MAX_BYTES;

/// The longest path of a Unix socket, in bytes (`sun_path`).
pub(crate) const SOCKET_PATH_MAX_BYTES: usize = 107;
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIMES: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// The limit of S3 for one PUT.
pub(super) const PUT_MAX_BYTES: usize = 5 << 30;
/// The length in a frame's header has 32 bits.
pub(super) const FRAME_LIMIT_BYTES: usize = u32::MAX as usize;
/// Incompressible data grows by less than this share (deflate: 5 bytes in 16 KiB; zstd: 3 in 128 KiB), plus
/// [`CODEC_OVERHEAD_BYTES`].
const CODEC_GROWTH: usize = 256;
const CODEC_OVERHEAD_BYTES: usize = 4096;
/// A key of S3 has at most 1,024 bytes. The rest is for what follows the prefix.
const PREFIX_MAX_BYTES: usize = 900;
const ACCOUNT_ID_DIGITS: usize = 12;
/// A shorter token can be guessed.
const TOKEN_MIN_BYTES: usize = 16;
/// The longest name in the DNS.
const HOST_MAX_BYTES: usize = 253;
/// Leaves room in a datagram for the longest name of a metric and its labels.
const STATSD_PREFIX_MAX_BYTES: usize = 128;
/// The metrics are sampled once a second.
const STATSD_MIN_INTERVAL: Duration = Duration::from_secs(1);
/// A longer time is probably in the wrong unit.
const MAX_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A whole number with one of `units`, or without one in units of `default_unit`. The result is in the smallest unit.
fn scaled(text: &str, units: &[(&str, u64)], default_unit: u64) -> Option<u64> {
    let (digits, factor) = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits.trim_end(), *factor)))
        .unwrap_or((text, default_unit));
    // `parse` alone accepts a plus sign.
    let is_number = digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse::<u64>().ok()?.checked_mul(factor)).flatten()
}

/// One of a few names.
pub(super) fn one_of<T: Copy, const N: usize>(values: [(&'static str, T); N]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
            let names = values.map(|(name, _)| name);
            let (last, others) = names.split_last().unwrap_or((&"", &[]));
            format!("{} or {last}", others.join(", "))
        })
    }
}

/// The parts of a list that is separated by commas or spaces.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t']).filter(|part| !part.is_empty())
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
        .ok_or_else(|| "a size from 1 byte to 5GiB (the limit of S3 for one PUT), such as 8MiB".to_owned())
}

/// The largest frame, compressed. It holds one batch if the batch is larger than a frame usually is.
pub(super) fn largest_frame(max_decoded_bytes: usize, max_queue_bytes: usize) -> usize {
    let batch = max_decoded_bytes.saturating_mul(LINES_PER_DECODED).max(LINES_ALLOWED_BYTES).min(max_queue_bytes);
    let lines = batch.max(FRAME_MAX_BYTES);
    lines.saturating_add(lines / CODEC_GROWTH).saturating_add(CODEC_OVERHEAD_BYTES)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, &TIMES, 1_000)
        .map(Duration::from_millis)
        .filter(|time| *time <= MAX_TIME)
        .ok_or_else(|| "a time of at most 7 days, in seconds or with a unit, such as 200ms, 60s, 5m or 1h".to_owned())
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err("a time above 0".to_owned()),
        other => other,
    }
}

fn in_range(text: &str, range: &RangeInclusive<usize>) -> Option<usize> {
    scaled(text, &[], 1).and_then(|count| usize::try_from(count).ok()).filter(|count| range.contains(count))
}

pub(super) fn count(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        in_range(text, &range).ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

/// An upper limit; `None` for no limit.
pub(super) fn limit(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<Option<usize>, String> {
    let count = count(range);
    move |text| match text {
        "off" | "0" => Ok(None),
        _ => count(text).map(Some).map_err(|expected| format!("{expected}, or off")),
    }
}

pub(super) fn account_id(text: &str) -> Result<String, String> {
    if text.len() == ACCOUNT_ID_DIGITS && text.bytes().all(|b| b.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err(format!("the id of an AWS account, which has {ACCOUNT_ID_DIGITS} digits, such as 111122223333"))
    }
}

pub(super) fn percent(text: &str) -> Result<usize, String> {
    let number = text.strip_suffix('%').unwrap_or_default();
    in_range(number, &(1..=100)).ok_or_else(|| "a percentage from 1% to 100%".to_owned())
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an IP address and a port, such as 0.0.0.0:8080 or [::1]:8080".to_owned())
}

/// A host, by name or address, and a port. A name is not resolved.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let is_name = |host: &str| {
        let is_part =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        host.len() <= HOST_MAX_BYTES && host.strip_suffix('.').unwrap_or(host).split('.').all(is_part)
    };
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    if is_host && in_range(port, &(1..=usize::from(u16::MAX))).is_some() {
        Ok(text.to_owned())
    } else {
        Err("a host and a port, such as 127.0.0.1:8125, [::1]:8125 or statsd.example.net:8125".to_owned())
    }
}

/// Parts of a name, separated by dots.
pub(super) fn statsd_prefix(text: &str) -> Result<String, String> {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if text.len() <= STATSD_PREFIX_MAX_BYTES && text.split('.').all(is_part) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "at most {STATSD_PREFIX_MAX_BYTES} letters, digits, hyphens and underscores, in parts separated by single dots"
        ))
    }
}

pub(super) fn statsd_interval(text: &str) -> Result<Duration, String> {
    duration(text)
        .ok()
        .filter(|time| *time >= STATSD_MIN_INTERVAL)
        .ok_or_else(|| "a time from 1s to 7 days, in seconds or with a unit, such as 10s or 1m".to_owned())
}

/// An address counts as the network that holds only this address.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |part: &str| part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)).ok();
    list(text).map(network).collect::<Option<_>>().ok_or_else(|| {
        "IP addresses and networks, separated by commas, such as 10.0.0.0/8,192.0.2.1,fd00::/8".to_owned()
    })
}

/// Origins as browsers send them, or `*`.
pub(super) fn origins(text: &str) -> Result<AllowedOrigins, String> {
    let origin = |text: &str| {
        let (authority, default_port) = match text.strip_prefix("https://") {
            Some(authority) => (authority, ":443"),
            None => (text.strip_prefix("http://")?, ":80"),
        };
        let is_valid = |b: u8| b.is_ascii_graphic() && !b"/?#@*".contains(&b);
        // Browsers omit the default port.
        (!authority.is_empty() && authority.bytes().all(is_valid))
            .then(|| text.strip_suffix(default_port).unwrap_or(text).to_owned())
    };
    if list(text).eq(["*"]) {
        return Ok(AllowedOrigins::Any);
    }
    list(text).map(origin).collect::<Option<_>>().map(AllowedOrigins::Only).ok_or_else(|| {
        "*, or origins without a path, separated by commas, such as https://a.example,http://localhost:3000".to_owned()
    })
}

/// A token that is valid in a header. Only its digest is kept.
pub(super) fn token(text: &str) -> Result<Digest, String> {
    if text.len() >= TOKEN_MIN_BYTES && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(Digest::of(text.as_bytes()))
    } else {
        Err(format!("at least {TOKEN_MIN_BYTES} visible ASCII characters, without spaces"))
    }
}

/// Whether two listeners cannot be bound at the same time.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// Whether two paths are equal apart from slashes and dots.
pub(super) fn is_same_path(a: &Path, b: &Path) -> bool {
    let normal = |path: &Path| path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
    normal(a) == normal(b)
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') { Err("a path without a NUL byte".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// A path that fits the address of a Unix socket.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    let expected = || format!("a path of at most {SOCKET_PATH_MAX_BYTES} bytes, such as /run/millpond/handover.sock");
    path(text).ok().filter(|path| path.as_os_str().len() <= SOCKET_PATH_MAX_BYTES).ok_or_else(expected)
}

/// The naming rules of general purpose buckets, without the list of reserved names.
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
        Err("a bucket name of 3 to 63 lower-case letters, digits, hyphens and dots, without s3:// or a path".to_owned())
    }
}

/// A path without `.` and `..`. Slashes at either end are removed.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!-_.*'()=/".contains(&b);
    let trimmed = text.trim_matches('/');
    let segments = || trimmed.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..");
    let good = trimmed.len() <= PREFIX_MAX_BYTES && trimmed.bytes().all(plain) && (trimmed.is_empty() || segments());
    if good {
        Ok(trimmed.to_owned())
    } else {
        Err("a path such as telemetry/eu: letters, digits and !-_.*'()=, separated by single slashes".to_owned())
    }
}

pub(super) fn region(text: &str) -> Result<(), String> {
    let is_valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_region = text.len() <= 64 && text.bytes().all(is_valid);
    is_region.then_some(()).ok_or_else(|| "the name of a region, such as eu-central-1".to_owned())
}

pub(super) fn endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && text.parse::<hyper::Uri>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("a URL such as https://s3.example.net or http://127.0.0.1:9000".to_owned()),
    }
}

pub(super) fn ack(text: &str) -> Result<Ack, String> {
    one_of(Ack::ALL.map(|ack| (ack.name(), ack)))(text)
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    let name = match text {
        "true" | "1" => "on",
        "false" | "0" => "off",
        name => name,
    };
    one_of([("on", true), ("off", false)])(name)
}

/// The filter, and a warning for each target in it that does not exist.
pub(super) fn log_filter(text: &str) -> Result<(Targets, Vec<String>), String> {
    let expected = || "a level such as info, or levels by target such as info,millpond=debug".to_owned();
    // Without a level or a target, `Targets` would turn everything but errors off.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if text.is_empty() || !is_plain || text.split(',').any(|directive| directive.trim().starts_with('=')) {
        return Err(expected());
    }
    let filter: Targets = text.parse().map_err(|_| expected())?;
    let warnings = typos::unknown_targets(text, &filter)?;
    // The client of the broker logs each attempt to connect, and the connection's state is logged here.
    let filter = if text.contains("async_nats") { filter } else { filter.with_target("async_nats", LevelFilter::OFF) };
    // These log a warning for each violation of the protocol, so a client could flood the log.
    let filter = ["aws_config", "h2", "rpprof", "rustls"].into_iter().filter(|name| !text.contains(name)).fold(
        filter,
        |filter, name| {
            let level = filter.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::ERROR);
            filter.with_target(name, level)
        },
    );
    Ok((filter, warnings))
}
