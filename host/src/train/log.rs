//! Everything that a run writes about itself.
//!
//! | module | what |
//! |---|---|
//! | [`metrics_file`] | `metrics.jsonl` |
//! | [`tensorboard`] | TensorBoard events |
//! | [`plot`] | `loss.svg` |
//! | [`report`] | all of them, and `run.toml` |

pub mod metrics_file;
pub mod tensorboard;
pub mod plot;
pub mod report;

pub use report::Report;
