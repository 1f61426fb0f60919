//! What a person sees: a bar on a terminal, a line now and then elsewhere. Everything goes to stderr.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines of progress where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Writes one line to stderr; a closed stderr is nobody's problem.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Progress of one piece of work.
#[derive(Debug)]
pub struct Progress {
    /// On a terminal.
    bar: Option<ProgressBar>,
    title: String,
    total: u64,
    last_line: Instant,
    last_position: u64,
}

impl Progress {
    /// Begins work of `total` units, of which `done` are done; `total` may be 0 where it is not known.
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

    /// Sets position and message.
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

    /// Ends the work, leaving a last state to read.
    pub fn finish(mut self, message: &str) {
        match self.bar.take() {
            Some(bar) => bar.abandon_with_message(message.to_owned()),
            None => self.line(self.last_position, message),
        }
    }

    /// Ends the work without a trace.
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
