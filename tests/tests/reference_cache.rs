//! Reference log-probs on disk: computed once, shared between runs, and never used if anything they depend on differs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tch::{Kind, Tensor};

use lambda_dpo_tests::trainer::{Run, close, metrics, stderr};

/// Metrics that differ between two runs of the same config.
const CLOCKS: &[&str] = &["tokens_per_second", "step_secs", "peak_memory_bytes"];

/// The log-probs of 12 records with 2 responses each.
const ALL: usize = 24;

/// One epoch with evaluation, so that every record is used.
const EPOCH: &[&str] = &["train.num_train_epochs=1", "data.eval_fraction=0.25", "train.learning_rate=1e-2"];

struct Cached {
    run: Run,
}

impl Cached {
    /// A run whose reference log-probs have been computed.
    fn new() -> Self {
        let cached = Self { run: Run::new("lambda_dpo") };
        let mut records = cached.records();
        for record in &mut records {
            record["completions"].as_array_mut().unwrap().truncate(2);
        }
        cached.write_records(&records);
        assert_eq!(cached.again("first", &[]), (ALL, Some(0)));
        cached
    }

    /// Trains into another folder; returns how many log-probs there were and how many came from the cache.
    fn again(&self, name: &str, more: &[&str]) -> (usize, Option<usize>) {
        counts(&self.train(name, more))
    }

    /// Trains into another folder and returns standard error.
    fn train(&self, name: &str, more: &[&str]) -> String {
        let output_dir = format!("output_dir={}", self.output_dir(name).display());
        let overrides: Vec<&str> = EPOCH.iter().chain(more).copied().chain([output_dir.as_str()]).collect();
        stderr(&self.run.train(&overrides))
    }

    fn output_dir(&self, name: &str) -> PathBuf {
        self.run.path(name)
    }

    fn metrics(&self, name: &str) -> Vec<Value> {
        let mut rows = metrics(&self.output_dir(name));
        for row in &mut rows {
            row.as_object_mut().unwrap().retain(|key, _| !CLOCKS.contains(&key.as_str()));
        }
        rows
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.run.path("records.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn write_records(&self, records: &[Value]) {
        let lines: Vec<String> = records.iter().map(Value::to_string).collect();
        fs::write(self.run.path("records.jsonl"), lines.join("\n")).unwrap();
    }

    /// The only file of the cache.
    fn file(&self) -> PathBuf {
        let entries = fs::read_dir(self.run.path("cache/reference")).unwrap();
        let mut files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some());
        let file = files.next().unwrap();
        assert_eq!(files.next(), None);
        file
    }
}

/// Parses "reference: 24 log-probs, 22 from the cache".
fn counts(said: &str) -> (usize, Option<usize>) {
    let line = said.lines().find_map(|line| line.strip_prefix("reference: ")).expect(said);
    let (total, rest) = line.split_once(" log-probs").unwrap();
    let found = rest.strip_prefix(", ").map(|rest| rest.strip_suffix(" from the cache").unwrap().parse().unwrap());
    (total.parse().unwrap(), found)
}

#[test]
fn a_cached_reference_changes_no_bit() {
    let cached = Cached::new();
    assert_eq!(cached.again("second", &[]), (ALL, Some(ALL)));
    assert_eq!(cached.again("uncached", &["reference.cache=false"]), (ALL, None));
    assert_eq!(cached.metrics("second"), cached.metrics("first"));
    assert_eq!(cached.metrics("uncached"), cached.metrics("first"));
    // Computed in other batches, only the last bits may differ.
    let more = ["train.per_device_train_batch_size=3", "train.gradient_accumulation_steps=2", "seed=1"];
    assert_eq!(cached.again("mixed", &more), (ALL, Some(ALL)));
    assert_eq!(cached.again("own", &[&more[..], &["reference.cache=false"]].concat()), (ALL, None));
    for (mixed, own) in cached.metrics("mixed").iter().zip(cached.metrics("own")) {
        for key in ["loss", "eval_loss", "grad_norm"].iter().filter(|key| own.get(**key).is_some()) {
            assert!(close(&mixed[key], &own[key], 1e-5), "{key}: {} and {}", mixed[key], own[key]);
        }
    }
}

#[test]
fn changes_that_log_probs_do_not_depend_on_recompute_nothing() {
    let cached = Cached::new();
    for (name, change) in [
        ("layout", &["loss.layout=rows"][..]),
        ("packing", &["loss.max_tokens=512"]),
        ("mean", &["loss.reduction=mean", "loss.beta=2"]),
        ("schedule", &["lambda.schedule=gaussian"]),
        ("adapter", &["adapter.kind=lora"]),
        ("targets", &["data.temperature=2", "data.dimensions=[\"honesty\"]"]),
        ("enough room", &["data.cutoff_len=4096"]),
    ] {
        assert_eq!(cached.again(name, change), (ALL, Some(ALL)), "{name}");
    }
    let mut records = cached.records();
    records[3]["completions"][1]["annotations"]["honesty"]["Rating"] = "1".into();
    cached.write_records(&records);
    assert_eq!(cached.again("rating", &[]), (ALL, Some(ALL)));
}

#[test]
fn only_a_changed_record_is_recomputed() {
    let cached = Cached::new();
    let mut records = cached.records();
    records[3]["completions"][1]["response"] = "A new answer.".into();
    cached.write_records(&records);
    assert_eq!(cached.again("response", &[]), (ALL, Some(ALL - 2)));
    records[5]["instruction"] = "A new question?".into();
    cached.write_records(&records);
    assert_eq!(cached.again("prompt", &[]), (ALL, Some(ALL - 2)));
    let mut another = records[7].clone();
    another["instruction"] = "Another question?".into();
    records.insert(0, another);
    cached.write_records(&records);
    assert_eq!(cached.again("inserted", &[]), (ALL + 2, Some(ALL)));
}

#[test]
fn another_tokenisation_recomputes_only_what_it_changes() {
    let cached = Cached::new();
    // Truncated samples have other tokens, and so other log-probs.
    let said = cached.train("cutoff", &["data.cutoff_len=40"]);
    let truncated = said.split_once(" truncated to 40 tokens").unwrap().0.rsplit(' ').next().unwrap();
    let truncated: usize = truncated.parse().unwrap();
    assert!(truncated > 0);
    let (all, found) = counts(&said);
    assert_eq!((all, found), (ALL, Some(ALL - 2 * truncated)), "{said}");

    let config = fs::read_to_string(cached.run.path("model/tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let template = config["chat_template"].as_str().unwrap();
    fs::write(cached.run.path("same.jinja"), template).unwrap();
    fs::write(cached.run.path("other.jinja"), format!("x{template}")).unwrap();
    let named = |name: &str| format!("data.chat_template={}", cached.run.path(name).display());
    assert_eq!(cached.again("same template", &[&named("same.jinja")]), (ALL, Some(ALL)));
    assert_eq!(cached.again("other template", &[&named("other.jinja")]), (ALL, Some(0)));

    let path = cached.run.path("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    tokenizer["model"]["merges"] = Value::Array(Vec::new());
    fs::write(&path, tokenizer.to_string()).unwrap();
    assert_eq!(cached.again("other tokens", &["data.cutoff_len=4096"]), (ALL, Some(0)));
}

#[test]
fn another_model_has_its_own_log_probs() {
    let cached = Cached::new();
    assert_eq!(cached.again("dtype", &["model.dtype=bfloat16"]), (ALL, Some(0)));
    assert_eq!(cached.again("dtype again", &["model.dtype=bfloat16"]), (ALL, Some(ALL)));

    // The trained policy as the reference, given by its path.
    let trained = format!("reference.path={}", cached.output_dir("first").join("model").display());
    assert_eq!(cached.again("path", &[&trained]), (ALL, Some(0)));
    assert_eq!(cached.again("path again", &[&trained]), (ALL, Some(ALL)));

    let path = cached.run.path("model/model.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut tensors = Tensor::read_safetensors(&path).unwrap();
    let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
    assert_eq!(tensor.kind(), Kind::Float);
    let _ = tensor.narrow(0, 3, 1).g_add_scalar_(1e-3);
    Tensor::write_safetensors(&tensors, &path).unwrap();
    assert_eq!(cached.again("weights", &[]), (ALL, Some(0)));
    fs::write(&path, whole).unwrap();
    assert_eq!(cached.again("weights back", &[]), (ALL, Some(ALL)));
    assert_eq!(cached.metrics("weights back"), cached.metrics("first"));
    assert_ne!(cached.metrics("weights"), cached.metrics("first"));
}

#[test]
fn a_damaged_cache_is_reported_and_recomputed() {
    let cached = Cached::new();
    let file = cached.file();
    let whole = fs::read(&file).unwrap();
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 0x10;
    for (name, damaged) in [("flipped", bytes.as_slice()), ("cut", &whole[..whole.len() - 1]), ("empty", &[])] {
        fs::write(&file, damaged).unwrap();
        let said = cached.train(name, &[]);
        assert!(said.contains(&format!("{}: this file is ", file.display())), "{said}");
        assert!(said.contains("; its log-probs are computed again\n"), "{said}");
        assert_eq!(counts(&said), (ALL, Some(0)));
        assert_eq!(fs::read(&file).unwrap(), whole);
        assert_eq!(cached.metrics(name), cached.metrics("first"));
    }
    assert_eq!(cached.again("mended", &[]), (ALL, Some(ALL)));
}

#[test]
fn a_resumed_run_computes_nothing_again() {
    let cached = Cached::new();
    let every = ["train.save_steps=2"];
    cached.again("whole", &every);
    fs::remove_dir_all(cached.output_dir("whole").join("model")).unwrap();
    let before = cached.metrics("whole");
    assert_eq!(cached.again("whole", &[every[0], "train.resume=auto"]), (ALL, Some(ALL)));
    assert_eq!(cached.metrics("whole"), before);
    // A resumed run may change whether the reference is cached; the numbers are the same.
    fs::remove_dir_all(cached.output_dir("whole").join("model")).unwrap();
    let uncached = [every[0], "train.resume=auto", "reference.cache=false"];
    assert_eq!(cached.again("whole", &uncached), (ALL, None));
    assert_eq!(cached.metrics("whole"), before);
}

#[test]
fn without_a_cache_folder_nothing_is_kept_and_the_reason_is_printed() {
    let cached = Cached::new();
    let mut command = cached.run.command(EPOCH);
    for variable in ["LAMBDA_DPO_CACHE", "XDG_CACHE_HOME", "HOME"] {
        command.env_remove(variable);
    }
    let said = stderr(&command.output().unwrap());
    let reason = "since LAMBDA_DPO_CACHE, XDG_CACHE_HOME and HOME are all unset";
    assert!(said.contains(&format!("nothing is kept for later runs, {reason}\n")), "{said}");
    assert_eq!(counts(&said), (ALL, None));
    assert_eq!(cached.metrics("run"), cached.metrics("first"));
}
