//! A text in the engine: its tokens become pieces, up to a stop string or an end token.

use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::generate::request::{Ending, Event, Request, Token};
use crate::generate::text::TextStream;
use crate::plugin::{PluginError, Tokenizer};

use crate::serve::job::{Failure, FinishReason, Job, Piece, ScoredToken};
use crate::serve::metrics::Metrics;
use crate::serve::stop::StopFilter;

/// A text that is being generated.
pub(super) struct Row<'t> {
    text: TextStream<'t>,
    stop: StopFilter,
    num_tokens: usize,
    /// Characters of the text so far, whether passed on or held back.
    num_chars: usize,
    /// Characters that were passed on.
    num_passed: usize,
    /// Tokens that were not passed on yet.
    tokens: Vec<ScoredToken>,
    first_token: Option<Instant>,
    job: JobParts,
}

/// What of a job is needed until its end.
struct JobParts {
    index: usize,
    pieces: UnboundedSender<(usize, Piece)>,
    accepted: Instant,
    /// Freed when the row is dropped.
    _place: OwnedSemaphorePermit,
}

impl<'t> Row<'t> {
    /// Splits a job into the engine's request and the row that takes its events.
    pub(super) fn new(job: Job, tokenizer: &'t Tokenizer) -> (Request, Self) {
        let Job { request, stops, index, pieces, accepted, place } = job;
        let row = Self {
            text: TextStream::new(tokenizer),
            stop: StopFilter::new(stops),
            num_tokens: 0,
            num_chars: 0,
            num_passed: 0,
            tokens: Vec::new(),
            first_token: None,
            job: JobParts { index, pieces, accepted, _place: place },
        };
        (request, row)
    }

    /// Returns whether nobody waits for the text any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.job.pieces.is_closed()
    }

    /// Ends the text without a result.
    pub(super) fn fail(self, failure: Failure) {
        self.send(Piece::Failed(failure));
    }

    /// Takes an event of the engine; returns whether the text has ended.
    ///
    /// # Errors
    ///
    /// Errors from the plugin.
    pub(super) fn take(&mut self, event: Event, eos_token_ids: &[i64], metrics: &Metrics) -> Result<bool, PluginError> {
        match event {
            Event::Prompt(log_probs) => {
                self.send(Piece::Prompt(log_probs));
                Ok(false)
            }
            Event::Token(token) => {
                self.count_token(metrics);
                if eos_token_ids.contains(&token.id) {
                    self.score(&token);
                    return self.end(FinishReason::Stop, metrics);
                }
                self.push(&token, metrics)
            }
            Event::End(Ending::Stop(_)) => self.end(FinishReason::Stop, metrics),
            Event::End(Ending::Length) => self.end(FinishReason::Length, metrics),
            Event::End(Ending::Failed(message)) => {
                self.send(Piece::Failed(Failure::Internal(message)));
                Ok(true)
            }
        }
    }

    fn count_token(&mut self, metrics: &Metrics) {
        self.num_tokens += 1;
        metrics.generated_tokens.inc();
        if self.first_token.is_none() {
            self.first_token = Some(Instant::now());
            metrics.time_to_first_token.observe(self.job.accepted.elapsed().as_secs_f64());
        }
    }

    /// Keeps a token's log-probs, if there are any.
    fn score(&mut self, token: &Token) {
        let offset = self.num_chars;
        let scored = token.log_probs.clone().map(|log_probs| ScoredToken { id: token.id, log_probs, offset });
        self.tokens.extend(scored);
    }

    fn push(&mut self, token: &Token, metrics: &Metrics) -> Result<bool, PluginError> {
        self.score(token);
        let text = self.text.push(token.id)?;
        self.num_chars += text.chars().count();
        let (text, is_stopped) = self.stop.push(&text);
        self.pass(text);
        if is_stopped {
            self.finish(FinishReason::Stop, metrics);
        }
        Ok(is_stopped)
    }

    /// Ends the text with what was held back.
    fn end(&mut self, reason: FinishReason, metrics: &Metrics) -> Result<bool, PluginError> {
        let (mut text, is_stopped) = self.stop.push(&self.text.finish()?);
        if !is_stopped {
            text += &self.stop.finish();
        }
        self.pass(text);
        self.finish(if is_stopped { FinishReason::Stop } else { reason }, metrics);
        Ok(true)
    }

    /// Passes text on, with the tokens that are complete with it.
    fn pass(&mut self, text: String) {
        if !text.is_empty() {
            self.num_passed += text.chars().count();
            let tokens = self.take_tokens();
            self.send(Piece::Text { text, tokens });
        }
    }

    fn finish(&mut self, reason: FinishReason, metrics: &Metrics) {
        if let Some(first) = self.first_token
            && self.num_tokens > 1
        {
            let seconds = first.elapsed().as_secs_f64();
            metrics.tokens_per_second.observe((self.num_tokens - 1) as f64 / seconds.max(1e-9));
        }
        let tokens = self.take_tokens();
        self.send(Piece::End { reason, tokens, num_tokens: self.num_tokens });
    }

    /// Takes the tokens that were kept; those of a stop string begin where the text ends.
    fn take_tokens(&mut self) -> Vec<ScoredToken> {
        let mut tokens = std::mem::take(&mut self.tokens);
        tokens.iter_mut().for_each(|token| token.offset = token.offset.min(self.num_passed));
        tokens
    }

    fn send(&self, piece: Piece) {
        // A client that is gone is noticed before the next step.
        let _ = self.job.pieces.send((self.job.index, piece));
    }
}
