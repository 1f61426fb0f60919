//! Log-probs of single tokens under the model itself.

use tch::{Device, Kind, Tensor};

use crate::model::ModelError;

use super::request::TokenLogProbs;

/// Returns the log-prob of a token at each position, with the `num_top` most probable tokens there.
///
/// # Shapes
///
/// `logits`: [K, V] float32; `ids`: `[K]`.
///
/// # Numerics
///
/// Float32, as the log-probs of `score`.
pub(super) fn token_log_probs(logits: &Tensor, ids: &[i64], num_top: usize) -> Result<Vec<TokenLogProbs>, ModelError> {
    let log_probs = logits.f_log_softmax(-1, Kind::Float)?;
    let index = Tensor::f_from_slice(ids)?.f_to_device(log_probs.device())?.f_unsqueeze(1)?;
    let own = values(&log_probs.f_gather(1, &index, false)?)?;
    let num_top = num_top.min(log_probs.size2()?.1 as usize);
    let (top, top_ids) = log_probs.f_topk(num_top as i64, -1, true, true)?;
    let (top, top_ids) = (values(&top)?, Vec::<i64>::try_from(top_ids.f_to_device(Device::Cpu)?.f_reshape([-1])?)?);
    Ok(own
        .into_iter()
        .enumerate()
        .map(|(position, log_prob)| {
            let of_position = position * num_top..(position + 1) * num_top;
            let top = top_ids[of_position.clone()].iter().copied().zip(top[of_position].iter().copied()).collect();
            TokenLogProbs { log_prob, top }
        })
        .collect())
}

fn values(tensor: &Tensor) -> Result<Vec<f64>, ModelError> {
    Ok(Vec::try_from(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_reshape([-1])?)?)
}
