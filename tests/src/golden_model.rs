//! The golden models of `fixtures/golden/models`: their values, and batches of their sequences.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{Model, ModelInputs};
use tch::{Kind, Tensor};

use crate::fixture;

/// The families, each with a model.
pub const FAMILIES: [&str; 5] = ["llama31", "llama2", "mistral", "qwen2", "qwen3"];

/// The folder of a family's model.
pub fn folder(family: &str) -> PathBuf {
    fixture("golden/models").join(family)
}

/// Loads a family's model in float32 on the CPU.
pub fn load(family: &str) -> Model {
    load_in(family, Kind::Float)
}

/// Loads a family's model in any dtype on the CPU.
pub fn load_in(family: &str, kind: Kind) -> Model {
    Model::load(&folder(family), Libtorch::cpu(), kind).unwrap()
}

/// The golden values that `make_goldens.py` wrote for a family.
pub struct Golden {
    /// Every tensor of the file, by name.
    pub values: HashMap<String, Tensor>,
    /// Tokens of the prompt.
    pub prompt: Vec<i64>,
    /// Tokens of each response.
    pub responses: Vec<Vec<i64>>,
}

impl Golden {
    /// Reads the golden values of a family.
    pub fn of(family: &str) -> Golden {
        Golden::in_folder(&folder(family))
    }

    /// Reads the golden values in a folder.
    pub fn in_folder(folder: &Path) -> Golden {
        let values = lambda_dpo_host::files::safetensors::read(&folder.join("golden.safetensors")).unwrap();
        let values: HashMap<_, _> = values.into_iter().collect();
        let ids = |name: &str| Vec::<i64>::try_from(&values[name]).unwrap();
        let responses = (0..3).map(|n| ids(&format!("response.{n}"))).collect();
        Golden { prompt: ids("prompt"), responses, values }
    }

    /// Expected log-probs of all responses one after the other.
    pub fn log_probs(&self, prefix: &str) -> Vec<f32> {
        (0..3).flat_map(|n| Vec::<f32>::try_from(&self.values[&format!("{prefix}log_probs.{n}")]).unwrap()).collect()
    }

    /// One row for each sequence, padded on the right.
    pub fn rows(&self) -> Rows {
        let width = self.prompt.len() + self.responses.iter().map(Vec::len).max().unwrap();
        let mut rows = Rows::default();
        for (n, response) in self.responses.iter().enumerate() {
            let start = rows.columns[0].len();
            rows.push_all(&self.prompt, 0, n as i64, -1);
            rows.push_all(response, self.prompt.len(), n as i64, n as i64);
            rows.pad_to(start + width);
        }
        rows.num_rows = self.responses.len() as i64;
        rows
    }

    /// Everything in one row: the prompt, then the responses, the positions of each continuing from the prompt; all of
    /// it twice, as two prompts, and some padding.
    pub fn packed(&self) -> Rows {
        let mut rows = Rows::default();
        for prompt in 0..2 {
            rows.push_all(&self.prompt, 0, prompt, -1);
            for (n, response) in self.responses.iter().enumerate() {
                rows.push_all(response, self.prompt.len(), prompt, prompt * 3 + n as i64);
            }
        }
        rows.pad_to(rows.columns[0].len().next_multiple_of(8) + 8);
        rows.num_rows = 1;
        rows
    }

    /// For each response token of prompt `prompt`, in order, the index of its predictor in the flattened rows.
    pub fn predictors(&self, rows: &Rows, prompt: i64) -> Vec<i64> {
        let mut predictors = Vec::new();
        for n in 0..self.responses.len() {
            let sequence = rows.columns[3].iter().position(|&id| id == prompt * 3 + n as i64).unwrap();
            let is_packed = rows.num_rows == 1;
            let last_of_prompt = if is_packed {
                rows.columns[2].iter().position(|&id| id == prompt).unwrap() + self.prompt.len() - 1
            } else {
                sequence - 1
            };
            predictors.push(last_of_prompt as i64);
            predictors.extend((0..self.responses[n].len() as i64 - 1).map(|token| sequence as i64 + token));
        }
        predictors
    }
}

/// Input ids, position ids, prompt ids and sequence ids under construction.
#[derive(Default)]
pub struct Rows {
    /// The four lists, row after row.
    pub columns: [Vec<i64>; 4],
    /// Number of rows.
    pub num_rows: i64,
}

impl Rows {
    fn push_all(&mut self, tokens: &[i64], first_position: usize, prompt: i64, sequence: i64) {
        for (at, &token) in tokens.iter().enumerate() {
            let values = [token, (first_position + at) as i64, prompt, sequence];
            self.columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        }
    }

    fn pad_to(&mut self, length: usize) {
        self.columns.iter_mut().zip([0, 0, -1, -1]).for_each(|(column, value)| column.resize(length, value));
    }

    /// The four lists as tensors [R, T].
    pub fn tensors(&self) -> [Tensor; 4] {
        self.columns.each_ref().map(|column| Tensor::from_slice(column).view([self.num_rows, -1]))
    }
}

/// Model inputs from [`Rows::tensors`], without λ.
pub fn inputs(tensors: &[Tensor; 4]) -> ModelInputs<'_> {
    let [input_ids, position_ids, prompt_ids, sequence_ids] = tensors;
    ModelInputs { input_ids, position_ids, prompt_ids, sequence_ids, lambda: None }
}

/// Log-probs of the responses' tokens from hidden states in any layout.
pub fn log_probs(model: &Model, golden: &Golden, hidden: &Tensor, predictors: &[i64]) -> Vec<f32> {
    let _guard = tch::no_grad_guard();
    let targets: Vec<i64> = golden.responses.concat();
    let rows = hidden.view([-1, hidden.size()[2]]).index_select(0, &Tensor::from_slice(predictors));
    let log_probs = rows.linear(model.lm_head(), None::<Tensor>).log_softmax(-1, Kind::Float);
    let chosen = log_probs.gather(1, &Tensor::from_slice(&targets).unsqueeze(1), false).squeeze_dim(1);
    Vec::try_from(chosen).unwrap()
}

/// The largest absolute difference.
pub fn difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

/// The largest difference relative to the largest expected value.
pub fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let scale = expected.abs().max().double_value(&[]);
    (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]) / scale
}
