//! What a text is when nothing else is generated beside it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Mutex;

use lambda_dpo_host::generate::{GenerateOptions, generate};
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{Model, ModelInputs};
use lambda_dpo_host::plugin::{Message, Plugin, Tokenizer};
use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::plugin_library;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

pub const DIMENSIONS: [&str; 4] = ["helpfulness", "honesty", "instruction_following", "truthfulness"];
/// Token that ends a text of the demo's model.
const EOS: i64 = 3;
/// Longest text that is asked for.
const MOST_TOKENS: usize = 32;

/// How a text is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    pub temperature: f64,
    pub top_p: f64,
    pub seed: u64,
}

pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 0 };

/// A text as a server must return it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub text: String,
    pub finish_reason: &'static str,
    pub num_tokens: usize,
}

/// The model of a server, in this process.
pub struct Alone {
    model: Mutex<Model>,
    pub tokenizer: Tokenizer,
    texts: Mutex<HashMap<String, Vec<i64>>>,
}

impl Alone {
    pub fn new(policy: &Policy) -> Self {
        tch::set_num_threads(1);
        let mut model = Model::load(&policy.path("model"), Libtorch::cpu(), Kind::Float).unwrap();
        model.load_adapter(&policy.path("adapter")).unwrap();
        model.freeze();
        let plugin = Plugin::load(Some(&plugin_library())).unwrap();
        let tokenizer = plugin.tokenizer(&policy.path("model"), None).unwrap();
        Self { model: Mutex::new(model), tokenizer, texts: Mutex::default() }
    }

    /// The prompt of a chat with one message.
    pub fn chat_ids(&self, content: &str) -> Vec<i64> {
        let text = self.tokenizer.render(&[Message::new("user", content)], true).unwrap();
        self.tokenizer.encode(&text).unwrap()
    }

    /// The prompt of a completion.
    pub fn text_ids(&self, text: &str) -> Vec<i64> {
        let bos = self.tokenizer.info().unwrap().bos_token_id;
        bos.into_iter().chain(self.tokenizer.encode(text).unwrap()).collect()
    }

    /// The answer to a prompt.
    pub fn answer(
        &self,
        prompt: &[i64],
        lambda: [f64; 4],
        sampling: Sampling,
        max_tokens: usize,
        stops: &[&str],
    ) -> Expected {
        let ids = self.ids(prompt, lambda, sampling);
        let ids = &ids[..ids.len().min(max_tokens)];
        let decode = |ids: &[i64]| self.tokenizer.decode(ids, true).unwrap();
        for num_tokens in 1..=ids.len() {
            let text = decode(&ids[..num_tokens]);
            let complete = |stop: &&str| text.find(stop).map(|start| (start + stop.len(), start));
            if let Some((_, start)) = stops.iter().filter_map(complete).min() {
                return Expected { text: text[..start].to_owned(), finish_reason: "stop", num_tokens };
            }
        }
        let finish_reason = if ids.last() == Some(&EOS) { "stop" } else { "length" };
        let text = decode(ids.strip_suffix(&[EOS]).unwrap_or(ids));
        Expected { text, finish_reason, num_tokens: ids.len() }
    }

    /// The longest answer, with its end token.
    fn ids(&self, prompt: &[i64], lambda: [f64; 4], sampling: Sampling) -> Vec<i64> {
        let key = format!("{prompt:?} {lambda:?} {sampling:?}");
        if let Some(ids) = self.texts.lock().unwrap().get(&key) {
            return ids.clone();
        }
        let Sampling { temperature, top_p, seed } = sampling;
        let options =
            GenerateOptions { max_new_tokens: MOST_TOKENS, temperature, top_p, seed, eos_token_ids: vec![EOS] };
        let mut model = self.model.lock().unwrap();
        model.fix_lambda(&lambda).unwrap();
        let text = generate(&model, prompt, &options, &mut |_| ControlFlow::Continue(())).unwrap();
        let ids: Vec<i64> = text.chosen().collect();
        self.texts.lock().unwrap().insert(key, ids.clone());
        ids
    }

    /// Log-probs of every token at every position, `[T, V]`: row t predicts the token after t.
    pub fn log_probs(&self, ids: &[i64], lambda: [f64; 4]) -> Tensor {
        let mut model = self.model.lock().unwrap();
        model.fix_lambda(&lambda).unwrap();
        let input_ids = Tensor::from_slice(ids).unsqueeze(0);
        let zeros = input_ids.zeros_like();
        let inputs = ModelInputs {
            input_ids: &input_ids,
            position_ids: &Tensor::arange(ids.len() as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0),
            prompt_ids: &zeros,
            sequence_ids: &zeros,
            lambda: None,
        };
        let hidden = model.hidden(&inputs).unwrap();
        tch::no_grad(|| hidden.linear(model.lm_head(), None::<Tensor>)).squeeze_dim(0).log_softmax(-1, Kind::Double)
    }
}

/// λ as the field of a request.
pub fn field(lambda: [f64; 4]) -> Value {
    DIMENSIONS.iter().zip(lambda).map(|(name, weight)| ((*name).to_owned(), json!(weight))).collect()
}

/// λ number `index` of many that differ.
pub fn lambda(index: usize) -> [f64; 4] {
    let mut weights = [0, 1, 2, 3].map(|dimension| ((7 * index + 5 * dimension * (index + 1)) % 11) as f64);
    weights[index % 4] += 4.0;
    let total: f64 = weights.iter().sum();
    weights.map(|weight| weight / total)
}
