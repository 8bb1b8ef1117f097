//! What is shown: lines on standard output, and a progress bar beside them.

use std::io::{Error, ErrorKind, IsTerminal as _, Result, Write as _, stderr, stdout};

/// A blank line, and a line that says what comes.
pub(crate) fn heading(text: impl AsRef<str>) -> Result<()> {
    line("")?;
    line(text)
}

/// A line.
pub(crate) fn line(text: impl AsRef<str>) -> Result<()> {
    let text = printable(text.as_ref()) + "\n";
    stdout().lock().write_all(text.as_bytes()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => error,
        kind => Error::new(kind, format!("standard output: {error}")),
    })
}

/// A line of a table: so many of these.
pub(crate) fn row(count: u64, what: impl AsRef<str>) -> Result<()> {
    line(format!("  {count:>5}  {}", what.as_ref()))
}

/// What belongs to the row above.
pub(crate) fn detail(text: impl AsRef<str>) -> Result<()> {
    line(format!("         {}", text.as_ref()))
}

/// "1 order", "2 orders".
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", plural(count, one, many))
}

/// The word that fits the count.
pub(crate) fn plural<'a>(count: u64, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

/// Names and reasons come from files and from outside: what would steer a terminal, or break the line, is shown as `�`.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A progress bar on a terminal; elsewhere a line for each step. Where nobody can see it, it is left out.
pub(crate) struct Bar {
    what: &'static str,
    total: u64,
    shown: Option<u64>,
    terminal: bool,
}

impl Bar {
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        Self { what, total, shown: None, terminal: stderr().is_terminal() }
    }

    pub(crate) fn show(&mut self, done: u64) {
        self.total = self.total.max(done);
        if self.shown.replace(done) == Some(done) {
            return;
        }
        let text = if self.terminal {
            let full = (done * 40).checked_div(self.total).unwrap_or(40) as usize;
            format!("\r  {:<10} [{:<40}] {done} of {}", self.what, "#".repeat(full), self.total)
        } else {
            format!("{} {done} of {}\n", self.what, self.total)
        };
        let _: Result<()> = stderr().write_all(text.as_bytes());
    }

    /// Shows that so many are left.
    pub(crate) fn left(&mut self, left: u64) {
        self.show(self.total.saturating_sub(left));
    }

    pub(crate) fn end(&self) {
        if self.terminal {
            let _: Result<()> = stderr().write_all(format!("\r{:70}\r", "").as_bytes());
        }
    }
}
