//! Answers to many prompts, in the formats of the harnesses that judge them.
//!
//! | module | contents |
//! |---|---|
//! | [`question`] | prompts, read from a file |
//! | [`mod@respond`] | generates answers to all of them |
//! | [`rater`] | commands that score answers |
//! | [`judge`] | what scores answers: a rater or a reward model |
//! | [`mod@format`] | how answers are written: JSON lines, AlpacaEval, MT-Bench, Arena-Hard |

pub mod question;
pub mod respond;
pub mod rater;
pub mod judge;
pub mod format;

pub use format::AnswerFormat;
pub use judge::{Judge, JudgedAnswer};
pub use question::{Question, read};
pub use rater::Rater;
pub use respond::{Answered, respond};
