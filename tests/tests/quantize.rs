//! Weights in 4 bits: bitsandbytes' bytes and scores, gradients, export and resuming, and what is refused.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lambda_dpo_core::{Batch, Layout, LossInputs, LossOptions, Reduction, loss_forward};
use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::libtorch::nf4::Nf4;
use lambda_dpo_host::model::{ForwardOptions, LambdaParts, LoraConfig, Model, Precision, TargetModules};
use lambda_dpo_tests::batches::{
    Rng, WANTS_HIDDEN, batch_of, loss_inputs, loss_options, model_inputs, ragged_samples, relative, relative_error,
};
use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::fixture;
use lambda_dpo_tests::golden_model::{self, Golden, difference, log_probs};
use lambda_dpo_tests::trainer::{Run, metrics, stderr};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// The checkpoints that Transformers wrote, with and without quantised scales.
const CHECKPOINTS: [&str; 2] = ["model", "model-plain"];

fn checkpoint(name: &str) -> PathBuf {
    fixture("golden/nf4").join(name)
}

fn load(folder: &Path, kind: Kind) -> Model {
    Model::load(folder, Libtorch::cpu(), kind).unwrap()
}

fn quantized(folder: &Path, kind: Kind) -> Model {
    let model = Model::load(folder, Libtorch::cpu(), Precision { kind, nf4: true }).unwrap();
    assert!(model.is_quantized());
    model
}

fn part(matrix: &Nf4, name: &str) -> Tensor {
    let parts = matrix.parts().unwrap();
    parts.into_iter().find(|(part, _)| *part == name).unwrap_or_else(|| panic!("no {name}")).1
}

#[test]
fn codes_and_scales_are_those_of_bitsandbytes() {
    let goldens = safetensors::read(&fixture("golden/nf4/goldens.safetensors")).unwrap();
    let names: Vec<&str> = goldens.keys().filter_map(|name| name.strip_suffix(".weight")).collect();
    assert_eq!(names.len(), 6);
    for name in names {
        let golden = |part: &str| &goldens[&format!("{name}.{part}")];
        let matrix = Nf4::quantize(golden("weight")).unwrap();
        assert_eq!(&part(&matrix, ""), golden("codes"), "{name}");
        assert_eq!(part(&matrix, ".nested_offset").double_value(&[]), golden("offset").double_value(&[]), "{name}");
        assert_eq!(&part(&matrix, ".absmax"), golden("absmax"), "{name}");
        assert_eq!(&part(&matrix, ".nested_absmax"), golden("nested_absmax"), "{name}");
        assert_eq!(part(&matrix, ".nested_quant_map"), goldens["nested_quant_map"]);
        assert_eq!(&matrix.dequantize(Kind::Float).unwrap(), golden("values"), "{name}");
        assert_eq!(&matrix.dequantize(Kind::BFloat16).unwrap(), golden("values_bfloat16"), "{name}");
    }
}

#[test]
fn a_dtype_changes_no_code() {
    let goldens = safetensors::read(&fixture("golden/nf4/goldens.safetensors")).unwrap();
    let weight = goldens["wide.weight"].to_kind(Kind::BFloat16);
    let (narrow, wide) = (Nf4::quantize(&weight).unwrap(), Nf4::quantize(&weight.to_kind(Kind::Float)).unwrap());
    for ((name, left), (_, right)) in narrow.parts().unwrap().iter().zip(wide.parts().unwrap()) {
        assert_eq!(left, &right, "{name}");
    }
}

fn packed_log_probs(model: &Model, golden: &Golden) -> Vec<f32> {
    let packed = golden.packed();
    let hidden = model.hidden(&golden_model::inputs(&packed.tensors())).unwrap();
    log_probs(model, golden, &hidden, &golden.predictors(&packed, 1))
}

#[test]
fn a_checkpoint_of_transformers_scores_as_there() {
    for name in CHECKPOINTS {
        let (mut model, golden) = (load(&checkpoint(name), Kind::Float), Golden::in_folder(&checkpoint(name)));
        assert!(model.is_quantized(), "{name}");
        let expected = golden.log_probs("");
        // As for the golden models in float32: log-probs of −15 to 0 over two layers.
        let found = difference(&packed_log_probs(&model, &golden), &expected);
        assert!(found < 5e-5, "{name}: {found}");
        model.merge_adapter().unwrap();
        assert!(!model.is_quantized());
        let found = difference(&packed_log_probs(&model, &golden), &expected);
        assert!(found < 5e-5, "{name}, dequantised: {found}");
    }
}

fn lora(rank: i64, lambda: Option<LambdaParts>) -> LoraConfig {
    LoraConfig { rank, alpha: 4.0, dropout: 0.0, use_rslora: false, target_modules: TargetModules::AllLinear, lambda }
}

fn add_adapter(model: &mut Model, config: &LoraConfig) {
    model.add_lora(config, 5).unwrap();
    let mut rng = Rng(17);
    for (_, parameter) in model.trainable() {
        let values = rng.tensor(&parameter.size(), Kind::Double) * 0.1;
        tch::no_grad(|| parameter.detach().copy_(&values));
    }
}

/// The model in `folder` in 4 bits, and the model of the values that it stands for.
fn pair(folder: &Path, kind: Kind, config: &LoraConfig) -> [Model; 2] {
    let mut four_bits = quantized(folder, kind);
    let mut dense = quantized(folder, kind);
    dense.merge_adapter().unwrap();
    assert!(!dense.is_quantized());
    let target = tempfile::tempdir().unwrap();
    dense.save(&target.path().join("dense"), folder).unwrap();
    let mut dense = load(&target.path().join("dense"), kind);
    add_adapter(&mut four_bits, config);
    add_adapter(&mut dense, config);
    [four_bits, dense]
}

/// The loss and the gradient of every parameter of the adapter.
fn backward(model: &Model, batch: &Batch, checkpointing: bool) -> (f64, Vec<(String, Tensor)>) {
    let options = LossOptions { beta: 0.3, ..loss_options(Reduction::Sum, WANTS_HIDDEN) };
    for (_, mut parameter) in model.trainable() {
        parameter.zero_grad();
    }
    let activations =
        model.forward(&model_inputs(batch), &ForwardOptions { checkpointing, dropout_seed: None }).unwrap();
    let inputs =
        LossInputs { hidden: Some(activations.hidden()), lm_head: Some(model.lm_head()), ..loss_inputs(batch) };
    let (outputs, context) = loss_forward(&inputs, &options).unwrap();
    let gradients = context.unwrap().backward(&inputs, 1.0).unwrap();
    activations.backward(&gradients.hidden.unwrap()).unwrap();
    let gradients = model.trainable().into_iter().map(|(name, parameter)| (name, parameter.grad().copy()));
    (outputs.loss.double_value(&[]), gradients.collect())
}

#[test]
fn loss_and_gradients_are_those_of_the_dequantised_model() {
    let dimensions = ["helpful", "honest", "brief"];
    let parts = Some(LambdaParts { dimensions: dimensions.map(str::to_owned).to_vec(), rank: 1 });
    let samples = ragged_samples(&mut Rng(3), 3, dimensions.len(), 0.0);
    let batch = batch_of(&samples, &[0.7, 0.2, 0.1, 0.0, 1.0, 0.0, 0.25, 0.25, 0.5], Layout::Packed);
    // Biases, grouped queries, tied weights, and weights that were quantised elsewhere.
    let folders = ["llama2", "llama31", "qwen2"].map(golden_model::folder);
    for folder in folders.iter().chain(&CHECKPOINTS.map(checkpoint)) {
        for config in [lora(2, None), lora(1, parts.clone())] {
            // In float64 only the order of sums may differ. In float32 a gradient is a sum of some hundred terms with 24 bits.
            for (kind, tolerance) in [(Kind::Double, 1e-10), (Kind::Float, 1e-5)] {
                let [four_bits, dense] = pair(folder, kind, &config);
                let (expected_loss, expected) = backward(&dense, &batch, false);
                for checkpointing in [false, true] {
                    let (loss, gradients) = backward(&four_bits, &batch, checkpointing);
                    let case = format!("{}, {kind:?}, checkpointing {checkpointing}", folder.display());
                    assert!(relative(loss, expected_loss) < tolerance, "{case}: {loss} against {expected_loss}");
                    assert_eq!(gradients.len(), expected.len());
                    for ((name, gradient), (_, expected)) in gradients.iter().zip(&expected) {
                        let found = relative_error(gradient, expected);
                        assert!(found < tolerance, "{case}: {name} is off by {found:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn switched_off_it_is_the_base_and_merged_it_is_the_policy() {
    let folder = checkpoint("model");
    let golden = Golden::in_folder(&folder);
    let base = packed_log_probs(&load(&folder, Kind::Float), &golden);
    let mut model = load(&folder, Kind::Float);
    add_adapter(&mut model, &lora(2, None));
    let adapted = packed_log_probs(&model, &golden);
    assert!(difference(&adapted, &base) > 0.1, "the adapter has no effect");
    model.set_adapter_enabled(false);
    assert_eq!(packed_log_probs(&model, &golden), base);
    model.set_adapter_enabled(true);
    let refusal = "a model with weights in 4 bits cannot be saved or exported as a whole; dequantise it first";
    assert_eq!(model.check_not_quantized().unwrap_err().to_string(), refusal);
    model.merge_adapter().unwrap();
    // Folding the adapter into a weight rounds each value once more.
    assert!(difference(&packed_log_probs(&model, &golden), &adapted) < 5e-5);
    model.check_not_quantized().unwrap();
}

/// A policy whose base is the checkpoint that Transformers wrote, and whose adapter changes its log-probs.
fn policy() -> Policy {
    let policy = Policy::of_family("llama31");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(checkpoint("model").join(file), policy.path("model").join(file)).unwrap();
    }
    let mut model = load(&policy.path("model"), Kind::Float);
    add_adapter(&mut model, &lora(2, None));
    model.save_adapter(&policy.path("adapter"), "model").unwrap();
    policy
}

#[test]
fn an_export_merges_into_the_dequantised_weights() {
    let policy = policy();
    policy.export(&["--to", "hf"], "merged");
    let config: Value = serde_json::from_str(&fs::read_to_string(policy.path("merged/config.json")).unwrap()).unwrap();
    assert!(config.get("quantization_config").is_none());
    let mut model = load(&policy.path("model"), Kind::Float);
    model.merge_adapter().unwrap();
    let merged = safetensors::read(&policy.path("merged/model.safetensors")).unwrap();
    let adapter = safetensors::read(&policy.path("adapter/adapter_model.safetensors")).unwrap();
    for (name, base) in model.named_parameters() {
        let of = |matrix: &str| {
            let path = name.strip_suffix(".weight").unwrap_or(name);
            adapter.get(&format!("base_model.model.{path}.lora_{matrix}.weight"))
        };
        let expected = match (of("A"), of("B")) {
            (Some(a), Some(b)) => base + b.matmul(a) * 2.0,
            _ => base.copy(),
        };
        assert_eq!(merged[name], expected, "{name}");
    }
    assert_eq!(merged.len(), model.named_parameters().count());

    let arguments = ["--model", &policy.text("model"), "--adapter", &policy.text("adapter")];
    let scores = policy.score(&arguments);
    let plain = policy.score(&arguments[..2]);
    assert!(difference(&scores, &plain) > 0.1, "the adapter has no effect");
    // Sums of up to 15 log-probs; folding in the adapter changes the last bits of the weights.
    assert!(difference(&policy.score(&["--model", &policy.text("merged")]), &scores) < 5e-4);
    policy.export_plain(&["--to", "hf"], "dequantised");
    assert!(difference(&policy.score(&["--model", &policy.text("dequantised")]), &plain) < 5e-4);
    policy.export(&["--to", "peft"], "peft");
    policy.export(&["--to", "onnx"], "onnx");
    policy.export(&["--to", "torchscript"], "script");
    let script = ["--model", &policy.text("merged"), "--torchscript", &policy.text("script")];
    assert!(difference(&policy.score(&script), &scores) < 5e-4);
    policy.export(&["--to", "hf", "--dtype", "bfloat16"], "narrow");
    let narrow = safetensors::read(&policy.path("narrow/model.safetensors")).unwrap();
    for (name, tensor) in &narrow {
        assert_eq!(tensor, &merged[name].to_kind(Kind::BFloat16), "{name}");
    }
}

#[test]
fn every_command_takes_a_model_in_4_bits() {
    let policy = Policy::with_lambda_adapter();
    let (model, adapter, records) = (policy.text("model"), policy.text("adapter"), policy.text("records.jsonl"));
    let dense = ["--model", &model, "--adapter", &adapter];
    let four_bits = [&dense[..], &["--quantize", "nf4"]].concat();
    policy.export(&["--to", "hf", "--quantize", "nf4"], "merged");
    let scores = policy.score(&four_bits);
    assert!(difference(&scores, &policy.score(&dense)) > 1e-2, "quantising has no effect");
    // Sums of about 30 float32 log-probs; folding in the adapter changes the last bits of the weights.
    assert!(difference(&scores, &policy.score(&["--model", &policy.text("merged")])) < 1e-3);
    let greedy = ["--device", "cpu", "--temperature", "0", "--max-new-tokens", "8"];
    let text = |model: &[&str]| policy.run(&[&["generate"], model, &greedy[..], &["Tell me."]].concat()).stdout;
    assert_eq!(text(&four_bits), text(&["--model", &policy.text("merged")]));
    let out = policy.text("evaluation");
    let few = ["--device", "cpu", "--records", &records, "--num-prompts", "0", "--out", &out];
    policy.run(&[&["evaluate"], &four_bits[..], &few].concat());
    let out = policy.text("steer");
    policy.run(
        &[&["steer", "--steps", "1"], &four_bits[..], &["--device", "cpu", "--records", &records, "--out", &out]]
            .concat(),
    );
    assert!(policy.path("evaluation/evaluation.json").exists() && policy.path("steer/steer.json").exists());
}

/// Metrics without those that differ between two runs of the same config.
fn without_clocks(output_dir: &Path) -> Vec<Value> {
    let mut rows = metrics(output_dir);
    for row in &mut rows {
        let clocks = ["tokens_per_second", "step_secs", "peak_memory_bytes"];
        row.as_object_mut().unwrap().retain(|key, _| !clocks.contains(&key.as_str()));
    }
    rows
}

#[test]
fn a_resumed_run_equals_one_that_never_stopped() {
    let adapters: [&[&str]; 2] = [
        &["adapter.rank=2", "adapter.dropout=0.1"],
        &["adapter.kind=lambda_lora", "adapter.rank=1", "adapter.rank_per_dimension=1", "model.dtype=bfloat16"],
    ];
    for adapter in adapters {
        let quantize = ["model.quantize=nf4", "train.save_steps=2", "data.eval_fraction=0.2"];
        let overrides = [adapter, &quantize].concat();
        let whole = Run::new("lambda_dpo");
        whole.train(&[&overrides[..], &["train.max_steps=4"]].concat());
        let resumed = Run::new("lambda_dpo");
        resumed.train(&[&overrides[..], &["train.max_steps=4"]].concat());
        // As after a kill behind step 2.
        for gone in ["adapter", "checkpoint-4", "trainer_state.json"] {
            let path = resumed.output_dir().join(gone);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        let output = resumed.train(&[&overrides[..], &["train.max_steps=4", "train.resume=auto"]].concat());
        assert!(stderr(&output).contains("after step 2"), "{}", stderr(&output));
        assert_eq!(without_clocks(&resumed.output_dir()), without_clocks(&whole.output_dir()));
        let weights = |run: &Run| fs::read(run.output_dir().join("adapter/adapter_model.safetensors")).unwrap();
        assert_eq!(weights(&resumed), weights(&whole));
        let rows = metrics(&whole.output_dir());
        assert_eq!(rows[1]["logps/ratio"], 0.0, "the reference is the model without its adapter, to the last bit");
        let dense = Run::new("lambda_dpo");
        let again = [adapter, &["train.max_steps=1", "data.eval_fraction=0.2"]].concat();
        dense.train(&again);
        assert_ne!(metrics(&dense.output_dir())[1]["grad_norm"], rows[1]["grad_norm"], "quantising has no effect");
    }
}

#[track_caller]
fn train_refuses(run: &Run, overrides: &[&str], message: &str) {
    let output = run.try_train(overrides);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let folder = run.path("").display().to_string();
    let expected = format!("error: {}", message.replace("{}", folder.trim_end_matches('/')));
    assert_eq!(stderr(&output).lines().last().unwrap(), expected);
}

#[test]
fn weights_in_4_bits_are_not_trained_themselves() {
    for stage in ["sft", "dpo", "lambda_dpo"] {
        let run = Run::new(stage);
        train_refuses(
            &run,
            &["model.quantize=nf4"],
            "model.quantize = \"nf4\" needs an [adapter] section, because weights in 4 bits cannot be trained themselves: add \
             one, or leave model.quantize out",
        );
    }
    let run = Run::new("lambda_dpo");
    train_refuses(
        &run,
        &["model.quantize=nf4", "model.torchscript=m.pt"],
        "model.torchscript cannot be combined with model.quantize = \"nf4\": leave it out",
    );
    for file in ["config.json", "model.safetensors"] {
        fs::copy(checkpoint("model").join(file), run.path("model").join(file)).unwrap();
    }
    train_refuses(
        &run,
        &[],
        "the weights of {}/model are in 4 bits (nf4), which cannot be trained themselves: add an [adapter] section, or set \
         model.path to the weights that they were quantised from",
    );
    // As a checkpoint whose config.json was replaced.
    let mut config: Value = serde_json::from_str(&fs::read_to_string(run.path("model/config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().shift_remove("quantization_config");
    fs::write(run.path("model/config.json"), config.to_string()).unwrap();
    let mut model = load(&run.path("model"), Kind::Float);
    assert!(model.is_quantized() && model.trainable().is_empty());
    model.unfreeze();
    assert!(model.trainable().is_empty());
    add_adapter(&mut model, &lora(1, None));
    assert_eq!(model.trainable().len(), 2 * 7 * 2);
}

/// Changes the checkpoint that Transformers wrote, and returns the message with which it is refused, without its folder.
fn refusal(change: impl Fn(&mut BTreeMap<String, Tensor>, &mut Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let tensors = safetensors::read(&checkpoint("model").join("model.safetensors")).unwrap();
    let mut tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
    let text = fs::read_to_string(checkpoint("model").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    change(&mut tensors, &mut config);
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::write(&folder.path().join("model.safetensors"), named, &[]).unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let error = Model::load(folder.path(), Libtorch::cpu(), Kind::Float).err().unwrap().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";
const STATE: &str = "quant_state.bitsandbytes__nf4";

fn without(part: &str) -> String {
    refusal(|tensors, _| drop(tensors.remove(&format!("{Q_PROJ}.{part}")).unwrap()))
}

fn with(part: &str, tensor: &Tensor) -> String {
    refusal(|tensors, _| drop(tensors.insert(format!("{Q_PROJ}{part}"), tensor.shallow_clone()).unwrap()))
}

fn with_state(changes: &Value) -> String {
    let read = safetensors::read(&checkpoint("model").join("model.safetensors")).unwrap();
    let bytes = Vec::<u8>::try_from(&read[&format!("{Q_PROJ}.{STATE}")]).unwrap();
    let mut state: Value = serde_json::from_slice(&bytes).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        assert!(state.as_object_mut().unwrap().insert(key.clone(), value.clone()).is_some(), "{key}");
    }
    with(&format!(".{STATE}"), &Tensor::from_slice(state.to_string().as_bytes()))
}

#[track_caller]
fn assert_unreadable(found: &str, problem: &str) {
    let expected = format!(
        "model.safetensors: the 4-bit weight `{Q_PROJ}` cannot be read, because {problem}; copy or download the file again, or \
         save the model again with `save_pretrained`"
    );
    assert_eq!(found, expected.replace("{q}", Q_PROJ));
}

#[test]
fn a_quantised_checkpoint_that_lacks_a_part_is_refused() {
    for part in ["absmax", "quant_map", "nested_absmax", "nested_quant_map", STATE] {
        assert_unreadable(&without(part), &format!("there is no tensor `{{q}}.{part}` beside it"));
    }
    assert_unreadable(
        &refusal(|tensors, _| tensors.retain(|name, _| !name.starts_with(&format!("{Q_PROJ}.")))),
        "it holds codes (Uint8) without `{q}.quant_state.bitsandbytes__nf4`, which says what they stand for",
    );
    assert_eq!(
        refusal(|tensors, _| drop(tensors.remove(Q_PROJ).unwrap())),
        format!("model.safetensors has no tensor `{Q_PROJ}` of shape [64, 64], which config.json calls for")
    );
    let folder = tempfile::tempdir().unwrap();
    fs::copy(checkpoint("model").join("config.json"), folder.path().join("config.json")).unwrap();
    let file = folder.path().join("model.safetensors");
    let bytes = fs::read(checkpoint("model").join("model.safetensors")).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 9]).unwrap();
    let message = Model::load(folder.path(), Libtorch::cpu(), Kind::Float).err().unwrap().to_string();
    let (found, promised) = (bytes.len() - 9, bytes.len());
    assert_eq!(
        message,
        format!(
            "{} is cut short: it has {found} bytes, but its header promises {promised}; copy or download it again",
            file.display()
        )
    );
}

#[test]
fn a_quantised_checkpoint_with_a_part_of_another_kind_is_refused() {
    let options = (Kind::Float, Device::Cpu);
    assert_unreadable(
        &with(".absmax", &Tensor::zeros([63], (Kind::Uint8, Device::Cpu))),
        "`{q}.absmax` has 63 values of Uint8 instead of 64 of Uint8",
    );
    assert_unreadable(
        &with(".absmax", &Tensor::zeros([64], options)),
        "`{q}.absmax` has 64 values of Float instead of 64 of Uint8",
    );
    assert_unreadable(
        &with("", &Tensor::zeros([2047, 1], (Kind::Uint8, Device::Cpu))),
        "`{q}` has 2047 values of Uint8 instead of 2048 of Uint8",
    );
    assert_unreadable(&with(".quant_map", &Tensor::zeros([16], options)), "`{q}.quant_map` is not the map of nf4");
    assert_unreadable(
        &with(".nested_absmax", &(Tensor::ones([1], options) * f64::NAN)),
        "`{q}.nested_absmax` has values that are not finite",
    );
    assert_unreadable(
        &with(&format!(".{STATE}"), &Tensor::from_slice(b"{\"blocksize\": 64")),
        "`{q}.quant_state.bitsandbytes__nf4` is not the JSON that bitsandbytes writes (EOF while parsing an object at line 1 \
         column 16)",
    );
    assert_unreadable(
        &with_state(&json!({"shape": [64, 32]})),
        "it is of shape [64, 32], but config.json calls for [64, 64]",
    );
    assert_unreadable(
        &with_state(&json!({"blocksize": 48})),
        "its blocks have 48 values, which bitsandbytes does not have",
    );
    assert_unreadable(
        &with_state(&json!({"dtype": "int8"})),
        "its values are of dtype int8, not float32, bfloat16 or float16",
    );
    assert_unreadable(
        &with_state(&json!({"nested_offset": null})),
        "its quant_state does not say how its scales were quantised",
    );
    assert_eq!(
        with("", &Tensor::zeros([1024, 1], (Kind::BFloat16, Device::Cpu))),
        format!(
            "model.safetensors: the 4-bit weight `{Q_PROJ}` cannot be read, because its codes are stored as BFloat16, not as \
             Uint8; quantise it with bnb_4bit_quant_storage = torch.uint8"
        )
    );
}

#[test]
fn other_quantisations_are_refused_by_name() {
    let bytes = Tensor::zeros([4], (Kind::Uint8, Device::Cpu));
    let add = |name: &'static str| {
        let bytes = &bytes;
        refusal(move |tensors, _| drop(tensors.insert(name.to_owned(), bytes.shallow_clone())))
    };
    assert_eq!(
        add("model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__fp4"),
        "model.safetensors: the weight `model.layers.0.mlp.up_proj.weight` in fp4 of bitsandbytes is not supported; give the \
         weights that it was made from, which can be quantised to nf4 (model.quantize or --quantize)"
    );
    assert_eq!(
        add("model.layers.0.mlp.up_proj.SCB"),
        "model.safetensors: the weight `model.layers.0.mlp.up_proj.weight` in 8 bits of bitsandbytes (LLM.int8) is not \
         supported; give the model with float32, bfloat16 or float16 weights (`dequantize` of Transformers makes them), which \
         can be quantised to nf4 (model.quantize or --quantize)"
    );
    assert_eq!(
        add("model.embed_tokens.weight.quant_state.bitsandbytes__nf4"),
        "model.safetensors: the 4-bit weight `model.embed_tokens.weight`, which is not of a linear layer of the decoder, is \
         not supported; quantise the model with the default of `llm_int8_skip_modules`, which leaves out the LM head"
    );
    let config = |key: &'static str, value: Value| {
        refusal(move |_, config| {
            drop(config["quantization_config"].as_object_mut().unwrap().insert(key.into(), value.clone()))
        })
    };
    assert!(config("bnb_4bit_quant_type", "fp4".into()).starts_with(
        "config.json: the 4-bit quantisation fp4 of bitsandbytes (`quantization_config`) is not supported; give the weights"
    ));
    assert!(config("load_in_4bit", false.into()).starts_with(
        "config.json: the 8-bit quantisation of bitsandbytes (`quantization_config`, LLM.int8) is not supported; give the model"
    ));
    // Weights that are not quantised, although config.json says so.
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden_model::folder("llama2").join("model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    let text = fs::read_to_string(golden_model::folder("llama2").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["quantization_config"] =
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let place = folder.path().display();
    assert_eq!(
        Model::load(folder.path(), Libtorch::cpu(), Kind::Float).err().unwrap().to_string(),
        format!(
            "{place}/config.json: `quantization_config` says that weights are in 4 bits (nf4), but {place}/model.safetensors \
             has none that are; remove it, and quantise them on loading (model.quantize or --quantize)"
        )
    );
}

#[test]
fn a_weight_that_is_not_finite_is_not_quantised() {
    let policy = Policy::with_adapter();
    policy.change_weight("model.layers.0.mlp.down_proj.weight", f64::INFINITY);
    let (model, records, out) = (policy.text("model"), policy.text("records.jsonl"), policy.text("out.jsonl"));
    let arguments = ["score", "--device", "cpu", "--model", &model, "--records", &records, "--out", &out];
    assert_eq!(
        policy.refuse(&[&arguments[..], &["--quantize", "nf4"]].concat()),
        format!(
            "error: {model}/model.safetensors: tensor `model.layers.0.mlp.down_proj.weight` has values that are not finite \
             numbers, which 4 bits cannot hold; copy or download the model again, or mend the run that wrote it"
        )
    );
}
