//! What is wrong with a trust file.

/// What is wrong with a file, and in which line.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1; 0 is the file as a whole.
    pub line: usize,
    /// What is wrong with it, and what to do.
    pub reason: String,
}
