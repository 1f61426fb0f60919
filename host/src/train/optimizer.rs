//! AdamW with decoupled weight decay; its state is float32 whatever the parameters' dtype.

use std::collections::HashMap;

use tch::{Kind, TchError, Tensor};

use crate::config::TrainSection;
use crate::libtorch::native::{self, AdamWScalars, AdamWTensors};

/// Hyperparameters, named as in Transformers.
#[derive(Clone, Copy, Debug)]
pub struct AdamWOptions {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl From<&TrainSection> for AdamWOptions {
    fn from(train: &TrainSection) -> Self {
        Self {
            beta1: train.adam_beta1,
            beta2: train.adam_beta2,
            epsilon: train.adam_epsilon,
            weight_decay: train.weight_decay,
        }
    }
}

/// A parameter and its state.
#[derive(Debug)]
struct Slot {
    name: String,
    /// Shares its storage with the model's.
    parameter: Tensor,
    /// Float32 master weights of a 16-bit parameter.
    master: Option<Tensor>,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    /// Sum of the gradients of a step's micro-batches in float32, if it was [accumulated](AdamW::accumulate).
    accumulated: Option<Tensor>,
    decays: bool,
}

impl Slot {
    /// Returns the gradient of the step; None if there is none.
    fn gradient(&self) -> Option<Tensor> {
        match &self.accumulated {
            Some(sum) => Some(sum.shallow_clone()),
            None => Some(self.parameter.grad()).filter(Tensor::defined),
        }
    }
}

/// AdamW over the trainable parameters of a model.
///
/// # Equation
///
/// With g the gradient, t the number of updates: m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g²,
/// w ← (1 − η·decay) w − η · m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε).
///
/// # Numerics
///
/// m, v and the weights that are updated are float32; a bfloat16 parameter is the rounded copy of its master weights.
/// The gradients of several micro-batches are summed in float32, each being a 16-bit parameter's only rounded to 16 bits.
#[derive(Debug)]
pub struct AdamW {
    slots: Vec<Slot>,
    options: AdamWOptions,
    num_updates: u64,
}

impl AdamW {
    /// Makes an optimiser with zero moments for each parameter.
    ///
    /// # Errors
    ///
    /// Errors from libtorch, such as out of memory.
    pub fn new(parameters: Vec<(String, Tensor)>, options: AdamWOptions) -> Result<Self, TchError> {
        let slots = parameters.into_iter().map(|(name, parameter)| {
            let weights = parameter.f_detach()?;
            let zeros = || weights.f_zeros_like()?.f_to_kind(Kind::Float);
            Ok(Slot {
                master: if weights.kind() == Kind::Float { None } else { Some(weights.f_to_kind(Kind::Float)?) },
                exp_avg: zeros()?,
                exp_avg_sq: zeros()?,
                accumulated: None,
                decays: decays(&name),
                name,
                parameter,
            })
        });
        Ok(Self { slots: slots.collect::<Result<_, TchError>>()?, options, num_updates: 0 })
    }

    /// Returns the number of updates so far.
    pub fn num_updates(&self) -> u64 {
        self.num_updates
    }

    /// Adds the gradients of a micro-batch, if they have 16 bits, to those of the step's earlier micro-batches in
    /// float32, and takes them from the parameters.
    ///
    /// libtorch would sum them in the dtype of the parameter: in bfloat16, what is below 1/256 of the sum is lost. A step
    /// of several micro-batches calls this after each; the sums, as large as the master weights, are freed with the
    /// update. A step of one micro-batch needs neither.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn accumulate(&mut self) -> Result<(), TchError> {
        for slot in self.slots.iter_mut().filter(|slot| slot.master.is_some()) {
            let gradient = slot.parameter.grad();
            if !gradient.defined() {
                continue;
            }
            match &mut slot.accumulated {
                Some(sum) => drop(tch::no_grad(|| sum.f_add_(&gradient))?),
                None => slot.accumulated = Some(gradient.f_to_kind(Kind::Float)?.f_contiguous()?),
            }
            native::set_grad(&slot.parameter, None)?;
        }
        Ok(())
    }

    /// Returns the norm of all gradients together.
    ///
    /// # Numerics
    ///
    /// The norm of each row is computed in float32, so that no sum is long, and the norm of those norms in float64.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn grad_norm(&self) -> Result<f64, TchError> {
        let mut norms = Vec::with_capacity(self.slots.len());
        for gradient in self.slots.iter().filter_map(Slot::gradient) {
            let of_rows = gradient.f_norm_scalaropt_dim_dtype(2, [-1], false, Kind::Float)?;
            norms.push(of_rows.f_norm_scalaropt_dtype(2, Kind::Double)?);
        }
        if norms.is_empty() {
            return Ok(0.0);
        }
        Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])
    }

    /// Updates the parameters once, with the gradients divided by `grad_scale`, and clears the gradients.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn step(&mut self, learning_rate: f64, grad_scale: f64) -> Result<(), TchError> {
        self.num_updates += 1;
        let AdamWOptions { beta1, beta2, epsilon, weight_decay } = self.options;
        let num_updates = self.num_updates;
        tch::no_grad(|| {
            for decays in [true, false] {
                let weight_decay = if decays { weight_decay } else { 0.0 };
                let scalars =
                    AdamWScalars { learning_rate, beta1, beta2, weight_decay, epsilon, num_updates, grad_scale };
                let mut group = Group::default();
                for slot in self.slots.iter_mut().filter(|slot| slot.decays == decays) {
                    group.take_gradient(slot)?;
                    if group.widened_bytes > MAX_WIDENED_BYTES {
                        std::mem::take(&mut group).update(&scalars)?;
                    }
                }
                group.update(&scalars)?;
            }
            Ok(())
        })
    }

    /// Returns the tensors of the state, named `<parameter>.exp_avg`, `.exp_avg_sq` and `.master`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for slot in &self.slots {
            state.push((format!("{}.exp_avg", slot.name), slot.exp_avg.shallow_clone()));
            state.push((format!("{}.exp_avg_sq", slot.name), slot.exp_avg_sq.shallow_clone()));
            if let Some(master) = &slot.master {
                state.push((format!("{}.master", slot.name), master.shallow_clone()));
            }
        }
        state
    }

    /// Loads a state saved from [`state`](Self::state). Returns the name of the first tensor that is missing or does
    /// not fit.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn load_state(
        &mut self,
        num_updates: u64,
        state: &HashMap<String, Tensor>,
    ) -> Result<Option<String>, TchError> {
        for (name, mut own) in self.state() {
            match state.get(&name) {
                Some(saved) if saved.size() == own.size() && saved.kind() == own.kind() => own.f_copy_(saved)?,
                _ => return Ok(Some(name)),
            }
        }
        self.num_updates = num_updates;
        Ok(None)
    }
}

/// Returns the divisor of gradients that makes their norm at most `max_norm`, as in `torch.nn.utils.clip_grad_norm_`;
/// `max_norm` 0 switches clipping off.
#[must_use]
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { ((norm + 1e-6) / max_norm).max(1.0) } else { 1.0 }
}

/// Size of float32 copies of 16-bit gradients at which a group of parameters is updated. It bounds the copies alive at
/// once.
pub(super) const MAX_WIDENED_BYTES: usize = 64 << 20;

/// Parameters that are updated in one fused pass.
#[derive(Default)]
struct Group {
    tensors: AdamWTensors,
    /// 16-bit parameters with their master weights.
    rounded: Vec<(Tensor, Tensor)>,
    widened_bytes: usize,
}

impl Group {
    /// Adds a parameter if it has a gradient, and clears that gradient.
    fn take_gradient(&mut self, slot: &mut Slot) -> Result<(), TchError> {
        let Some(gradient) = slot.gradient() else { return Ok(()) };
        slot.accumulated = None;
        let wide = gradient.f_to_kind(Kind::Float)?.f_contiguous()?;
        native::set_grad(&slot.parameter, None)?;
        let parameter = slot.parameter.f_detach()?;
        let weights = match &slot.master {
            Some(master) => {
                self.widened_bytes += wide.numel() * Kind::Float.elt_size_in_bytes();
                self.rounded.push((parameter, master.shallow_clone()));
                master.shallow_clone()
            }
            None => parameter,
        };
        self.tensors.weights.push(weights);
        self.tensors.grads.push(wide);
        self.tensors.exp_avgs.push(slot.exp_avg.shallow_clone());
        self.tensors.exp_avg_sqs.push(slot.exp_avg_sq.shallow_clone());
        Ok(())
    }

    fn update(self, scalars: &AdamWScalars) -> Result<(), TchError> {
        native::fused_adamw(&self.tensors, scalars)?;
        for (mut parameter, master) in self.rounded {
            parameter.f_copy_(&master)?;
        }
        Ok(())
    }
}

/// Returns whether a parameter decays: all do but norms and biases, recognised by name as in Transformers' Trainer.
fn decays(name: &str) -> bool {
    let name = name.to_lowercase();
    let is_norm = |part: &str| part == "norm" || part.ends_with("_norm");
    !(name.contains("bias") || name.contains("layernorm") || name.contains("rmsnorm") || name.split('.').any(is_norm))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn options() -> AdamWOptions {
        AdamWOptions { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 }
    }

    fn parameter(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    fn set_grad(parameter: &Tensor, grad: &[f32]) {
        (parameter * Tensor::from_slice(grad).to_kind(parameter.kind())).sum(Kind::Float).backward();
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.to_kind(Kind::Float)).unwrap()
    }

    // p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    // optimizer = torch.optim.AdamW([p], lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    // for grad in ([0.1, -0.2, 0.3], [-0.5, 0.4, 1e-4], [0.2, 0.2, -3.0]):
    //     p.grad = torch.tensor(grad); optimizer.step(); print(p.tolist())
    const GRADS: [[f32; 3]; 3] = [[0.1, -0.2, 0.3], [-0.5, 0.4, 1e-4], [0.2, 0.2, -3.0]];
    #[expect(clippy::excessive_precision, reason = "as PyTorch prints them")]
    const EXPECTED: [[f32; 3]; 3] = [
        [0.889_999_986, -1.879_999_995, 0.395_000_011],
        [0.940_810_919, -1.897_760_749, 0.323_867_142],
        [0.951_113_641, -1.930_707_574, 0.378_785_163],
    ];

    #[test]
    fn updates_are_those_of_pytorch() {
        let p = parameter(&[1.0, -2.0, 0.5]);
        let mut optimizer = AdamW::new(vec![("w".into(), p.shallow_clone())], options()).unwrap();
        for (grad, expected) in GRADS.iter().zip(EXPECTED) {
            set_grad(&p, grad);
            optimizer.step(0.1, 1.0).unwrap();
            for (value, expected) in values(&p).iter().zip(expected) {
                assert!((value - expected).abs() < 2e-7, "{value}, not {expected}");
            }
        }
    }

    #[test]
    fn bfloat16_parameters_follow_float32_masters() {
        let p = Tensor::from_slice(&[1.0f32, -2.0, 0.5]).to_kind(Kind::BFloat16).set_requires_grad(true);
        let mut optimizer = AdamW::new(vec![("w".into(), p.shallow_clone())], options()).unwrap();
        // Each step is far below bfloat16's resolution at 1.0, but together they are above it.
        for _ in 0..200 {
            set_grad(&p, &[1.0, 1.0, 1.0]);
            optimizer.step(1e-4, 1.0).unwrap();
        }
        assert_eq!(p.kind(), Kind::BFloat16);
        assert!(values(&p)[0] < 0.985, "{:?}", values(&p));
        assert!(optimizer.state().iter().all(|(_, tensor)| tensor.kind() == Kind::Float));
    }

    #[test]
    fn gradients_of_16_bits_are_summed_in_float32() {
        for kind in [Kind::BFloat16, Kind::Half] {
            let p = Tensor::from_slice(&[1.0f32, -2.0]).to_kind(kind).set_requires_grad(true);
            let mut optimizer = AdamW::new(vec![("w".into(), p.shallow_clone())], options()).unwrap();
            // In 16 bits, 1 + 2⁻¹² is 1 again, however often it is added.
            let small = 2f32.powi(-12);
            for grad in std::iter::once([1.0, 3.0]).chain(std::iter::repeat_n([small, -small], 256)) {
                set_grad(&p, &grad);
                optimizer.accumulate().unwrap();
            }
            let sum = [1.0 + 256.0 * small, 3.0 - 256.0 * small];
            let norm = f64::from(sum[0]).hypot(f64::from(sum[1]));
            assert!((optimizer.grad_norm().unwrap() / norm - 1.0).abs() < 1e-6, "{kind:?}");
            optimizer.step(0.1, 1.0).unwrap();
            let (_, exp_avg) = &optimizer.state()[0];
            for (m, g) in values(exp_avg).iter().zip(sum) {
                assert!((m / (0.1 * g) - 1.0).abs() < 1e-6, "{kind:?}: {m}, not {}", 0.1 * g);
            }
            assert!(!p.grad().defined());
            assert_eq!(optimizer.grad_norm().unwrap(), 0.0, "{kind:?}: the update takes the sum");
        }
    }

    #[test]
    fn float32_gradients_accumulate_where_they_are() {
        let p = parameter(&[1.0]);
        let mut optimizer = AdamW::new(vec![("w".into(), p.shallow_clone())], options()).unwrap();
        set_grad(&p, &[1.0]);
        optimizer.accumulate().unwrap();
        assert_eq!(values(&p.grad()), [1.0]);
    }

    #[test]
    fn a_restored_state_goes_on_bit_for_bit() {
        let run = |stop: Option<usize>| {
            let mut p = parameter(&[1.0, -2.0, 0.5]);
            let mut optimizer = AdamW::new(vec![("w".into(), p.shallow_clone())], options()).unwrap();
            for (index, grad) in GRADS.iter().enumerate() {
                if stop == Some(index) {
                    let state: HashMap<_, _> = optimizer.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
                    p = parameter(&values(&p));
                    let updates = optimizer.num_updates();
                    optimizer = AdamW::new(vec![("w".into(), p.shallow_clone())], options()).unwrap();
                    assert_eq!(optimizer.load_state(updates, &state).unwrap(), None);
                }
                set_grad(&p, grad);
                optimizer.step(0.1, 1.0).unwrap();
            }
            values(&p)
        };
        assert_eq!(run(None), run(Some(2)));
    }

    // The same with torch.nn.utils.clip_grad_norm_([p], 0.25) before each step.
    #[expect(clippy::excessive_precision, reason = "as PyTorch prints them")]
    const EXPECTED_CLIPPED: [f32; 3] = [0.952_866_256, -1.870_646_238, 0.337_919_682];

    #[test]
    fn clipped_updates_are_those_of_pytorch() {
        let p = parameter(&[1.0, -2.0, 0.5]);
        let mut optimizer = AdamW::new(vec![("w".into(), p.shallow_clone())], options()).unwrap();
        for grad in &GRADS {
            set_grad(&p, grad);
            let norm = optimizer.grad_norm().unwrap();
            optimizer.step(0.1, clip_scale(norm, 0.25)).unwrap();
        }
        for (value, expected) in values(&p).iter().zip(EXPECTED_CLIPPED) {
            assert!((value - expected).abs() < 2e-7, "{value}, not {expected}");
        }
    }

    #[test]
    fn clipping_scales_to_the_norm() {
        let p = parameter(&[0.0, 0.0]);
        let optimizer = AdamW::new(vec![("w".into(), p.shallow_clone())], options()).unwrap();
        set_grad(&p, &[3.0, 4.0]);
        let norm = optimizer.grad_norm().unwrap();
        assert!((norm - 5.0).abs() < 1e-9);
        assert_eq!(clip_scale(norm, 0.0), 1.0, "off");
        assert_eq!(clip_scale(norm, 6.0), 1.0, "below the bound");
        assert!((norm / clip_scale(norm, 1.0) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_norm_of_many_gradients_is_that_of_float64() {
        tch::manual_seed(3);
        let shapes = [vec![300, 200], vec![7], vec![40, 5, 6]];
        let parameters: Vec<Tensor> = shapes
            .iter()
            .map(|shape| Tensor::randn(shape, (Kind::Float, tch::Device::Cpu)).set_requires_grad(true))
            .collect();
        parameters.iter().for_each(|parameter| parameter.square().sum(Kind::Float).backward());
        let named = parameters.iter().map(|parameter| ("w".to_owned(), parameter.shallow_clone())).collect();
        let found = AdamW::new(named, options()).unwrap().grad_norm().unwrap();
        let squares: f64 = parameters
            .iter()
            .map(|p| p.grad().to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]))
            .sum();
        assert!((found / squares.sqrt() - 1.0).abs() < 1e-6, "{found}, not {}", squares.sqrt());
    }

    #[test]
    fn an_update_takes_the_gradients_and_leaves_what_has_none() {
        let (with, without) = (parameter(&[1.0]), parameter(&[1.0]));
        let named = vec![("a".into(), with.shallow_clone()), ("b".into(), without.shallow_clone())];
        let mut optimizer = AdamW::new(named, options()).unwrap();
        set_grad(&with, &[1.0]);
        optimizer.step(0.1, 1.0).unwrap();
        assert!(!with.grad().defined());
        assert!(values(&with)[0] < 1.0);
        assert_eq!(values(&without), [1.0]);
    }

    #[test]
    fn norms_and_biases_do_not_decay() {
        for name in
            ["model.norm.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_norm.weight"]
        {
            assert!(!decays(name), "{name}");
        }
        assert!(!decays("model.layers.0.self_attn.q_proj.bias"));
        assert!(decays("model.layers.0.self_attn.q_proj.weight"));
        assert!(decays("model.embed_tokens.weight"));
    }
}
