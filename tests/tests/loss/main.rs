//! The collator's layouts, log-probs, the loss and its gradients: closed forms, finite differences, and the paper's own
//! values. One program, because each that links libtorch takes seconds to build.

#![expect(clippy::unwrap_used, reason = "tests")]

mod layouts;
mod paper_layout;
mod closed_forms;
mod gradients;
mod appendix_b;
mod sides;
mod objective_goldens;
mod objectives;
mod parameter_gradients;
mod precision;
