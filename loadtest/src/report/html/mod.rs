//! The report as a page: one file, which asks nothing of any other.

mod charts;
mod tables;

use std::fmt::{self, Display, Write};

use super::{Conclusion, Report};
use crate::units::{show_micros, show_size};

use self::tables::{settings, table};

const STYLE: &str = include_str!("style.css");

/// Text as it has to stand in HTML, in elements and in quoted attributes alike.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

impl Report {
    /// The report as one HTML file with its charts in it.
    pub fn html(&self) -> String {
        let mut page = String::new();
        // Nothing that is written to a String fails.
        let _ = self.write_page(&mut page);
        page
    }

    fn write_page(&self, out: &mut String) -> fmt::Result {
        let name = Escaped(&self.name);
        // The policy holds the browser to it: nothing is fetched, and nothing runs.
        writeln!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{name}: {} {}</title>\n<style>\n{STYLE}</style></head>\n<body>",
            Escaped(&self.began),
            self.conclusion.as_ref().map_or(self.verdict().0, Conclusion::word)
        )?;
        let version = self.program.as_ref().and_then(|program| program.version.as_deref());
        writeln!(
            out,
            "<header><h1>{name}</h1><p class=\"about\">{}{} · {} · run {}</p></header>",
            version.map_or(String::new(), |version| format!("{} · ", Escaped(version))),
            Escaped(&self.began.replace('T', " ").replace('Z', " UTC")),
            Escaped(&self.load.to_string()),
            Escaped(&self.run)
        )?;
        if let Some(conclusion) = &self.conclusion {
            write_conclusion(out, conclusion)?;
        }
        self.write_verdict(out)?;
        self.write_tiles(out)?;

        writeln!(out, "<h2>Latency</h2><div class=\"charts\">")?;
        let (latency, timeline) = (self.latency_charts(), self.timeline_charts());
        for chart in latency.iter().filter(|chart| !chart.is_empty()) {
            chart.write(out)?;
        }
        writeln!(out, "</div>\n<h2>Second by second</h2><div class=\"charts\">")?;
        for chart in timeline.iter().filter(|chart| !chart.is_empty()) {
            chart.write(out)?;
        }
        writeln!(out, "</div>\n<h2>Ledger</h2><div class=\"tables\">")?;
        table(out, "What became of every payload", self.ledger_rows())?;
        table(out, "Requests", self.request_rows())?;
        table(out, "Latency from when requests were due", self.quantile_rows())?;
        writeln!(out, "</div>\n<h2>Settings</h2><div class=\"tables\">")?;
        table(out, "Load", settings(&self.load))?;
        table(out, "Server", self.server_rows())?;
        table(out, "Store", self.store_rows())?;
        table(out, "Machine", settings(&self.machine))?;
        writeln!(
            out,
            "</div>\n<footer>Written by loadtest {}. Latency is told from when a request was due, so that a server that \
             holds up the load is not excused by it. What is not drawn could not be had.</footer>\n</body></html>",
            env!("CARGO_PKG_VERSION")
        )
    }

    /// In a word, its class, and in a sentence.
    fn verdict(&self) -> (&'static str, &'static str, String) {
        let totals = &self.ledger;
        if self.failed() {
            let mut broken: Vec<String> = totals
                .rows()
                .into_iter()
                .filter(|(_, count, must_be_zero)| *must_be_zero && *count > 0)
                .map(|(name, count, _)| format!("{} {name}", thousands(count)))
                .collect();
            if self.is_without_answers() {
                broken.push(format!("none of {} requests was answered", thousands(self.unanswered + self.unsent)));
            }
            if let Some(server) = self.server.as_ref().filter(|server| server.exit.code != Some(0)) {
                broken.push(format!("the server ended with {}", server.exit.status));
            }
            return ("FAILED", "failed", broken.join(", "));
        }
        if !self.checked {
            let sentence = format!("No store was read; {} payloads were accepted.", thousands(totals.accepted));
            return ("Not checked", "open", sentence);
        }
        let sentence =
            format!("Each of {} accepted payloads is in the store, intact and once.", thousands(totals.accepted));
        ("Holds", "holds", sentence)
    }

    fn write_verdict(&self, out: &mut String) -> fmt::Result {
        let (word, class, sentence) = self.verdict();
        let mark = match class {
            "holds" => "✓",
            "failed" => "✗",
            _ => "?",
        };
        // Under the answer of a scenario it has to say what it is about.
        let of = if self.conclusion.is_some() { "Ledger: " } else { "" };
        writeln!(out, "<div class=\"verdict {class}\"><strong>{mark} {of}{word}</strong>{}</div>", Escaped(&sentence))
    }

    fn write_tiles(&self, out: &mut String) -> fmt::Result {
        let mut tiles = vec![("Answered", format!("{}/s", thousands(self.requests_per_second.round() as u64)))];
        if self.accepted.max > 0 {
            let times = [("p50", self.accepted.p50), ("p99", self.accepted.p99), ("p99.9", self.accepted.p99_9)];
            tiles.extend(times.map(|(name, micros)| (name, show_micros(micros))));
        }
        if let Some(server) = &self.server {
            tiles.push(("CPU a request", self.per_request(format!("{:.1} us", server.cpu_micros_per_request))));
            tiles.push(("Peak memory, with the drain", show_size(server.peak_memory)));
        }
        tiles.push(("Payloads refused", thousands(self.ledger.refused)));
        if let Some(objects) = &self.objects {
            tiles.push(("Objects", thousands(objects.count)));
        }
        write!(out, "<dl class=\"tiles\">")?;
        for (name, value) in tiles {
            write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(&value))?;
        }
        writeln!(out, "</dl>")
    }
}

fn write_conclusion(out: &mut String, conclusion: &Conclusion) -> fmt::Result {
    let (class, mark) = if conclusion.holds { ("holds", "✓") } else { ("failed", "✗") };
    writeln!(
        out,
        "<div class=\"verdict {class}\"><p>{}</p><strong>{mark} {}</strong>{}</div>",
        Escaped(&conclusion.question),
        conclusion.word(),
        Escaped(&conclusion.answer)
    )
}

/// A count with its thousands apart.
fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::report;

    #[test]
    fn nothing_on_the_page_is_fetched_and_nothing_runs() {
        let page = report().html();
        for wrong in
            ["http://", "https://", "src=", "href=", "url(", "@import", "<script", "<link", "<img", "javascript:"]
        {
            assert!(!page.contains(wrong), "{wrong}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn whatever_text_the_report_holds_stays_text() {
        let mut report = report();
        let nasty = "<script>alert('x')</script>\"&".to_owned();
        report.name.clone_from(&nasty);
        report.run.clone_from(&nasty);
        report.began.clone_from(&nasty);
        report.place.clone_from(&nasty);
        report.machine.cpu.clone_from(&nasty);
        report.load.path.clone_from(&nasty);
        let program = report.program.as_mut().unwrap();
        program.version = Some(nasty.clone());
        program.args.push(nasty.clone());
        program.env.insert(nasty.clone(), nasty.clone());
        report.s3.as_mut().unwrap().faults.insert(nasty.clone(), 1);
        report.conclusion = Some(Conclusion { question: nasty.clone(), holds: true, answer: nasty.clone() });
        let server = report.server.as_mut().unwrap();
        (server.exit.code, server.exit.status) = (Some(1), nasty);
        let page = report.html();
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        assert!(page.matches("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;").count() >= 14);
    }

    #[test]
    fn the_verdict_stands_on_top_and_says_why() {
        let mut report = report();
        assert!(report.html().contains("✓ Holds</strong>Each of 49,990 accepted payloads"));
        report.ledger.lost = 3;
        let page = report.html();
        assert!(page.contains("✗ FAILED</strong>3 lost<"), "{page}");
        assert!(page.contains("<tr class=\"wrong\"><th scope=\"row\">lost</th><td>3 (must be 0)</td>"));
        report.ledger.lost = 0;
        report.server.as_mut().unwrap().exit.code = None;
        assert!(report.html().contains("✗ FAILED</strong>the server ended with"));
        report.server = None;
        report.checked = false;
        assert!(report.html().contains("? Not checked</strong>"));
    }

    #[test]
    fn the_question_of_a_scenario_and_its_answer_come_first_whatever_the_ledger_says() {
        let mut report = report();
        let (question, answer) = ("Is p99 < 1 ms?".to_owned(), "p99 is over 1ms".to_owned());
        report.conclusion = Some(Conclusion { question, holds: false, answer });
        let page = report.html();
        assert!(page.contains("<title>loadtest: 2026-11-20T13:00:00Z NO</title>"), "{page}");
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text} in {page}"));
        let question = at("<div class=\"verdict failed\"><p>Is p99 &lt; 1 ms?</p>");
        let answer = at("<strong>✗ NO</strong>p99 is over 1ms</div>");
        let ledger = at("<div class=\"verdict holds\"><strong>✓ Ledger: Holds</strong>");
        assert!(question < answer && answer < ledger && ledger < at("<dl class=\"tiles\">"), "{page}");
        assert!(!page.contains("✓ Holds"));

        report.conclusion.as_mut().unwrap().holds = true;
        let page = report.html();
        assert!(page.contains("Z yes</title>") && page.contains("<strong>✓ yes</strong>"), "{page}");
    }

    #[test]
    fn there_is_a_chart_of_all_that_is_known_and_none_of_what_is_not() {
        let mut report = report();
        assert_eq!(report.html().matches("<svg").count(), 10);
        for sample in &mut report.timeline {
            (sample.gauges, sample.cpu_cores, sample.resident) = (None, None, None);
        }
        assert_eq!(report.html().matches("<svg").count(), 3);
        report.timeline.clear();
        assert_eq!(report.html().matches("<svg").count(), 1);
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1_000, 1_234_567].map(thousands).each_ref().map(|text| &**text)
        );
    }
}
