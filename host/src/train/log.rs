//! Logs of a run.
//!
//! | module | what |
//! |---|---|
//! | [`metrics_file`] | `metrics.jsonl` |
//! | [`tensorboard`] | TensorBoard events |
//! | [`plot`] | `loss.svg` |
//! | [`run_log`] | all of these, and `run.toml` |
//! | [`rows`] | a line of metrics for a step or an evaluation, and its short form for the terminal |

pub mod metrics_file;
pub mod tensorboard;
pub mod plot;
pub mod run_log;
pub mod rows;

pub use run_log::RunLog;
