//! Low-rank adapters in the linear layers.

use tch::{Device, Kind, Tensor};

use crate::model::ModelError;
use crate::model::adapter::lambda_parts::LambdaParts;
use crate::model::random::{Random, seed_at};

/// Names of the linear layers of a decoder layer, which `all-linear` means.
pub const LINEAR_NAMES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Which linear layers get an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// All of [`LINEAR_NAMES`].
    AllLinear,
    /// Layers whose path is one of these names or ends with a dot and one of these names, as in PEFT.
    Names(Vec<String>),
}

impl TargetModules {
    /// Returns whether the layer at `path` (for example `model.layers.0.self_attn.q_proj`) is a target.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        match self {
            TargetModules::AllLinear => true,
            TargetModules::Names(names) => names.iter().any(|name| names_path(name, path)),
        }
    }

    /// Returns the first name that matches none of `paths`.
    pub(in crate::model) fn unknown_name(&self, paths: &[String]) -> Option<&str> {
        match self {
            TargetModules::AllLinear => None,
            TargetModules::Names(names) => {
                names.iter().find(|name| !paths.iter().any(|path| names_path(name, path))).map(String::as_str)
            }
        }
    }
}

fn names_path(name: &str, path: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Configuration of an adapter; names and meanings are PEFT's.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// `r`: width of the low-rank pair; in a λ-adapter, of the part independent of λ, which may be 0.
    pub rank: i64,
    /// `lora_alpha`: the adapter's output is scaled by alpha / rank; in a λ-adapter by alpha / (rank per dimension).
    pub alpha: f64,
    /// `lora_dropout`: probability that training zeroes an input.
    pub dropout: f64,
    /// `use_rslora`: scale by alpha / √rank instead.
    pub use_rslora: bool,
    /// `target_modules`.
    pub target_modules: TargetModules,
    /// The λ-dependent part of a λ-adapter; None: a plain LoRA.
    pub lambda: Option<LambdaParts>,
}

impl LoraConfig {
    /// Returns the factor of B A x.
    #[must_use]
    pub fn scaling(&self) -> f64 {
        let rank = self.lambda.as_ref().map_or(self.rank, |parts| parts.rank) as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Returns R, the width of the low-rank pair as a whole.
    #[must_use]
    pub fn total_rank(&self) -> i64 {
        self.rank + self.lambda.as_ref().map_or(0, LambdaParts::total_rank)
    }

    /// Returns the configuration of a plain LoRA of another rank with the same scaling.
    pub(in crate::model) fn with_scaling(&self, rank: i64) -> LoraConfig {
        LoraConfig { rank, alpha: self.scaling() * rank as f64, use_rslora: false, lambda: None, ..self.clone() }
    }

    /// Checks that all values are in range.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if one is not.
    pub(in crate::model) fn check(&self) -> Result<(), ModelError> {
        let (least, own) = match &self.lambda {
            None => (1, None),
            Some(parts) => (0, Some(parts.rank)),
        };
        if self.rank < least {
            return Err(ModelError::Request(format!(
                "An adapter's rank must be at least {least}, found {}",
                self.rank
            )));
        }
        if let Some(rank) = own.filter(|rank| *rank < 1) {
            return Err(ModelError::Request(format!(
                "An adapter's rank per dimension must be at least 1, found {rank}"
            )));
        }
        if self.lambda.as_ref().is_some_and(|parts| parts.dimensions.is_empty()) {
            return Err(ModelError::Request("A λ-adapter needs at least one dimension, found none".into()));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ModelError::Request(format!(
                "An adapter's dropout must be at least 0 and below 1, found {}",
                self.dropout
            )));
        }
        if !self.alpha.is_finite() {
            return Err(ModelError::Request(format!("An adapter's alpha must be a number, found {}", self.alpha)));
        }
        Ok(())
    }
}

/// The adapter of one linear layer.
///
/// # Equation
///
/// y = W x + scaling · B (A dropout(x)); in a λ-adapter, s(λ) of the token scales A dropout(x), see [`LambdaParts`].
#[derive(Debug)]
pub(in crate::model) struct Lora {
    /// [R, in], float32 even if the model has a narrower dtype.
    pub(in crate::model) a: Tensor,
    /// [out, R], of the same dtype.
    pub(in crate::model) b: Tensor,
    pub(in crate::model) scaling: f64,
    pub(in crate::model) dropout: f64,
    /// Number of the layer, so that each layer has different dropout.
    pub(in crate::model) index: u64,
}

impl Lora {
    /// Initialises a pair as PEFT does: A uniform within ±1 / √in, B zero, so that the adapter's output is 0.
    pub(in crate::model) fn random(
        config: &LoraConfig,
        (num_outputs, num_inputs): (i64, i64),
        index: u64,
        seed: u64,
        (kind, device): (Kind, Device),
    ) -> Result<Lora, ModelError> {
        let (rank, bound) = (config.total_rank(), 1.0 / (num_inputs as f64).sqrt());
        let a = Random::new(seed, index).uniform(&[rank, num_inputs], bound)?.f_to_device(device)?.f_to_kind(kind)?;
        let b = Tensor::f_zeros([num_outputs, rank], (kind, device))?;
        Ok(Lora { a, b, scaling: config.scaling(), dropout: config.dropout, index })
    }

    /// Returns the adapter's output, which is added to that of the layer.
    ///
    /// # Shapes
    ///
    /// `input`: [rows, T, in]; the result: [rows, T, out]; `lambda_scale`: [rows, T, R] or [1, 1, R], scaling · s(λ),
    /// which replaces the scaling.
    ///
    /// # Numerics
    ///
    /// The float32 parameters are rounded to the dtype of `input` for the matrix products; their gradients are float32.
    pub(in crate::model) fn forward(
        &self,
        input: &Tensor,
        lambda_scale: Option<&Tensor>,
        dropout_seed: Option<i64>,
    ) -> Result<Tensor, ModelError> {
        let kind = input.f_kind()?;
        let a = self.a.f_to_kind(kind)?;
        let reduced = match self.used_seed(dropout_seed) {
            Some(seed) => self.drop_out(input, seed)?.f_linear(&a, None::<Tensor>)?,
            None => input.f_linear(&a, None::<Tensor>)?,
        }; // [rows, T, R]
        let scaled = match lambda_scale {
            Some(scale) => reduced.f_mul(scale)?,
            None => reduced.f_mul_scalar(self.scaling)?,
        };
        Ok(scaled.f_linear(&self.b.f_to_kind(kind)?, None::<Tensor>)?)
    }

    /// Returns the seed, if some inputs are zeroed by it.
    pub(in crate::model) fn used_seed(&self, dropout_seed: Option<i64>) -> Option<i64> {
        dropout_seed.filter(|_| self.dropout > 0.0)
    }

    /// Applies dropout. The same seed drops the same inputs, so that recomputation with checkpointing is exact.
    ///
    /// Reseeds libtorch's generator. Nothing in this program draws from it without seeding it first.
    fn drop_out(&self, input: &Tensor, seed: i64) -> Result<Tensor, ModelError> {
        tch::manual_seed(seed_at(seed as u64, self.index) as i64);
        // What it keeps for the backward is a mask of one byte per input.
        let (dropped, _) = input.f_native_dropout(self.dropout, true)?;
        Ok(dropped)
    }

    /// Returns scaling · B A, [out, in]. A λ-adapter's λ must be folded in first.
    pub(in crate::model) fn delta(&self) -> Result<Tensor, ModelError> {
        Ok(self.b.f_matmul(&self.a)?.f_mul_scalar(self.scaling)?)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn lora(dropout: f64) -> Lora {
        let empty = || Tensor::zeros([1, 1], (Kind::Float, Device::Cpu));
        Lora { a: empty(), b: empty(), scaling: 1.0, dropout, index: 3 }
    }

    #[test]
    fn dropout_zeroes_a_share_of_the_inputs_and_scales_the_others_like_their_gradients() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let input = Tensor::ones([100, 1000], (kind, Device::Cpu)).set_requires_grad(true);
            let dropped = lora(0.2).drop_out(&input, 5).unwrap();
            let zeros = dropped.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            assert!((zeros - 0.2).abs() < 0.01, "{zeros}");
            let kept = Tensor::from(1.25).to_kind(kind).double_value(&[]);
            assert_eq!(dropped.max().double_value(&[]), kept);
            dropped.sum(Kind::Float).backward();
            assert_eq!(input.grad(), dropped.detach());
        }
    }

    /// Bytes of main memory that the process holds.
    fn resident_bytes() -> i64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse::<i64>().unwrap() * 1024
    }

    #[test]
    fn dropout_keeps_a_byte_for_each_input() {
        let num_inputs = 32 << 20;
        let input = Tensor::ones([num_inputs], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let before = resident_bytes();
        let dropped = lora(0.5).drop_out(&input, 5).unwrap();
        let kept = resident_bytes() - before;
        assert!(dropped.requires_grad());
        // Four bytes of output and one of the mask; a mask in the dtype of the input would be four more.
        assert!(kept < num_inputs * 13 / 2, "{kept} bytes for {num_inputs} inputs");
    }
}
