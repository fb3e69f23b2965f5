//! Reports read back from their files.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::{FORMAT, Report};

/// Why a file of reports cannot be read, and what can be done about it.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Unreadable {
    #[error("{} cannot be read: give a file that `loadtest run`, `compare` or `scenario` wrote with --json", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    #[error("{} is not JSON: give a file that `loadtest run`, `compare` or `scenario` wrote with --json", .0.display())]
    Json(PathBuf, #[source] serde_json::Error),
    #[error("{} holds no report: give a file that `loadtest run`, `compare` or `scenario` wrote with --json", .0.display())]
    NoReport(PathBuf),
    #[error("{} is of format {found}, and this loadtest reads {FORMAT}: run the load again with this one", .path.display())]
    Format { path: PathBuf, found: u64 },
    #[error("{} is not as this loadtest writes it: run the load again with this one", .0.display())]
    Shape(PathBuf, #[source] serde_json::Error),
}

/// The reports in a file: one of `run`, or all of `compare` or of a scenario; never none.
///
/// # Errors
///
/// It cannot be read, or is no such file.
pub fn read(path: &Path) -> Result<Vec<Report>, Unreadable> {
    let bytes = std::fs::read(path).map_err(|wrong| Unreadable::File(path.to_owned(), wrong))?;
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Report>, Unreadable> {
    let value: Value = serde_json::from_slice(bytes).map_err(|wrong| Unreadable::Json(path.to_owned(), wrong))?;
    let values = match value {
        Value::Array(values) => values,
        // A scenario's file has its question and its answer beside the reports.
        Value::Object(mut fields) => match fields.remove("reports") {
            Some(Value::Array(values)) => values,
            _ => vec![Value::Object(fields)],
        },
        one => vec![one],
    };
    if values.is_empty() {
        return Err(Unreadable::NoReport(path.to_owned()));
    }
    let read = |value: Value| {
        // The format first: in another one, nothing else is known.
        match value.get("format").and_then(Value::as_u64) {
            None => return Err(Unreadable::NoReport(path.to_owned())),
            Some(found) if found != u64::from(FORMAT) => {
                return Err(Unreadable::Format { path: path.to_owned(), found });
            }
            Some(_) => {}
        }
        Report::deserialize(value).map_err(|wrong| Unreadable::Shape(path.to_owned(), wrong))
    };
    values.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn read(text: &str) -> Result<Vec<Report>, Unreadable> {
        parse(Path::new("a.json"), text.as_bytes())
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let one = sample();
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(read(&text).unwrap(), vec![one.clone()]);
        assert_eq!(read(&format!("[{text},{text}]")).unwrap(), [one.clone(), one.clone()]);
        let scenario = format!("{{\"name\":\"overload\",\"question\":\"?\",\"reports\":[{text},{text}]}}");
        assert_eq!(read(&scenario).unwrap(), [one.clone(), one]);
    }

    #[test]
    fn what_cannot_be_read_says_what_to_do() {
        let mut other = serde_json::to_value(sample()).unwrap();
        other["format"] = 99.into();
        let mut torn = serde_json::to_value(sample()).unwrap();
        torn["payloads"] = Value::Null;
        for (text, expected) in [
            ("", "not JSON"),
            ("[]", "holds no report"),
            ("{\"name\":\"kill\",\"reports\":[]}", "holds no report"),
            ("{\"name\":\"kill\"}", "holds no report"),
            (&*other.to_string(), "format 99"),
            (&*torn.to_string(), "not as this loadtest writes it"),
        ] {
            let wrong = read(text).unwrap_err().to_string();
            assert!(wrong.contains(expected) && wrong.starts_with("a.json ") && wrong.contains("loadtest"), "{wrong}");
        }
        let wrong = super::read(Path::new("there/is/none.json")).unwrap_err();
        assert!(wrong.to_string().contains("none.json cannot be read"), "{wrong}");
    }
}
