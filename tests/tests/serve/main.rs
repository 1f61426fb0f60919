//! `lambda-dpo serve`: every request has its own λ, and is answered as if it were alone.

#![expect(clippy::unwrap_used, reason = "tests")]

mod alone;
mod campaign;
mod chats;
mod completions;
mod limits;
mod refusals;
mod shapes;
mod stopping;
