//! OpenAI's API: fields in, objects out.
//!
//! | module | contents |
//! |---|---|
//! | [`fields`] | fields of a JSON object, with their types checked |
//! | [`parameters`] | the fields that chats and completions share |
//! | [`plan`] | what a request asks for |
//! | [`log_probs`] | lists of log-probs in both forms |
//! | [`result`] | a generated text |
//! | [`chat`] | `/v1/chat/completions` |
//! | [`completions`] | `/v1/completions` |

mod fields;
mod parameters;
pub(super) mod plan;
mod log_probs;
pub(super) mod result;
pub(super) mod chat;
pub(super) mod completions;
