//! Runs of a program on a terminal of its own.

use std::{
    fs::File,
    io::Write,
    process::{Child, Command, Stdio},
};

use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::Signal,
        termios::{LocalFlags, tcgetattr},
    },
};

use crate::{Log, process};

/// Columns and rows of a terminal, where the test sets no others.
const SIZE: (u16, u16) = (80, 24);

/// A program that runs on a terminal, which shows its standard output and standard error.
pub struct OnTerminal {
    child: Child,
    master: File,
    shown: Log,
}

impl OnTerminal {
    /// Starts `command` on a terminal of 80 columns.
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command, SIZE, None)
    }

    /// Starts `command` on such a terminal, which is its standard input too. `typed` was typed ahead.
    pub fn start_typing(command: &mut Command, typed: &str) -> Self {
        Self::start_with(command, SIZE, Some(typed))
    }

    /// Starts `command` on a terminal of so many columns and rows, which is its standard input too.
    pub fn start_sized(command: &mut Command, size: (u16, u16)) -> Self {
        Self::start_with(command, size, Some(""))
    }

    fn start_with(command: &mut Command, (columns, rows): (u16, u16), typed: Option<&str>) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(&size, None).expect("a terminal");
        let slave = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
        if typed.is_some() {
            command.stdin(slave());
        }
        let child = command.stdout(slave()).stderr(slave()).spawn().expect("the program starts");
        // The command keeps descriptors of the terminal, which would never close.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut master = File::from(terminal.master);
        master.write_all(typed.unwrap_or_default().as_bytes()).expect("a terminal that takes input");
        let shown = Log::default();
        // A terminal that nobody has open any more ends with an error.
        shown.follow(master.try_clone().expect("a descriptor"));
        Self { child, master, shown }
    }

    /// Types `answer` once the program has asked `question`.
    #[track_caller]
    pub fn answer(&mut self, question: &str, answer: &str) {
        self.shown.wait(question);
        self.master.write_all(answer.as_bytes()).expect("a terminal that takes input");
    }

    /// Types a text.
    pub fn type_text(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("a terminal that takes input");
    }

    /// All that the terminal was sent so far.
    pub fn shown(&self) -> String {
        self.shown.text()
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        process::send(&self.child, signal);
    }

    /// Waits until the program has asked `question`.
    #[track_caller]
    pub fn wait_for(&self, question: &str) {
        self.shown.wait(question);
    }

    /// Whether the terminal shows what is typed.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.master).expect("a terminal").local_flags.contains(LocalFlags::ECHO)
    }

    /// Waits for the program's end. Returns its exit code and what the terminal was sent, in which each line ends
    /// with a carriage return and a line feed.
    #[track_caller]
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let status = process::wait(&mut self.child, "the program to end");
        (status.code(), self.shown.wait_closed())
    }
}
