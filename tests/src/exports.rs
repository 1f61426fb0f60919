//! Small models with records, for tests that export, score, validate and damage them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{LambdaParts, LoraConfig, Model, TargetModules};
use serde_json::{Value, json};
use tch::{Kind, Tensor};
use tempfile::TempDir;

use crate::{fixture, golden_model, program};

const WORDS_FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

/// A folder with `model/`, `records.jsonl` and, unless the model is plain, `adapter/`.
pub struct Policy {
    folder: TempDir,
}

impl Policy {
    /// The demo's SFT model, an adapter that changes its log-probs, and a few of the demo's records.
    pub fn with_adapter() -> Self {
        Self::new(4, None)
    }

    /// The same with a λ-adapter over the demo's dimensions.
    pub fn with_lambda_adapter() -> Self {
        Self::with_lambda_adapter_of_rank(4)
    }

    /// The same with another rank of the part independent of λ, which may be 0.
    pub fn with_lambda_adapter_of_rank(rank: i64) -> Self {
        let dimensions = ["helpfulness", "honesty", "instruction_following", "truthfulness"];
        Self::new(rank, Some(LambdaParts { dimensions: dimensions.map(str::to_owned).to_vec(), rank: 2 }))
    }

    /// The same, whose texts go on to their greatest length unless somebody ends them: its end token is beyond the
    /// vocabulary, and its context is so long that no text ends before a slow machine has looked at it.
    pub fn that_never_ends() -> Self {
        let policy = Self::with_lambda_adapter();
        fs::write(policy.path("model/generation_config.json"), r#"{ "eos_token_id": 1000 }"#).unwrap();
        let path = policy.path("model/config.json");
        let config = fs::read_to_string(&path).unwrap();
        let longer = config.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 16384");
        assert_ne!(config, longer);
        fs::write(path, longer).unwrap();
        policy
    }

    fn new(rank: i64, lambda: Option<LambdaParts>) -> Self {
        let policy = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(policy.path("model")).unwrap();
        for entry in fs::read_dir(fixture("demo/sft-model")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), policy.path("model").join(entry.file_name())).unwrap();
        }
        let records = fs::read_to_string(fixture("demo/records.jsonl")).unwrap();
        let records: Vec<&str> = records.lines().take(6).collect();
        fs::write(policy.path("records.jsonl"), records.join("\n")).unwrap();
        policy.write_adapter(rank, lambda);
        policy
    }

    /// A golden model with the words tokenizer, and records longer than its attention window.
    pub fn of_family(family: &str) -> Self {
        let policy = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(policy.path("model")).unwrap();
        let sources = [(golden_model::folder(family), ["config.json", "model.safetensors"])];
        for (folder, names) in sources.into_iter().chain([(fixture("words"), WORDS_FILES)]) {
            for name in names {
                fs::copy(folder.join(name), policy.path("model").join(name)).unwrap();
            }
        }
        policy.write_words();
        policy
    }

    /// Writes five records of three responses each.
    fn write_words(&self) {
        let words: Vec<&str> =
            "what colour is the sky name a fruit say hello count to three blue grey it red mostly apple \
                                pear plum or hi one two"
                .split_whitespace()
                .collect();
        let text = |start: usize, len: usize| -> String {
            (0..len).map(|at| words[(start * 7 + at * (start + 3)) % words.len()]).collect::<Vec<_>>().join(" ")
        };
        let record = |number: usize| {
            let completions = [4, 15, 9].into_iter().enumerate().map(|(response, len)| {
                let rating = (number + 2 * response) % 5 + 1;
                let annotations = json!({ "honesty": { "Rating": rating.to_string() } });
                json!({ "response": text(number + response + 1, len), "annotations": annotations })
            });
            json!({ "instruction": text(number, 6 + 3 * number), "completions": completions.collect::<Vec<_>>() })
        };
        let records: Vec<String> = (0..5).map(|number| record(number).to_string()).collect();
        fs::write(self.path("records.jsonl"), records.join("\n")).unwrap();
    }

    fn write_adapter(&self, rank: i64, lambda: Option<LambdaParts>) {
        let mut model = Model::load(&self.path("model"), Libtorch::cpu(), Kind::Float).unwrap();
        let config = LoraConfig {
            rank,
            alpha: 8.0,
            dropout: 0.0,
            use_rslora: false,
            target_modules: TargetModules::AllLinear,
            lambda,
        };
        model.add_lora(&config, 3).unwrap();
        tch::manual_seed(3);
        for (name, parameter) in model.trainable() {
            if name.ends_with("lora_B.weight") {
                let _ = tch::no_grad(|| parameter.detach().normal_(0.0, 0.2));
            }
        }
        model.save_adapter(&self.path("adapter"), "model").unwrap();
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Sorted names of the files in the folder, including hidden ones.
    pub fn listing(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Exports the model with its adapter to the folder `out`.
    pub fn export(&self, arguments: &[&str], out: &str) {
        let (model, adapter, out) = (self.text("model"), self.text("adapter"), self.text(out));
        self.run(&[&["export", "--model", &model, "--adapter", &adapter], arguments, &[&out]].concat());
    }

    /// Runs the program; panics if it fails.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Runs the program.
    pub fn try_run(&self, arguments: &[&str]) -> Output {
        program(&self.path("cache")).env("OMP_NUM_THREADS", "1").args(arguments).output().unwrap()
    }

    /// Exports the model without an adapter to the folder `out`.
    pub fn export_plain(&self, arguments: &[&str], out: &str) {
        let (model, out) = (self.text("model"), self.text(out));
        self.run(&[&["export", "--model", &model], arguments, &[&out]].concat());
    }

    /// Compares an ONNX file or folder with `model/`; returns the exit status and the JSON report.
    pub fn validate(&self, onnx: &Path) -> (i32, Value) {
        let (model, records, onnx) = (self.text("model"), self.text("records.jsonl"), onnx.display().to_string());
        let arguments = ["--device", "cpu", "--model", &model, "--records", &records, "--onnx", &onnx, "--json"];
        let output = self.try_run(&[&["validate"], &arguments[..]].concat());
        let printed = serde_json::from_slice(&output.stdout);
        (
            output.status.code().unwrap(),
            printed.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))),
        )
    }

    /// Runs the program, which must fail; returns the last line of its standard error.
    pub fn refuse(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap().lines().last().unwrap_or_default().to_owned()
    }

    /// Log-probs of all responses, in the order of `score`.
    pub fn score(&self, model: &[&str]) -> Vec<f32> {
        let (records, out) = (self.text("records.jsonl"), self.text("scores.jsonl"));
        self.run(&[&["score", "--device", "cpu", "--records", &records, "--out", &out], model].concat());
        let text = fs::read_to_string(&out).unwrap();
        fs::remove_file(&out).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let log_probs = lines.flat_map(|line| line["log_probs"].as_array().unwrap().clone());
        log_probs.map(|value| value.as_f64().unwrap() as f32).collect()
    }

    /// Sets the first value of a weight in `model/`.
    pub fn change_weight(&self, name: &str, value: f64) {
        let path = self.path("model/model.safetensors");
        let tensors = safetensors::read(&path).unwrap();
        let _ = tensors[name].view([-1]).narrow(0, 0, 1).fill_(value);
        let tensors = tensors.iter().map(|(name, tensor): (&String, &Tensor)| (name.as_str(), tensor));
        safetensors::write(&path, tensors, &[("format", "pt")]).unwrap();
    }
}
