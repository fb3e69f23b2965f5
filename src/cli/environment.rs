//! The variables that the commands use. Unlike the server they do not need all settings to be valid.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::CliError;
use super::text::printable;
use crate::config::SETTINGS;

/// The names and values of the environment. Values that are not UTF-8 or are empty count as unset.
#[derive(Default)]
pub struct Environment(BTreeMap<String, String>);

/// A token, which is not shown.
pub(super) struct Token(String);

impl Environment {
    /// The environment from the variables of the process.
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let text = |text: OsString| text.into_string().ok();
        Self(vars.into_iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect())
    }

    /// The value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The value of a setting, or its default.
    fn setting(&self, name: &str) -> &str {
        let default = || SETTINGS.iter().find(|setting| setting.name == name).and_then(|setting| setting.default);
        self.get(name).or_else(default).unwrap_or_default()
    }

    /// `SPOOL_DIR`.
    pub(super) fn spool_dir(&self) -> PathBuf {
        PathBuf::from(self.setting("SPOOL_DIR"))
    }

    /// The URL of a listener of this machine, from the setting with its address.
    pub(super) fn url(&self, setting: &str, is_tls: bool) -> String {
        let scheme = if is_tls { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.setting(setting)))
    }

    /// The token of the admin listener.
    pub(super) fn admin_token(&self, file: Option<&Path>) -> Result<Option<Token>, CliError> {
        let setting = self.get("ADMIN_TOKEN_FILE").map(Path::new);
        match (file, self.get("ADMIN_TOKEN"), setting) {
            (Some(file), _, _) => Token::read("--token-file", file).map(Some),
            (None, Some(token), _) => Token::new("ADMIN_TOKEN", token).map(Some),
            (None, None, Some(file)) => Token::read("ADMIN_TOKEN_FILE", file).map(Some),
            (None, None, None) => Ok(None),
        }
    }

    /// The token of a tenant.
    pub(super) fn tenant_token(&self, file: Option<&Path>) -> Result<Option<Token>, CliError> {
        match (file, self.get("MILLPOND_TOKEN")) {
            (Some(file), _) => Token::read("--token-file", file).map(Some),
            (None, Some(token)) => Token::new("MILLPOND_TOKEN", token).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The address at which a listener of this machine is reached: one that listens on all addresses is on the loopback one too.
fn reachable(address: &str) -> String {
    let Ok(parsed) = address.parse::<SocketAddr>() else { return address.to_owned() };
    let ip = match parsed.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, parsed.port()).to_string()
}

impl Token {
    fn new(source: &str, text: &str) -> Result<Self, CliError> {
        let text = text.trim_end_matches(['\n', '\r']);
        let is_valid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let expected = || CliError::Usage(format!("{source}: expected a token of visible ASCII characters"));
        is_valid.then(|| Self(text.to_owned())).ok_or_else(expected)
    }

    fn read(source: &str, file: &Path) -> Result<Self, CliError> {
        let source = format!("{source}={}", printable(&file.display().to_string()));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::new(&source, &text),
            Err(error) => Err(CliError::Usage(format!("{source}: cannot be read: {error}"))),
        }
    }

    /// The value of an `Authorization` header.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(vars: &[(&str, &str)]) -> Environment {
        Environment::from_vars(vars.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_the_loopback_address() {
        for (address, url) in [
            ("0.0.0.0:9090", "http://127.0.0.1:9090"),
            ("[::]:9090", "http://[::1]:9090"),
            ("10.0.0.5:9090", "http://10.0.0.5:9090"),
            ("", "http://127.0.0.1:9090"),
        ] {
            assert_eq!(environment(&[("ADMIN_ADDR", address)]).url("ADMIN_ADDR", false), url);
        }
        assert_eq!(environment(&[]).url("LISTEN_ADDR", true), "https://127.0.0.1:8080");
    }

    #[test]
    fn a_file_given_as_argument_takes_precedence_over_the_token_of_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from-the-file\n").unwrap();
        let both = environment(&[("ADMIN_TOKEN", "from-the-variable"), ("ADMIN_TOKEN_FILE", "missing")]);
        assert_eq!(both.admin_token(None).unwrap().unwrap().bearer(), "Bearer from-the-variable");
        assert_eq!(both.admin_token(Some(&file)).unwrap().unwrap().bearer(), "Bearer from-the-file");
        assert!(environment(&[]).admin_token(None).unwrap().is_none());
        std::fs::write(&file, "two words").unwrap();
        let error = both.admin_token(Some(&file)).err().unwrap().to_string();
        assert!(error.contains("--token-file") && !error.contains("words"), "{error}");
    }
}
