//! Training with policies from elsewhere: ONNX and TorchScript as the reference, TorchScript as the policy.

#![expect(clippy::unwrap_used, reason = "tests")]

mod reference;
mod training;
