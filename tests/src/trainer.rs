//! Training runs of a very small model on a few of the demo's records.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use lambda_dpo_host::libtorch::Libtorch;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{fixture, program};

/// A folder with a run config, a model's `config.json` and tokenizer, and records.
pub struct Run {
    folder: TempDir,
}

impl Run {
    /// A run of the given stage: a one-layer Llama with random weights, 12 records, batches of 2.
    pub fn new(stage: &str) -> Self {
        Self::sized(stage, 16, 1)
    }

    /// A run as [`new`](Self::new) makes it, of a model with this hidden size and number of layers.
    pub fn sized(stage: &str, hidden_size: i64, num_layers: i64) -> Self {
        let run = Self { folder: tempfile::tempdir().unwrap() };
        run.write_sized_model("llama", hidden_size, num_layers);
        let (records, format) = match stage {
            "sft" => ("sft.jsonl", "chat"),
            _ => ("records.jsonl", "ultrafeedback"),
        };
        let text = fs::read_to_string(fixture("demo").join(records)).unwrap();
        let lines: Vec<&str> = text.lines().take(12).collect();
        fs::write(run.path("records.jsonl"), lines.join("\n")).unwrap();
        let config = format!(
            "stage = \"{stage}\"\noutput_dir = \"run\"\n\
             [model]\npath = \"model\"\ninit = \"random\"\ndevice = \"cpu\"\n\
             [data]\nrecords = [\"records.jsonl\"]\nformat = \"{format}\"\ncutoff_len = 128\n\
             [train]\nlearning_rate = 1e-3\nper_device_train_batch_size = 2\n"
        );
        fs::write(run.path("run.toml"), config).unwrap();
        // Adapters need a base on disk.
        run.materialise();
        run
    }

    /// The path of a file in the run's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The `output_dir` of the run.
    pub fn output_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// Trains; panics if training fails.
    pub fn train(&self, overrides: &[&str]) -> Output {
        let output = self.try_train(overrides);
        assert!(output.status.success(), "{overrides:?}: {}", stderr(&output));
        output
    }

    /// Trains, and returns the output whether or not training fails.
    pub fn try_train(&self, overrides: &[&str]) -> Output {
        self.command(overrides).output().unwrap()
    }

    /// Starts training without waiting for it.
    pub fn spawn(&self, overrides: &[&str]) -> Child {
        self.command(overrides).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs the program with any arguments.
    pub fn program(arguments: &[&str]) -> Output {
        let cache = tempfile::tempdir().unwrap();
        program(cache.path()).args(arguments).output().unwrap()
    }

    /// The command that trains.
    pub fn command(&self, overrides: &[&str]) -> Command {
        let mut command = program(&self.path("cache"));
        command.arg("train").arg(self.path("run.toml")).args(overrides);
        command
    }

    /// Writes `model/` with the demo's tokenizer and a tiny config of the given type.
    pub fn write_model(&self, model_type: &str) {
        self.write_sized_model(model_type, 16, 1);
    }

    fn write_sized_model(&self, model_type: &str, hidden_size: i64, num_layers: i64) {
        let model = self.path("model");
        fs::create_dir_all(&model).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixture("demo/model").join(name), model.join(name)).unwrap();
        }
        let demo = fs::read_to_string(fixture("demo/model/config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&demo).unwrap();
        for (key, value) in [
            ("hidden_size", json!(hidden_size)),
            ("intermediate_size", json!(2 * hidden_size)),
            ("num_attention_heads", json!(2)),
            ("num_key_value_heads", json!(1)),
            ("num_hidden_layers", json!(num_layers)),
        ] {
            config[key] = value;
        }
        config["model_type"] = json!(model_type);
        fs::write(model.join("config.json"), config.to_string()).unwrap();
    }

    /// Writes random weights to disk and makes the config load them.
    fn materialise(&self) {
        let text = fs::read_to_string(self.path("run.toml")).unwrap();
        let model = lambda_dpo_host::model::Model::random(&self.path("model"), Libtorch::cpu(), tch::Kind::Float, 7);
        model.unwrap().save(&self.path("weights"), &self.path("model")).unwrap();
        fs::remove_dir_all(self.path("model")).unwrap();
        fs::rename(self.path("weights"), self.path("model")).unwrap();
        fs::write(self.path("run.toml"), text.replace("init = \"random\"\n", "")).unwrap();
    }
}

/// Standard error of a process.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The lines of `metrics.jsonl`, empty if there is no file.
pub fn metrics(output_dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(output_dir.join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Whether two numbers are equal within a relative tolerance.
pub fn close(left: &Value, right: &Value, tolerance: f64) -> bool {
    let (left, right) = (left.as_f64().unwrap(), right.as_f64().unwrap());
    (left - right).abs() <= tolerance * left.abs().max(right.abs())
}
