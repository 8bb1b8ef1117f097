//! A progress bar.

use std::io::{IsTerminal as _, Write as _, stderr};

/// A progress bar on a terminal; elsewhere a line for each step.
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

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn show(&mut self, done: u64) {
        self.total = self.total.max(done);
        if self.shown.replace(done) == Some(done) {
            return;
        }
        if self.terminal {
            let full = (done * 40).checked_div(self.total).unwrap_or(40) as usize;
            eprint!("\r  {:<10} [{:<40}] {done} of {}", self.what, "#".repeat(full), self.total);
            let _: Result<(), std::io::Error> = stderr().flush();
        } else {
            eprintln!("{} {done} of {}", self.what, self.total);
        }
    }

    pub(crate) fn end(&self) {
        if self.terminal {
            eprint!("\r{:70}\r", "");
        }
    }
}
