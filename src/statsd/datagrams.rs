//! Packs lines into datagrams.

/// The largest datagram, in bytes. 1,432 bytes fit into an Ethernet frame under every common tunnel and IP version, and a
/// fragmented datagram is lost with any of its fragments.
pub(super) const DATAGRAM_MAX_BYTES: usize = 1_431;

/// Lines, separated by line breaks, in datagrams of at most [`DATAGRAM_MAX_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    full: Vec<String>,
    open: String,
    dropped: u64,
}

impl Datagrams {
    /// Adds an entry: a line, or lines that must arrive together and in order. An entry that fits into no datagram is dropped
    /// and counted.
    pub(super) fn push(&mut self, entry: &str) {
        if entry.len() > DATAGRAM_MAX_BYTES {
            self.dropped += 1;
            return;
        }
        if !self.open.is_empty() {
            if self.open.len() + 1 + entry.len() > DATAGRAM_MAX_BYTES {
                self.full.push(std::mem::take(&mut self.open));
            } else {
                self.open.push('\n');
            }
        }
        self.open.push_str(entry);
    }

    /// The datagrams, and the number of dropped entries.
    pub(super) fn finish(mut self) -> (Vec<String>, u64) {
        if !self.open.is_empty() {
            self.full.push(self.open);
        }
        (self.full, self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(entries: &[String]) -> (Vec<String>, u64) {
        let mut datagrams = Datagrams::default();
        entries.iter().for_each(|entry| datagrams.push(entry));
        datagrams.finish()
    }

    #[test]
    fn a_datagram_holds_as_many_lines_as_fit_including_the_separators() {
        let lines = |lengths: [usize; 2]| lengths.map(|length| "x".repeat(length));
        let fits = lines([700, DATAGRAM_MAX_BYTES - 701]);
        assert_eq!(packed(&fits), (vec![fits.join("\n")], 0));
        assert_eq!(packed(&fits).0[0].len(), DATAGRAM_MAX_BYTES);
        let exceeds = lines([700, DATAGRAM_MAX_BYTES - 700]);
        assert_eq!(packed(&exceeds), (exceeds.to_vec(), 0));
    }

    #[test]
    fn a_line_that_fits_into_no_datagram_is_dropped_and_counted() {
        let longest = "x".repeat(DATAGRAM_MAX_BYTES);
        let entries = [longest.clone(), "x".repeat(DATAGRAM_MAX_BYTES + 1), "a:1|c".to_owned()];
        assert_eq!(packed(&entries), (vec![longest, "a:1|c".to_owned()], 1));
        assert_eq!(packed(&[]), (Vec::new(), 0));
    }
}
