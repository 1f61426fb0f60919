//! Messages and progress on stderr: a progress bar on a terminal, a line from time to time elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines of progress without a terminal: often enough to see a run move, and a log of an hour stays short.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Writes one line to stderr; errors are ignored, because a run must not fail for a closed stderr.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Progress of one task.
#[derive(Debug)]
pub struct Progress {
    /// None without a terminal.
    bar: Option<ProgressBar>,
    title: String,
    total: u64,
    last_line: Instant,
    last_position: u64,
}

impl Progress {
    /// Starts to show a task of `total` units, `done` of which are done; `total` is 0 if it is not known.
    pub fn new(title: &str, total: u64, done: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = "{prefix} {wide_bar} {pos}/{len} [{elapsed}<{eta}] {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(title.to_owned());
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        Self { bar, title: title.to_owned(), total, last_line: Instant::now(), last_position: done }
    }

    /// Sets position, total and message.
    pub fn update(&mut self, position: u64, total: u64, message: &str) {
        self.total = total;
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_message(message.to_owned());
                bar.set_position(position);
            }
            None if self.last_line.elapsed() >= LINE_INTERVAL => self.line(position, message),
            None => {}
        }
        self.last_position = position;
    }

    /// Writes a line above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    /// Ends the task and leaves its last state on the screen.
    pub fn finish(mut self, message: &str) {
        match self.bar.take() {
            Some(bar) => bar.abandon_with_message(message.to_owned()),
            None => self.line(self.last_position, message),
        }
    }

    /// Ends the task and clears the bar.
    pub fn clear(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, position: u64, message: &str) {
        self.last_line = Instant::now();
        let total = if self.total > 0 { format!("/{}", self.total) } else { String::new() };
        let message = if message.is_empty() { String::new() } else { format!("  {message}") };
        say(&format!("{} {position}{total}{message}", self.title));
    }
}
