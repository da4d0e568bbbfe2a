//! Asks for passphrases on the terminal.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
};

use nix::sys::{
    signal::{Signal, raise},
    termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr},
};
use zeroize::Zeroizing;

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const CTRL_U: u8 = 21;
const BACKSPACE: [u8; 2] = [8, 127];

/// The longest passphrase. With this room from the start, none is moved and left behind in memory.
const BYTES: usize = 1024;

/// The kind of the error where there is no terminal.
pub const NO_TERMINAL: ErrorKind = ErrorKind::NotConnected;

/// Asks on the terminal of this process, whatever standard input is, and does not show what is typed. Blocks.
///
/// # Errors
/// There is no terminal ([`NO_TERMINAL`]), or nothing was typed.
pub fn ask(prompt: &str) -> io::Result<Zeroizing<String>> {
    let no_terminal = |_| io::Error::new(NO_TERMINAL, "there is no terminal to ask at");
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(no_terminal)?;
    let quiet = Quiet::make(&terminal)?;
    let mut screen = &terminal;
    screen.write_all(prompt.as_bytes())?;
    let typed = read(&mut &terminal);
    screen.write_all(b"\n")?;
    drop(quiet);
    let Some(typed) = typed? else {
        // As if the terminal itself had sent it. It returns only where somebody handles the signal.
        raise(Signal::SIGINT)?;
        return Err(io::Error::new(ErrorKind::Interrupted, "given up"));
    };
    let text = str::from_utf8(&typed).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A terminal that neither echoes nor interprets what is typed, until this is dropped. Ctrl-C is read as a character,
/// so that it cannot end the process before the echo is back.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn make(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        // What was typed ahead was not meant as a passphrase.
        tcsetattr(terminal, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that has gone needs no echo.
        let _ = tcsetattr(self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// Reads a line; `None` is Ctrl-C.
fn read(terminal: &mut impl Read) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut typed = Zeroizing::new(Vec::with_capacity(BYTES));
    let mut byte = Zeroizing::new([0]);
    loop {
        match terminal.read_exact(&mut *byte) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        match byte[0] {
            b'\n' | b'\r' => return Ok(Some(typed)),
            CTRL_C => return Ok(None),
            CTRL_D if typed.is_empty() => return Ok(None),
            CTRL_D => return Ok(Some(typed)),
            CTRL_U => typed.clear(),
            key if BACKSPACE.contains(&key) => {
                // A character may have several bytes.
                while typed.pop().is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000) {}
            }
            _ if typed.len() == BYTES => return Err(io::Error::new(ErrorKind::InvalidInput, "it is too long")),
            key => typed.push(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_mended_and_given_up() {
        let read = |typed: &[u8]| read(&mut &typed[..]).map(|line| line.map(|line| line.to_vec()));
        assert_eq!(read(b"open sesame\nrest").unwrap().unwrap(), b"open sesame");
        assert_eq!(read("a\u{e9}\u{7f}b\n".as_bytes()).unwrap().unwrap(), b"ab");
        assert_eq!(read(b"\x7fwrong\x15right\x04").unwrap().unwrap(), b"right");
        assert_eq!(read(b"\n").unwrap().unwrap(), b"");
        for given_up in [&b"half\x03"[..], b"\x04", b"half"] {
            assert_eq!(read(given_up).unwrap(), None);
        }
        assert!(read(&[b'x'; BYTES + 1]).is_err());
    }
}
