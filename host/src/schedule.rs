//! `lambda-dpo schedule fit`: a `table` schedule of λ, fitted to scores at a few λ.
//!
//! | module | what |
//! |---|---|
//! | `lines` | JSON lines with a λ each |
//! | `surrogate` | a score as a quadratic function of λ, by ridge regression |
//! | `anchors` | the λ with a known score: from JSON lines, or from a control report of `steer` |
//! | `candidates` | the λ to choose among: drawn, or from JSON lines |
//! | `fit` | the surrogate of the anchors, its errors, and the probability of each candidate |
//! | `fragment` | the `[lambda]` section for a run config |
//!
//! docs/method.md, "A table fitted to scores", says what of this is the paper's.

mod lines;
mod surrogate;
mod anchors;
mod candidates;
mod fit;
mod fragment;

pub use anchors::{Anchors, Metric};
pub use candidates::{draw, read};
pub use fit::{CandidateReport, Fit, Settings};
pub use fragment::fragment;
pub use surrogate::{Anchor, Form, Surrogate, softmax};
