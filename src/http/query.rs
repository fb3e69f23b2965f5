//! The query of a request. A route knows one parameter; anything else is refused, so that a slip of the keyboard is not
//! taken for an accepted wish.

use super::Problem;

/// The value of the parameter `known`, if the query has it. `example` is for the refusal.
pub(super) fn parameter<'a>(query: Option<&'a str>, known: &str, example: &str) -> Result<Option<&'a str>, Problem> {
    let mut found = None;
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if name != known {
            return Err(Problem::InvalidQuery(format!(
                "unknown query parameter: this path knows `{known}` alone, such as ?{known}={example}"
            )));
        }
        if found.replace(value).is_some() {
            return Err(Problem::InvalidQuery(format!("`{known}` is given twice")));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_parameter_is_known_and_all_else_is_refused() {
        let value = |query| parameter(query, "ack", "stored").map_err(|_| ());
        assert_eq!(value(None), Ok(None));
        assert_eq!(value(Some("")), Ok(None));
        assert_eq!(value(Some("ack=stored")), Ok(Some("stored")));
        assert_eq!(value(Some("ack")), Ok(Some("")));
        for bad in ["ak=stored", "ack=stored&x=1", "x", "ack=disk&ack=stored", "ACK=stored"] {
            assert_eq!(value(Some(bad)), Err(()), "{bad}");
        }
    }
}
