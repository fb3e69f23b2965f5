//! What `--help` prints after the commands: the exit codes and every setting.

use crate::config::SETTINGS;

const NOTES: &str = "\
Exit codes: 0   every accepted job is stored or kept in SPOOL_DIR; a command succeeded
            1   accepted jobs are lost or possibly lost, or the server or a command failed
            64  the settings or the arguments are invalid, or the spool cannot be used

Settings are environment variables. Sizes are bytes, or have a unit: 512KiB, 8MiB, 10GiB.
Times are seconds, or have a unit: 200ms, 60s, 5m, 1h.
";

/// The exit codes and the table of settings.
pub(super) fn notes() -> String {
    let name = SETTINGS.iter().map(|setting| setting.name.len()).max().unwrap_or_default();
    let default = SETTINGS.iter().filter_map(|setting| setting.default).map(str::len).max().unwrap_or_default();
    let unit = SETTINGS.iter().map(|setting| setting.unit.len()).max().unwrap_or_default();
    let mut help = format!("{NOTES}\n  {:name$}  {:default$}  {:unit$}\n", "setting", "default", "unit");
    let mut group = None;
    for setting in SETTINGS {
        if group.replace(setting.group) != Some(setting.group) {
            help.push_str(&format!("\n{}\n", setting.group.0));
        }
        let given = match setting.default {
            None => "unset",
            Some("") => "empty",
            Some(text) => text,
        };
        help.push_str(&format!(
            "  {:name$}  {given:default$}  {:unit$}  {}\n",
            setting.name, setting.unit, setting.help
        ));
    }
    help
}
