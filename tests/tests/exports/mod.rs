//! A small trained model with an adapter, exported, scored and broken.
#![allow(dead_code, reason = "each test crate uses a part")]

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use lambda_dpo_host::model::{LambdaParts, LoraConfig, Model, TargetModules};
use lambda_dpo_host::safetensors;
use lambda_dpo_tests::{fixture, program};
use serde_json::Value;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

/// A folder with `model/`, `adapter/` and `records.jsonl`.
pub struct Policy {
    folder: TempDir,
}

impl Policy {
    /// The demo's SFT model, an adapter that moves its log-probs, and a few of the demo's records.
    pub fn with_adapter() -> Self {
        Self::new(None)
    }

    /// The same with a λ-adapter of the demo's dimensions.
    pub fn with_lambda_adapter() -> Self {
        let dimensions = ["helpfulness", "honesty", "instruction_following", "truthfulness"];
        Self::new(Some(LambdaParts { dimensions: dimensions.map(str::to_owned).to_vec(), rank: 2 }))
    }

    fn new(lambda: Option<LambdaParts>) -> Self {
        let policy = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(policy.path("model")).unwrap();
        for entry in fs::read_dir(fixture("demo/sft-model")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), policy.path("model").join(entry.file_name())).unwrap();
        }
        let records = fs::read_to_string(fixture("demo/records.jsonl")).unwrap();
        let records: Vec<&str> = records.lines().take(6).collect();
        fs::write(policy.path("records.jsonl"), records.join("\n")).unwrap();
        policy.write_adapter(lambda);
        policy
    }

    fn write_adapter(&self, lambda: Option<LambdaParts>) {
        let mut model = Model::load(&self.path("model"), Device::Cpu, Kind::Float).unwrap();
        let config = LoraConfig {
            rank: 4,
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

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Names of what is in the folder, hidden files too.
    pub fn listing(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Exports model and adapter to a folder of this name.
    pub fn export(&self, arguments: &[&str], out: &str) {
        let (model, adapter, out) = (self.text("model"), self.text("adapter"), self.text(out));
        self.run(&[&["export", "--model", &model, "--adapter", &adapter], arguments, &[&out]].concat());
    }

    /// Runs the program, which must succeed.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Runs the program.
    pub fn try_run(&self, arguments: &[&str]) -> Output {
        program(&self.path("cache")).env("OMP_NUM_THREADS", "1").args(arguments).output().unwrap()
    }

    /// Runs the program, which must fail; gives its last line.
    pub fn refuse(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap().lines().last().unwrap_or_default().to_owned()
    }

    /// Log-probs of all responses, as `score` writes them.
    pub fn score(&self, model: &[&str]) -> Vec<f32> {
        let (records, out) = (self.text("records.jsonl"), self.text("scores.jsonl"));
        self.run(&[&["score", "--device", "cpu", "--records", &records, "--out", &out], model].concat());
        let text = fs::read_to_string(&out).unwrap();
        fs::remove_file(&out).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let log_probs = lines.flat_map(|line| line["log_probs"].as_array().unwrap().clone());
        log_probs.map(|value| value.as_f64().unwrap() as f32).collect()
    }

    /// Sets the first value of a weight of `model/`.
    pub fn change_weight(&self, name: &str, value: f64) {
        let path = self.path("model/model.safetensors");
        let tensors = safetensors::read(&path).unwrap();
        let _ = tensors[name].view([-1]).narrow(0, 0, 1).fill_(value);
        let tensors = tensors.iter().map(|(name, tensor): (&String, &Tensor)| (name.as_str(), tensor));
        safetensors::write(&path, tensors, &[("format", "pt")]).unwrap();
    }
}

/// The largest absolute difference.
pub fn difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}
