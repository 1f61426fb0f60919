//! Rotary position embedding.

use std::f32::consts::PI;

use tch::{Device, Kind, Tensor};

use crate::libtorch::rows;
use crate::model::ModelError;
use crate::model::config::{ModelConfig, RopeScaling};

/// The frequencies of a model's rotary embedding.
#[derive(Debug)]
pub(in crate::model) struct Rope {
    /// [1, 1, head_dim / 2] float32.
    inv_freq: Tensor,
}

/// Cosines and sines of a batch's positions, shared by all layers.
pub(in crate::model) struct Rotary {
    /// [R, 1, T, head_dim] in the model's dtype.
    cos: Tensor,
    /// The same shape; negative in the first half of the head, from which the product with the second half is
    /// subtracted.
    signed_sin: Tensor,
}

impl Rope {
    pub(in crate::model) fn new(config: &ModelConfig, device: Device) -> Result<Rope, ModelError> {
        let exponents = Tensor::f_arange_start_step(0, config.head_dim, 2, (Kind::Float, Device::Cpu))?
            .f_div_scalar(config.head_dim as f64)?;
        // By libtorch in float32, as in Transformers: a difference in the last bit would matter at position 100,000.
        let mut inv_freq = Vec::<f32>::try_from(Tensor::f_pow_scalar(config.rope_theta, &exponents)?.f_reciprocal()?)?;
        for frequency in &mut inv_freq {
            *frequency = scaled(*frequency, &config.rope_scaling);
        }
        let inv_freq = Tensor::f_from_slice(&inv_freq)?.f_view([1, 1, -1])?.f_to_device(device)?;
        Ok(Rope { inv_freq })
    }

    /// Returns the frequencies with the configuration's scaling, [head_dim / 2].
    pub(in crate::model) fn frequencies(&self) -> Result<Vec<f32>, ModelError> {
        Ok(Vec::try_from(self.inv_freq.f_to_device(Device::Cpu)?.f_reshape([-1])?)?)
    }

    /// Computes cosines and sines in float32 and rounds them to `kind` once.
    ///
    /// # Shapes
    ///
    /// `position_ids`: [R, T].
    pub(in crate::model) fn at(&self, position_ids: &Tensor, kind: Kind) -> Result<Rotary, ModelError> {
        let angles = position_ids.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?.f_mul(&self.inv_freq)?; // [R, T, D / 2]
        let (cos, sin) = (angles.f_cos()?, angles.f_sin()?);
        let whole = |first: &Tensor, second: &Tensor| -> Result<Tensor, ModelError> {
            Ok(Tensor::f_cat(&[first, second], -1)?.f_unsqueeze(1)?.f_to_kind(kind)?) // [R, 1, T, D]
        };
        Ok(Rotary { cos: whole(&cos, &cos)?, signed_sin: whole(&sin.f_neg()?, &sin)? })
    }
}

/// Applies the configuration's scaling to a frequency.
///
/// # Equation
///
/// For llama3, with the wavelength w = 2π / f and the original context length C: f if w < C / high, f / factor if
/// w > C / low, and (1 − s) f / factor + s f in between, with s = (C / w − low) / (high − low).
fn scaled(frequency: f32, scaling: &RopeScaling) -> f32 {
    match *scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let wavelength = 2.0 * PI / frequency;
            let scaled = frequency / factor as f32;
            if wavelength < (original_max_position_embeddings / high_freq_factor) as f32 {
                frequency
            } else if wavelength > (original_max_position_embeddings / low_freq_factor) as f32 {
                scaled
            } else {
                let smooth = (original_max_position_embeddings as f32 / wavelength - low_freq_factor as f32)
                    / (high_freq_factor - low_freq_factor) as f32;
                (1.0 - smooth) * scaled + smooth * frequency
            }
        }
    }
}

impl Rotary {
    /// Rotates queries or keys.
    ///
    /// # Shapes
    ///
    /// `heads` and the result: [R, heads, T, D].
    pub(in crate::model) fn rotate(&self, heads: &Tensor) -> Result<Tensor, ModelError> {
        if let Some(rotated) = rows::rotate(heads, &self.cos, &self.signed_sin) {
            return Ok(rotated?);
        }
        let turned = heads.f_roll([heads.size4()?.3 / 2], [-1])?;
        Ok(heads.f_mul(&self.cos)?.f_addcmul(&turned, &self.signed_sin)?)
    }
}
