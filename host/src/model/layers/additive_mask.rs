//! Masks that are added to attention scores.
//!
//! libtorch turns a boolean mask into one of these in each call, and autograd keeps it until the backward: a copy for
//! each layer. The layers share the one that is made here.

use tch::{Kind, Tensor};

use crate::model::ModelError;

/// Converts [R, T, S] bool into [R, 1, T, S]: 0 where true, −∞ where false.
pub(in crate::model) fn additive(visible: &Tensor, kind: Kind) -> Result<Tensor, ModelError> {
    let mask = Tensor::f_zeros(visible.size(), (kind, visible.device()))?;
    Ok(mask.f_masked_fill(&visible.f_logical_not()?, f64::NEG_INFINITY)?.f_unsqueeze(1)?)
}
