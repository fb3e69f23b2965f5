//! The terminal in the mode that a live view needs: alternate screen, no echo, keys at once. It is restored on drop and on a
//! panic.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr, ttyname,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The alternate screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";
/// If the terminal does not tell its size.
const SIZE: (usize, usize) = (80, 24);

/// The thread that reads keys waits no longer than this for one, so that it can end.
const KEY_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Keys that were typed and not handled yet.
const KEYS_MAX: usize = 16;

/// The terminal of this process.
pub(super) struct Terminal {
    saved: Arc<Saved>,
    keys: mpsc::Receiver<Vec<u8>>,
    _reading: JoinSet<()>,
}

/// How to restore the terminal.
struct Saved {
    tty: File,
    modes: Termios,
}

impl Saved {
    /// Best effort: there is nothing else to do.
    fn restore(&self) {
        let _: io::Result<()> = (&self.tty).write_all(LEAVE.as_bytes());
        let _: rustix::io::Result<()> = tcsetattr(&self.tty, OptionalActions::Flush, &self.modes);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.saved.restore();
    }
}

impl Terminal {
    /// Takes the terminal over.
    pub(super) fn open() -> io::Result<Self> {
        // By its own name, if it has one: a descriptor that other programs do not share.
        let name = ttyname(io::stdout(), Vec::new());
        let name = name.map_or("/dev/tty".into(), |name| OsString::from_vec(name.into_bytes()));
        let tty = OpenOptions::new().read(true).write(true).open(&name)?;
        let modes = tcgetattr(&tty)?;
        let mut raw = modes.clone();
        // Ctrl-C stays a signal. Ctrl-Z would leave the terminal as it is.
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        raw.special_codes[SpecialCodeIndex::VSUSP] = 0;
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        let saved = Arc::new(Saved { tty, modes });
        let (previous, for_panic) = (std::panic::take_hook(), Arc::clone(&saved));
        std::panic::set_hook(Box::new(move |panic| {
            // Before the message is printed: on the alternate screen it would be lost.
            for_panic.restore();
            previous(panic);
        }));
        let (sender, keys) = mpsc::channel(KEYS_MAX);
        let mut reading = JoinSet::new();
        tcsetattr(&saved.tty, OptionalActions::Now, &raw)?;
        let for_keys = Arc::clone(&saved);
        reading.spawn_blocking(move || read_keys(&for_keys.tty, &sender));
        let terminal = Self { saved, keys, _reading: reading };
        (&terminal.saved.tty).write_all(ENTER.as_bytes())?;
        Ok(terminal)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.saved.tty) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => SIZE,
        }
    }

    /// Writes a frame.
    pub(super) fn draw(&self, frame: &str) -> io::Result<()> {
        (&self.saved.tty).write_all(frame.as_bytes())
    }

    /// The next bytes that were typed; none if the terminal cannot be read any more. Cancel safe.
    pub(super) async fn keys(&mut self) -> Option<Vec<u8>> {
        self.keys.recv().await
    }
}

/// Reads keys until the receiver is gone.
fn read_keys(mut tty: &File, keys: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 64];
    while !keys.is_closed() {
        // A read alone would wait for a whole line once the modes are restored.
        let mut ready = [PollFd::new(&tty, PollFlags::IN)];
        match poll(&mut ready, Some(&KEY_WAIT)) {
            Ok(0) => continue,
            // The terminal is closed.
            Ok(_) if ready.iter().any(|tty| tty.revents().contains(PollFlags::HUP)) => return,
            _ => {}
        }
        match tty.read(&mut buffer) {
            // Another program has read it, or the modes were restored and the line is empty.
            Ok(0) => {}
            // More keys than are handled are dropped.
            Ok(read) => drop(keys.try_send(buffer.get(..read).unwrap_or_default().to_vec())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Makes [`child`] run.
    const VARIABLE: &str = "MILLPOND_TERMINAL_CHILD";

    /// Panics in a live view, in a process of its own.
    #[tokio::test]
    async fn child() {
        if std::env::var_os(VARIABLE).is_some() {
            let _terminal = Terminal::open().unwrap();
            panic!("a defect");
        }
    }

    #[test]
    fn a_panic_restores_the_terminal_before_it_is_reported() {
        let program = std::env::current_exe().unwrap();
        let child = format!("{} --exact cli::top::terminal::tests::child --nocapture; stty -a", program.display());
        // `script` runs it in a terminal of its own, and copies what is written there.
        let mut script = Command::new("script");
        // With another input it could wait for the end of that.
        script.args(["-qec", &child, "/dev/null"]).env(VARIABLE, "1").stdin(Stdio::null());
        let output = script.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let [entered, left, panicked] =
            [ENTER, LEAVE, "a defect"].map(|part| text.find(part).unwrap_or_else(|| panic!("{text}")));
        assert!(entered < left && left < panicked, "{text}");
        let modes: Vec<_> = text.split([' ', ';', '\r', '\n']).collect();
        assert!(modes.contains(&"icanon") && modes.contains(&"echo") && modes.contains(&"susp"), "{text}");
    }
}
