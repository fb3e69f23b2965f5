//! The names and label values in PromQL expressions, as far as millpond's own rules and dashboard use the language.

use std::collections::{BTreeMap, BTreeSet};

/// Words of the language that are followed by labels in parentheses.
const BEFORE_LABELS: [&str; 5] = ["by", "without", "on", "ignoring", "group_left"];
const KEYWORDS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];

/// What an expression refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) selectors: Vec<Selector>,
    /// In `by (…)`, `ignoring (…)` and the like.
    pub(crate) labels: BTreeSet<String>,
}

/// `name{label="value", …}`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) name: String,
    /// Label, operator, value.
    pub(crate) matchers: Vec<(String, String, String)>,
}

impl References {
    pub(crate) fn of(expr: &str) -> Self {
        let tokens = tokens(expr);
        let mut tokens = tokens.iter().map(String::as_str).peekable();
        let mut found = Self::default();
        while let Some(token) = tokens.next() {
            if BEFORE_LABELS.contains(&token) && tokens.peek() == Some(&"(") {
                let labels = tokens.by_ref().skip(1).take_while(|token| *token != ")").filter(|token| *token != ",");
                found.labels.extend(labels.map(str::to_owned));
            } else if is_name(token) && !KEYWORDS.contains(&token) && !tokens.peek().is_some_and(is_after_function) {
                let mut selector = Selector { name: token.to_owned(), matchers: Vec::new() };
                if tokens.next_if_eq(&"{").is_some() {
                    let inner: Vec<_> = tokens.by_ref().take_while(|token| *token != "}").collect();
                    selector.matchers =
                        inner.split(|token| *token == ",").map(|matcher| of_matcher(matcher, expr)).collect();
                }
                found.selectors.push(selector);
            }
        }
        found
    }
}

fn of_matcher(tokens: &[&str], expr: &str) -> (String, String, String) {
    let [label, operator, value] = tokens else { panic!("{tokens:?} is no matcher: {expr}") };
    ((*label).to_owned(), (*operator).to_owned(), value.trim_matches('"').to_owned())
}

/// `rate(…)`, `sum by (…) (…)`.
fn is_after_function(token: &&str) -> bool {
    ["(", "by", "without"].contains(token)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Names, numbers with their units, texts in their quotes, operators, and single characters. `$name` is a variable of Grafana.
fn tokens(expr: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut chars = expr.chars().peekable();
    while let Some(first) = chars.next() {
        let mut token = first.to_string();
        if first.is_ascii_alphanumeric() || first == '_' || first == '$' {
            while let Some(next) = chars.next_if(|c| c.is_ascii_alphanumeric() || "_.".contains(*c)) {
                token.push(next);
            }
        } else if first == '"' {
            for next in chars.by_ref() {
                token.push(next);
                if next == '"' {
                    break;
                }
            }
        } else if "=!<>".contains(first) {
            token.extend(chars.next_if(|c| "=~".contains(*c)));
        } else if first.is_whitespace() {
            continue;
        }
        tokens.push(token);
    }
    tokens
}

/// The series of a scrape: the name of each metric, its labels and their values.
#[derive(Debug, Default)]
pub(crate) struct Scrape(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Scrape {
    /// Reads Prometheus's text format.
    pub(crate) fn of(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = line.rsplit_once(' ').unwrap();
            for Selector { name, matchers } in References::of(series).selectors {
                let labels = scrape.0.entry(name).or_default();
                for (label, _, value) in matchers {
                    labels.entry(label).or_default().insert(value);
                }
            }
        }
        scrape
    }

    /// The values of a label, or those of `le`. None if there is no such metric or label.
    pub(crate) fn values(&self, name: &str, label: &str) -> Option<&BTreeSet<String>> {
        self.0.get(name)?.get(label)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether any metric has the label.
    pub(crate) fn has_label(&self, label: &str) -> bool {
        self.0.values().any(|labels| labels.contains_key(label))
    }
}

#[test]
fn names_labels_and_values_are_found_and_functions_and_durations_are_not() {
    let found = References::of(
        r#"sum by (job, le) (rate(a_total{x="1", y!~"2|3"}[5m])) / ignoring (limit) b > 0.5e3 unless c offset 15m or a < $v"#,
    );
    let names: Vec<_> = found.selectors.iter().map(|selector| selector.name.as_str()).collect();
    assert_eq!(names, ["a_total", "b", "c", "a"]);
    let matcher = |label: &str, operator: &str, value: &str| (label.into(), operator.into(), value.into());
    assert_eq!(found.selectors[0].matchers, [matcher("x", "=", "1"), matcher("y", "!~", "2|3")]);
    assert_eq!(found.labels, ["job", "le", "limit"].map(str::to_owned).into());
}

#[test]
fn a_scrape_has_the_values_of_each_label() {
    let scrape = Scrape::of("# HELP a b\na{x=\"1\",y=\"2\"} 5\na{x=\"3\",y=\"2\"} 1e+06\nb +Inf\n");
    assert!(scrape.has("b") && !scrape.has("HELP") && scrape.has_label("y") && !scrape.has_label("z"));
    assert_eq!(scrape.values("a", "x"), Some(&["1", "3"].map(str::to_owned).into()));
    assert_eq!(scrape.values("b", "x"), None);
}
