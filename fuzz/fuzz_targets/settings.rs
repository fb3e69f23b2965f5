//! Arbitrary environments: the settings are parsed, or the error names the invalid ones without repeating a secret.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use millpond::config::{SETTINGS, Settings};

/// Occurs in no name, default or help text of a setting.
const SECRET: &[u8] = b"!s3cr3t!";

// A line is a variable: `NAME=value`, or a byte over 127 that selects a setting, followed by the value.
fuzz_target!(|input: &[u8]| {
    let vars: Vec<(Vec<u8>, Vec<u8>)> = input.split(|byte| *byte == b'\n').filter_map(variable).collect();
    let secrets = vars.iter().filter(|(name, value)| holds(name) || holds(value)).count();
    let is_hidden = vars.iter().all(|(name, value)| !holds(name) && (!holds(value) || name == b"ADMIN_TOKEN"));
    let vars = vars.into_iter().map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value)));
    match Settings::from_vars(vars) {
        Ok(settings) => {
            assert!(settings.max_workers > 0 && settings.queue.max_jobs > 0 && settings.queue.max_bytes > 0);
            assert!(!settings.prefix.starts_with('/') && !settings.prefix.ends_with('/'));
            assert!(!settings.prefix.split('/').any(|part| part == ".."));
            assert!(settings.tenants.is_none_or(|tenants| (1..=100).contains(&tenants.queue_percent)));
            assert!(settings.admin_token.is_some() || settings.admin_addr.ip().is_loopback());
            assert!(settings.http.max_body_bytes <= settings.http.max_decoded_bytes);
            assert!(!settings.transport.proxy_protocol || !settings.transport.trusted_proxies.is_empty());
        }
        Err(error) => {
            let message = error.to_string();
            assert!(SETTINGS.iter().any(|setting| message.contains(setting.name)), "{message}");
            assert!(secrets == 0 || !is_hidden || !holds(message.as_bytes()), "{message}");
        }
    }
});

fn variable(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    // Names and values cannot contain a zero byte.
    let (first, rest) = line.split_first().filter(|_| !line.contains(&0))?;
    let (name, value) = match first.checked_sub(128) {
        Some(index) => (SETTINGS[usize::from(index) % SETTINGS.len()].name.as_bytes(), rest),
        None => {
            let end = line.iter().position(|byte| *byte == b'=')?;
            (&line[..end], &line[end + 1..])
        }
    };
    Some((name.to_vec(), value.to_vec()))
}

fn holds(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET)
}
