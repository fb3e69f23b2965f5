//! Reports read back from their files.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{FORMAT, Report};

/// The reports in a file: one of `run`, or all of `compare` or of a scenario; never none.
/// Errors: it cannot be read, or has no such reports.
pub fn read(path: &Path) -> anyhow::Result<Vec<Report>> {
    let what =
        || format!("{}: give a file that `loadtest run`, `compare` or `scenario` wrote with --json", path.display());
    parse(&std::fs::read(path).with_context(what)?).with_context(what)
}

fn parse(bytes: &[u8]) -> anyhow::Result<Vec<Report>> {
    let values = match serde_json::from_slice(bytes).context("not JSON")? {
        Value::Array(values) => values,
        // A scenario's file has its question and its answer beside the reports.
        Value::Object(mut fields) => match fields.remove("reports") {
            Some(Value::Array(values)) => values,
            _ => vec![Value::Object(fields)],
        },
        one => vec![one],
    };
    ensure!(!values.is_empty(), "no report");
    let read = |value: Value| match value.get("format").and_then(Value::as_u64) {
        Some(found) if found == u64::from(FORMAT) => Ok(Report::deserialize(value)?),
        Some(found) => bail!("format {found}, and this loadtest reads {FORMAT}: run the load again"),
        None => bail!("not a report"),
    };
    values.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let one = sample();
        let text = serde_json::to_string(&one).unwrap();
        for (text, count) in
            [(text.clone(), 1), (format!("[{text},{text}]"), 2), (format!("{{\"reports\":[{text}]}}"), 1)]
        {
            assert_eq!(parse(text.as_bytes()).unwrap(), vec![one.clone(); count]);
        }
        // Of a report from before a member was added, the member has its default.
        let server = "{\"format\":2,\"server\":{\"cpu_seconds\":2.0}}";
        let server = parse(server.as_bytes()).unwrap().remove(0).server.unwrap();
        assert!(server.threads.is_empty() && server.serial_cpu_micros_per_request.is_none());
        for (wrong, why) in
            [("", "not JSON"), ("[]", "no report"), ("{}", "not a report"), ("{\"format\":99}", "format 99")]
        {
            assert!(format!("{:#}", parse(wrong.as_bytes()).unwrap_err()).contains(why), "{wrong}");
        }
        let wrong = read(Path::new("there/is/none.json")).unwrap_err();
        assert!(wrong.to_string().contains("none.json: give a file"), "{wrong:#}");
    }
}
