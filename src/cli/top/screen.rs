//! Lines with colours, and the bytes that draw them. Pure.

use crate::cli::text::{clipped, printable, width};

/// Begins and ends an update that the terminal shows at once, if it knows that (synchronized output, mode 2026).
const BEGIN: &str = "\x1b[?2026h\x1b[H";
const END: &str = "\x1b[J\x1b[?2026l";
const NORMAL: &str = "\x1b[0m";
/// To the end of the line.
const ERASE: &str = "\x1b[K";

/// The meaning of a part of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Title,
    Dim,
    Good,
    Warning,
    Bad,
}

/// One line. Its text is printable: the only way to add text is [`Line::add`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Look, String)>);

/// Whether looks are shown as colours (ECMA-48, SGR).
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    is_colored: bool,
}

impl Line {
    pub(super) fn of(look: Look, text: &str) -> Self {
        Self::default().add(look, text)
    }

    /// Adds text, with control characters replaced.
    pub(super) fn add(mut self, look: Look, text: &str) -> Self {
        self.0.push((look, printable(text)));
        self
    }

    /// The text without colours.
    pub(super) fn text(&self) -> String {
        let text: String = self.0.iter().map(|(_, text)| text.as_str()).collect();
        text.trim_end().to_owned()
    }
}

impl Style {
    pub(super) fn plain() -> Self {
        Self { is_colored: false }
    }

    pub(super) fn colored() -> Self {
        Self { is_colored: true }
    }

    fn sgr(self, look: Look) -> &'static str {
        match look {
            Look::Plain => "",
            // Bold and reverse are no colours.
            Look::Title => "\x1b[1m",
            Look::Bad if !self.is_colored => "\x1b[7m",
            _ if !self.is_colored => "",
            Look::Dim => "\x1b[2m",
            Look::Good => "\x1b[32m",
            Look::Warning => "\x1b[33m",
            Look::Bad => "\x1b[1;31m",
        }
    }

    /// The bytes that draw `lines`, of which as many are shown as fit above the `last` one. Every line is clipped, so that the
    /// terminal never scrolls or wraps.
    pub(super) fn frame(self, lines: &[Line], last: &Line, (columns, rows): (usize, usize)) -> String {
        let mut frame = BEGIN.to_owned();
        let shown = lines.iter().take(rows.saturating_sub(1)).chain(std::iter::once(last)).take(rows);
        for (row, line) in shown.enumerate() {
            if row > 0 {
                frame.push_str("\r\n");
            }
            let mut left = columns;
            for (look, text) in &line.0 {
                let part = clipped(text, left);
                left = left.saturating_sub(width(part));
                let sgr = self.sgr(*look);
                frame.push_str(sgr);
                frame.push_str(part);
                frame.push_str(if sgr.is_empty() { "" } else { NORMAL });
            }
            // In the last column the cursor waits before the edge, and an erase would remove the character there.
            if left > 0 {
                frame.push_str(ERASE);
            }
        }
        frame.push_str(END);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_cannot_leave_its_line() {
        let evil = Line::of(Look::Bad, "a\x1b]0;title\x07\r\n\x1b[2J");
        let frame = Style::plain().frame(&[], &evil, (80, 24));
        let inner = frame.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).unwrap();
        let inner = inner.replace("\x1b[7m", "").replace(NORMAL, "").replace(ERASE, "");
        assert!(!inner.contains(|c: char| c.is_control()), "{inner:?}");
    }

    #[test]
    fn lines_are_clipped_to_the_size_of_the_terminal() {
        let lines = vec![Line::of(Look::Plain, "0123456789").add(Look::Good, "abc"); 10];
        let frame = Style::colored().frame(&lines, &Line::of(Look::Dim, "last"), (12, 3));
        assert_eq!(frame.matches("\r\n").count(), 2);
        assert_eq!(frame.matches("0123456789\x1b[32mab\x1b[0m").count(), 2);
        assert!(frame.contains("last"));
        for size in [(0, 0), (1, 1), (0, 5)] {
            let frame = Style::plain().frame(&lines, &Line::default(), size);
            assert!(frame.matches("\r\n").count() < size.1.max(1), "{size:?}: {frame:?}");
        }
    }
}
