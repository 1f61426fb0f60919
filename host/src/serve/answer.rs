//! From a plan to its response: one object, or a stream of events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderValue;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::spawn_blocking;

use crate::generate::GenerateOptions;
use crate::generate::request::Request;

use super::api::completions::Position;
use super::api::plan::{Kind, Plan};
use super::api::result::Generated;
use super::api::{chat, completions};
use super::body;
use super::error::ApiError;
use super::job::{Failure, Job, Piece};
use super::state::{App, random, unix_seconds};

/// Answers a plan, whose texts have places.
///
/// # Errors
///
/// Returns why no answer has begun.
pub(super) async fn answer(app: Arc<App>, plan: Plan, places: Vec<OwnedSemaphorePermit>) -> Result<Response, ApiError> {
    let pieces = submit(&app, &plan, places)?;
    let answer = Answer::new(app, plan, pieces);
    if answer.plan.parameters.is_streamed { answer.stream().await } else { answer.whole().await }
}

/// Puts every text of a plan in the queue; returns where their pieces arrive.
fn submit(
    app: &App,
    plan: &Plan,
    places: Vec<OwnedSemaphorePermit>,
) -> Result<UnboundedReceiver<(usize, Piece)>, ApiError> {
    let (sender, receiver) = unbounded_channel();
    let num_choices = plan.parameters.num_choices;
    for (index, place) in places.into_iter().enumerate() {
        let prompt = &plan.prompts[index / num_choices];
        let options = GenerateOptions { max_new_tokens: prompt.max_new_tokens, ..plan.parameters.options.clone() };
        let request = Request {
            prompt: prompt.ids.clone(),
            lambda: plan.lambda.clone(),
            options,
            // So that a prompt in a list is answered as it is alone.
            stream: (index % num_choices) as u64,
            top_log_probs: plan.num_top,
            prompt_log_probs: plan.echo && plan.num_top.is_some(),
        };
        let (stops, pieces) = (plan.parameters.stops.clone(), sender.clone());
        app.submit(Job { request, stops, index, pieces, accepted: Instant::now(), place })?;
    }
    Ok(receiver)
}

/// An answer on its way.
struct Answer {
    app: Arc<App>,
    plan: Plan,
    pieces: UnboundedReceiver<(usize, Piece)>,
    id: String,
    created: u64,
    num_texts: usize,
    num_finished: usize,
    num_generated: usize,
    positions: Vec<Position>,
    /// Log-probs of prompts that wait for the first part of their text.
    prompts: Vec<Option<Piece>>,
}

impl Answer {
    fn new(app: Arc<App>, plan: Plan, pieces: UnboundedReceiver<(usize, Piece)>) -> Self {
        let num_texts = plan.prompts.len() * plan.parameters.num_choices;
        let prefix = if plan.kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            app,
            pieces,
            id: format!("{prefix}-{:016x}{:08x}", random(), random() >> 32),
            created: unix_seconds(),
            num_texts,
            num_finished: 0,
            num_generated: 0,
            positions: vec![Position::default(); num_texts],
            prompts: vec![None; num_texts],
            plan,
        }
    }

    /// Waits for all texts, and returns one object.
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut texts: Vec<Generated> = (0..self.num_texts).map(|_| Generated::default()).collect();
        while self.num_finished < self.num_texts {
            let (index, piece) = self.next().await?;
            texts[index].add(piece);
        }
        // Long lists of log-probs take long, and other requests share this thread.
        let object = spawn_blocking(move || self.into_object(&texts)).await;
        object.map_err(|error| ApiError::internal(format!("the answer could not be written: {error}")))?
    }

    /// Returns the object with all texts.
    fn into_object(mut self, texts: &[Generated]) -> Result<Response, ApiError> {
        let mut choices = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            choices.push(match self.plan.kind {
                Kind::Chat => chat::choice(index, &self.plan, text, &self.app.token_names),
                Kind::Completion => {
                    completions::choice(&self.app, index, &self.plan, text, &mut self.positions[index])?
                }
            });
        }
        let mut object = self.object(choices);
        object["usage"] = self.usage();
        Ok(body::json(&object))
    }

    /// Waits for the first piece, so that what fails at once has its status, and returns a stream of events.
    async fn stream(mut self) -> Result<Response, ApiError> {
        let mut events = VecDeque::new();
        if self.plan.kind == Kind::Chat {
            events.extend((0..self.num_texts).map(|index| self.event(chat::first_chunk(index))));
        }
        let first = self.next().await?;
        events.extend(self.events_of(first)?);
        let state = Streamed { answer: self, events, is_over: false };
        let events = stream::unfold(state, |mut state| async move {
            let event = state.next().await?;
            Some((Ok::<_, Infallible>(event), state))
        });
        let mut response = Sse::new(events).into_response();
        // So that nginx, as a proxy, passes each event on at once.
        response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }

    /// Waits for the next piece.
    async fn next(&mut self) -> Result<(usize, Piece), ApiError> {
        // Closed without an end if the worker panicked with the text.
        let lost = || ApiError::internal("the text was lost: send the request again");
        let (index, piece) = self.pieces.recv().await.ok_or_else(lost)?;
        match piece {
            Piece::Failed(Failure::Refused(message)) => Err(ApiError::malformed(message)),
            Piece::Failed(Failure::Internal(message)) => Err(ApiError::internal(message)),
            Piece::Failed(Failure::Stopping) => Err(ApiError::stopping()),
            Piece::End { num_tokens, .. } => {
                self.num_finished += 1;
                self.num_generated += num_tokens;
                Ok((index, piece))
            }
            piece => Ok((index, piece)),
        }
    }

    /// Returns the events that a piece makes: often one, none if it comes with the next.
    fn events_of(&mut self, (index, piece): (usize, Piece)) -> Result<Vec<Event>, ApiError> {
        if matches!(piece, Piece::Prompt(_)) {
            self.prompts[index] = Some(piece);
            return Ok(Vec::new());
        }
        let mut part = Generated::default();
        self.prompts[index].take().into_iter().chain([piece]).for_each(|piece| part.add(piece));
        let choice = match self.plan.kind {
            Kind::Chat => chat::chunk(index, &self.plan, &part, &self.app.token_names),
            Kind::Completion => completions::choice(&self.app, index, &self.plan, &part, &mut self.positions[index])?,
        };
        let mut events = vec![self.event(choice)];
        if self.num_finished == self.num_texts {
            if self.plan.parameters.include_usage {
                let mut object = self.object(Vec::new());
                object["usage"] = self.usage();
                events.push(Event::default().data(object.to_string()));
            }
            events.push(Event::default().data("[DONE]"));
        }
        Ok(events)
    }

    fn event(&self, choice: Value) -> Event {
        let mut object = self.object(vec![choice]);
        if self.plan.parameters.include_usage {
            object["usage"] = Value::Null;
        }
        Event::default().data(object.to_string())
    }

    /// Returns the object around choices.
    fn object(&self, choices: Vec<Value>) -> Value {
        let object = match (self.plan.kind, self.plan.parameters.is_streamed) {
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Completion, _) => "text_completion",
        };
        let mut object = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.plan.model,
            "choices": choices,
            "system_fingerprint": null,
            "seed": self.plan.parameters.options.seed,
        });
        if let Some(lambda) = &self.plan.lambda {
            object["lambda"] = self.app.catalogue.by_name(lambda);
        }
        object
    }

    fn usage(&self) -> Value {
        let num_prompt: usize = self.plan.prompts.iter().map(|prompt| prompt.ids.len()).sum();
        json!({
            "prompt_tokens": num_prompt,
            "completion_tokens": self.num_generated,
            "total_tokens": num_prompt + self.num_generated,
        })
    }
}

/// A stream of events on its way.
struct Streamed {
    answer: Answer,
    events: VecDeque<Event>,
    is_over: bool,
}

impl Streamed {
    /// Waits for the next event; None at the end. An error is the last event: a client that knows OpenAI's API reports it.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.is_over || self.answer.num_finished == self.answer.num_texts {
                return None;
            }
            let events = match self.answer.next().await {
                Ok(piece) => self.answer.events_of(piece),
                Err(error) => Err(error),
            };
            match events {
                Ok(events) => self.events.extend(events),
                Err(error) => {
                    self.is_over = true;
                    self.events.push_back(Event::default().data(error.to_json().to_string()));
                }
            }
        }
    }
}
