//! Low-rank adapters in the linear layers.

use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::random::{Random, mix};

/// The linear layers of a decoder layer, which `all-linear` stands for.
pub const LINEAR_NAMES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Which linear layers get an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// All of [`LINEAR_NAMES`].
    AllLinear,
    /// Those whose path is one of these or ends in one of these after a dot, as in PEFT.
    Names(Vec<String>),
}

impl TargetModules {
    /// Whether the layer at `path` (`model.layers.0.self_attn.q_proj`, say) is a target.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        match self {
            TargetModules::AllLinear => true,
            TargetModules::Names(names) => names.iter().any(|name| names_path(name, path)),
        }
    }

    /// The first name that is no linear layer of any of `paths`.
    pub(super) fn unknown_name(&self, paths: &[String]) -> Option<&str> {
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

/// What an adapter is made of; names and meanings are PEFT's.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// `r`: width of the low-rank pair.
    pub rank: i64,
    /// `lora_alpha`: what the adapter adds is scaled by alpha / rank.
    pub alpha: f64,
    /// `lora_dropout`: share of inputs that training leaves out.
    pub dropout: f64,
    /// `use_rslora`: scale by alpha / √rank instead.
    pub use_rslora: bool,
    /// `target_modules`.
    pub target_modules: TargetModules,
}

impl LoraConfig {
    /// What B A x is multiplied with.
    #[must_use]
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// # Errors
    ///
    /// [`ModelError::Request`] when a value is out of range.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        if self.rank < 1 {
            return Err(ModelError::Request(format!("An adapter's rank must be at least 1, found {}", self.rank)));
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
/// y = W x + scaling · B (A dropout(x)). The product A x stands alone between the two matrices, which is where an adapter
/// that depends on the token's λ scales it.
#[derive(Debug)]
pub(super) struct Lora {
    /// [rank, in], float32 whatever the model's dtype.
    pub(super) a: Tensor,
    /// [out, rank], float32.
    pub(super) b: Tensor,
    pub(super) scaling: f64,
    pub(super) dropout: f64,
    /// The layer's number, which makes its dropout its own.
    pub(super) index: u64,
}

impl Lora {
    /// A new pair: A uniform as PEFT draws it (within ±1 / √in), B zero, so that it adds nothing yet.
    pub(super) fn random(
        config: &LoraConfig,
        (num_outputs, num_inputs): (i64, i64),
        index: u64,
        seed: u64,
        device: Device,
    ) -> Result<Lora, ModelError> {
        let bound = 1.0 / (num_inputs as f64).sqrt();
        let a = Random::new(seed, index).uniform(&[config.rank, num_inputs], bound)?.f_to_device(device)?;
        let b = Tensor::f_zeros([num_outputs, config.rank], (Kind::Float, device))?;
        Ok(Lora { a, b, scaling: config.scaling(), dropout: config.dropout, index })
    }

    /// What the adapter adds to the layer's output.
    ///
    /// # Shapes
    ///
    /// `input`: [R, T, in]; the result: [R, T, out].
    ///
    /// # Numerics
    ///
    /// The float32 parameters are rounded to the dtype of `input` for the products; their gradients are float32 again.
    pub(super) fn forward(&self, input: &Tensor, dropout_seed: Option<i64>) -> Result<Tensor, ModelError> {
        let kind = input.f_kind()?;
        let a = self.a.f_to_kind(kind)?;
        let reduced = match dropout_seed {
            Some(seed) if self.dropout > 0.0 => self.drop_out(input, seed)?.f_linear(&a, None::<Tensor>)?,
            _ => input.f_linear(&a, None::<Tensor>)?,
        }; // [R, T, rank]
        Ok(reduced.f_mul_scalar(self.scaling)?.f_linear(&self.b.f_to_kind(kind)?, None::<Tensor>)?)
    }

    /// Zeroes a share of the inputs and scales up the others: the same ones for the same seed, in a recomputation too.
    ///
    /// Reseeds libtorch's generator. Nothing in this program draws from it without seeding it first.
    fn drop_out(&self, input: &Tensor, seed: i64) -> Result<Tensor, ModelError> {
        let keep = 1.0 - self.dropout;
        tch::manual_seed(mix(seed as u64, self.index) as i64);
        let mask = tch::no_grad(|| input.f_empty_like()?.f_bernoulli_float_(keep)?.f_div_scalar(keep))?;
        Ok(input.f_mul(&mask)?)
    }

    /// scaling · B A, [out, in] float32.
    pub(super) fn delta(&self) -> Result<Tensor, ModelError> {
        Ok(self.b.f_matmul(&self.a)?.f_mul_scalar(self.scaling)?)
    }
}
