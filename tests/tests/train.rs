//! `lambda-dpo train`, end to end: accumulation, layouts, stages, interruption and resuming.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tch::{Kind, Tensor};

use lambda_dpo_tests::trainer::{Run, close, metrics, stderr};

/// Metrics that differ between two runs of the same config.
const CLOCKS: &[&str] = &["tokens_per_second", "step_secs", "peak_memory_bytes"];

/// Overrides that make a run train a λ-adapter.
const LAMBDA_ADAPTER: &[&str] = &[
    "adapter.kind=lambda_lora",
    "adapter.rank=1",
    "adapter.rank_per_dimension=2",
    "data.dimensions=[\"helpfulness\",\"honesty\",\"instruction_following\",\"truthfulness\"]",
];

fn without_clocks(output_dir: &Path) -> Vec<Value> {
    let mut rows = metrics(output_dir);
    for row in &mut rows {
        row.as_object_mut().unwrap().retain(|key, _| !CLOCKS.contains(&key.as_str()));
    }
    rows
}

fn keys(row: &Value) -> Vec<&str> {
    row.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_run_writes_its_files_and_metrics() {
    let run = Run::new("lambda_dpo");
    run.train(&["train.max_steps=2", "train.save_steps=1", "data.eval_fraction=0.2"]);
    let dir = run.output_dir();
    for file in ["run.toml", "loss.svg", "model/config.json", "model/model.safetensors", "model/tokenizer.json"] {
        assert!(dir.join(file).is_file(), "{file}");
    }
    for file in ["model.safetensors", "optimizer.safetensors", "trainer_state.json"] {
        assert!(dir.join("checkpoint-2").join(file).is_file(), "{file}");
    }
    assert_eq!(fs::read_dir(dir.join("tensorboard")).unwrap().count(), 1);

    let rows = metrics(&dir);
    let steps: Vec<u64> = rows.iter().map(|row| row["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 1, 2, 2]);
    let dimensions = ["helpfulness", "honesty", "instruction_following", "truthfulness"];
    let each = |prefix: &str| dimensions.map(|name| format!("{prefix}/{name}"));
    let mut expected = vec!["step".to_owned(), "epoch".into(), "loss".into()];
    expected.extend(each("loss"));
    expected.extend(
        ["rewards/accuracies", "rewards/margins", "logps/ratio", "grad_norm", "learning_rate"].map(str::to_owned),
    );
    expected.extend(each("lambda"));
    expected.extend(CLOCKS.iter().map(|name| (*name).to_owned()));
    assert_eq!(keys(&rows[1]), expected);
    let mut expected = vec!["step".to_owned(), "epoch".into(), "eval_loss".into()];
    expected.extend(each("eval_loss"));
    expected.push("eval_rewards/accuracies".into());
    expected.extend(each("eval_rewards/accuracies"));
    expected.extend(["eval_rewards/margins", "eval_logps/ratio"].map(str::to_owned));
    assert_eq!(keys(&rows[0]), expected);

    // Policy and reference are equal to the last bit before step 1, so all rewards are 0.
    assert_eq!(rows[0]["eval_logps/ratio"], 0.0);
    assert_eq!(rows[1]["logps/ratio"], 0.0);
    assert_eq!(rows[1]["rewards/margins"], 0.0);
    let lambda: f64 = dimensions.iter().map(|name| rows[1][format!("lambda/{name}")].as_f64().unwrap()).sum();
    assert!((lambda - 1.0).abs() < 1e-9, "{lambda}");
}

#[test]
fn metrics_that_do_not_apply_are_left_out() {
    let run = Run::new("sft");
    run.train(&["train.max_steps=1"]);
    let mut expected = vec!["step", "epoch", "loss", "grad_norm", "learning_rate"];
    expected.extend(CLOCKS);
    assert_eq!(keys(&metrics(&run.output_dir())[0]), expected);

    let run = Run::new("dpo");
    run.train(&["train.max_steps=1", "reference.kind=none", "data.format=ultrafeedback"]);
    let mut expected =
        vec!["step", "epoch", "loss", "rewards/accuracies", "rewards/margins", "grad_norm", "learning_rate"];
    expected.extend(CLOCKS);
    assert_eq!(keys(&metrics(&run.output_dir())[0]), expected);
}

#[test]
fn four_prompts_at_once_and_four_times_one_are_the_same_step() {
    let stages = ["sft", "dpo", "lambda_dpo"];
    for (stage, adapter) in stages.into_iter().flat_map(|stage| [(stage, &[][..]), (stage, LAMBDA_ADAPTER)]) {
        let mut seen = Vec::new();
        for (batch_size, accumulation) in [(4, 1), (1, 4), (2, 2)] {
            let run = Run::new(stage);
            let sizes = [
                format!("train.per_device_train_batch_size={batch_size}"),
                format!("train.gradient_accumulation_steps={accumulation}"),
            ];
            let mut overrides = vec!["train.max_steps=1"];
            overrides.extend(sizes.iter().map(String::as_str));
            overrides.extend(adapter);
            run.train(&overrides);
            seen.push(metrics(&run.output_dir())[0].clone());
        }
        for row in &seen[1..] {
            for key in ["loss", "grad_norm"] {
                assert!(close(&row[key], &seen[0][key], 1e-6), "{stage} {key}: {} and {}", row[key], seen[0][key]);
            }
        }
    }
}

#[test]
fn layouts_and_checkpointing_change_nothing() {
    same_in_every_layout("lambda_dpo", &[]);
    same_in_every_layout("lambda_dpo", LAMBDA_ADAPTER);
}

#[test]
fn layouts_and_checkpointing_change_nothing_if_only_the_adapter_sees_lambda() {
    same_in_every_layout("dpo", LAMBDA_ADAPTER);
}

fn same_in_every_layout(stage: &str, adapter: &[&str]) {
    let mut seen = Vec::new();
    for overrides in [
        &["loss.layout=packed"][..],
        &["loss.layout=packed", "loss.max_tokens=512"],
        &["loss.layout=rows"],
        &["loss.layout=expanded"],
        &["train.gradient_checkpointing=true"],
    ] {
        if stage != "lambda_dpo" && overrides[0] == "loss.layout=expanded" {
            continue;
        }
        let run = Run::new(stage);
        let mut all = vec!["train.max_steps=2", "train.learning_rate=1e-3"];
        all.extend(overrides);
        all.extend(adapter);
        run.train(&all);
        seen.push(metrics(&run.output_dir()));
    }
    for rows in &seen[1..] {
        for (row, first) in rows.iter().zip(&seen[0]) {
            assert!(close(&row["loss"], &first["loss"], 1e-5), "{} and {}", row["loss"], first["loss"]);
            assert!(
                close(&row["grad_norm"], &first["grad_norm"], 1e-4),
                "{} and {}",
                row["grad_norm"],
                first["grad_norm"]
            );
        }
    }
}

#[test]
fn every_schedule_trains() {
    let table = "lambda.table=[{ probability = 1, weights = { helpfulness = 1 } }]";
    for overrides in [
        &["lambda.schedule=uniform_normalized", "lambda.per=step"][..],
        &["lambda.schedule=gaussian", "lambda.normalization=abs"],
        &["lambda.schedule=unimodal", "lambda.dimension=honesty"],
        &["lambda.schedule=unimodal", "lambda.dimension=cycle"],
        &["lambda.schedule=fixed", "lambda.weights={ honesty = 0.7, truthfulness = 0.3005 }"],
        &["lambda.schedule=table", table],
        &["loss.paper_exact=true"],
    ] {
        let run = Run::new("lambda_dpo");
        let mut all = vec!["train.max_steps=1"];
        all.extend(overrides);
        run.train(&all);
        let row = metrics(&run.output_dir())[0].clone();
        let with_adapter = Run::new("lambda_dpo");
        all.extend(LAMBDA_ADAPTER);
        with_adapter.train(&all);
        // A new adapter changes nothing, so the first loss is that of the model, under the same λ.
        assert_eq!(metrics(&with_adapter.output_dir())[0]["loss"], row["loss"]);
        if overrides[0].ends_with("=fixed") {
            // The weights, which sum to 1.0005, are renormalised.
            assert!(close(&row["lambda/honesty"], &(0.7 / 1.0005).into(), 1e-9), "{row}");
        }
        if overrides[0].ends_with("=table") {
            assert_eq!(row["lambda/helpfulness"], 1.0);
        }
    }
}

#[test]
fn a_run_killed_and_resumed_equals_one_that_never_stopped() {
    let adapter = ["adapter.kind=lora", "adapter.rank=2", "adapter.dropout=0.2"];
    let lambda_adapter = [LAMBDA_ADAPTER, &["adapter.dropout=0.2"]].concat();
    for adapter in [&[][..], &adapter, &lambda_adapter] {
        let mut overrides = vec![
            "train.max_steps=9",
            "train.save_steps=2",
            "train.eval_steps=3",
            "data.eval_fraction=0.2",
            "train.gradient_accumulation_steps=2",
            "train.learning_rate=1e-2",
        ];
        overrides.extend(adapter);
        let whole = Run::new("lambda_dpo");
        whole.train(&overrides);

        let killed = Run::new("lambda_dpo");
        let mut process = killed.spawn(&overrides);
        while metrics(&killed.output_dir()).len() < 6 && process.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(5));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let resumed: Vec<&str> = overrides.iter().copied().chain(["train.resume=auto"]).collect();
        let output = killed.train(&resumed);
        assert!(stderr(&output).contains("resuming from"), "{}", stderr(&output));

        assert_eq!(without_clocks(&killed.output_dir()), without_clocks(&whole.output_dir()));
        let weights = if adapter.is_empty() { "model/model.safetensors" } else { "adapter/adapter_model.safetensors" };
        let read = |run: &Run| fs::read(run.output_dir().join(weights)).unwrap();
        assert!(read(&killed) == read(&whole), "the final weights differ");
        // 10 samples are 5 micro-batches and 3 steps; the last checkpoint is of another step than the result.
        let states =
            [&killed, &whole].map(|run| fs::read_to_string(run.output_dir().join("trainer_state.json")).unwrap());
        for state in states.map(|text| serde_json::from_str::<Value>(&text).unwrap()) {
            assert_eq!(
                (&state["global_step"], &state["epoch"], &state["step_in_epoch"]),
                (&9.into(), &3.0.into(), &0.into())
            );
        }

        let again = killed.train(&resumed);
        assert!(stderr(&again).contains("this run is finished"), "{}", stderr(&again));
    }
}

/// Two threads share the products of this model, and each its part of the sums; those of the tiny model above are too
/// small for that.
#[test]
fn a_run_resumed_with_two_threads_equals_one_that_never_stopped() {
    for adapter in [&[][..], &["adapter.kind=lora", "adapter.rank=8"]] {
        let mut overrides = vec!["train.max_steps=3", "train.save_steps=2", "data.cutoff_len=256"];
        overrides.extend(["train.per_device_train_batch_size=4", "train.learning_rate=1e-2"]);
        overrides.extend(adapter);
        let two_threads = |run: &Run, overrides: &[&str]| {
            let output = run.command(overrides).env("OMP_NUM_THREADS", "2").env_remove("MKL_NUM_THREADS").output();
            let output = output.unwrap();
            assert!(output.status.success(), "{overrides:?}: {}", stderr(&output));
        };
        let run = Run::sized("lambda_dpo", 64, 5);
        two_threads(&run, &overrides);
        let dir = run.output_dir();
        let result = if adapter.is_empty() { "model" } else { "adapter" };
        let file = if adapter.is_empty() { "model.safetensors" } else { "adapter_model.safetensors" };
        let weights = || fs::read(dir.join(result).join(file)).unwrap();
        let (before, trained) = (without_clocks(&dir), weights());
        // As if the run had been killed after the first checkpoint.
        fs::remove_dir_all(dir.join(result)).unwrap();
        overrides.push("train.resume=auto");
        two_threads(&run, &overrides);
        assert_eq!(without_clocks(&dir), before);
        assert!(weights() == trained, "the final weights differ");
    }
}

#[test]
fn a_deterministic_run_equals_any_other_on_the_cpu() {
    let overrides = ["train.max_steps=2", "train.deterministic=true"];
    let (run, deterministic) = (Run::new("lambda_dpo"), Run::new("lambda_dpo"));
    run.train(&overrides[..1]);
    deterministic.train(&overrides);
    assert_eq!(without_clocks(&deterministic.output_dir()), without_clocks(&run.output_dir()));
    let written = fs::read_to_string(deterministic.output_dir().join("run.toml")).unwrap();
    assert!(written.contains("deterministic = true"), "{written}");
}

/// The first moment after one step is 1 − β₁ times the gradient, so its error is the gradient's. A gradient of bfloat16 is
/// rounded by at most 2⁻⁸ of each entry, and by less than half of that in the root of the mean square; twelve that are
/// rounded so and then summed in float32 are as exact, so the difference of the two stays below 2⁻⁸. A sum in bfloat16 is
/// rounded again at each of eleven additions.
#[test]
fn twelve_prompts_at_once_and_twelve_times_one_are_the_same_step_in_bfloat16() {
    let gradients = [(12, 1), (1, 12)].map(|(batch_size, accumulation)| {
        let run = Run::new("sft");
        let sizes = [
            format!("train.per_device_train_batch_size={batch_size}"),
            format!("train.gradient_accumulation_steps={accumulation}"),
        ];
        let mut overrides = vec!["train.max_steps=1", "train.save_steps=1", "model.dtype=bfloat16"];
        overrides.extend(sizes.iter().map(String::as_str));
        run.train(&overrides);
        let state = Tensor::read_safetensors(run.output_dir().join("checkpoint-1/optimizer.safetensors")).unwrap();
        let moments = state.into_iter().filter(|(name, _)| name.ends_with(".exp_avg"));
        moments.collect::<std::collections::BTreeMap<_, _>>()
    });
    for (name, once) in &gradients[0] {
        let (once, summed) = (once.to_kind(Kind::Double), gradients[1][name].to_kind(Kind::Double));
        let off = ((summed - &once).norm() / once.norm()).double_value(&[]);
        // The tied embedding has two gradients, and sums those of a token's positions in bfloat16.
        let bar = if name.starts_with("model.embed_tokens") { 2f64.powi(-7) } else { 2f64.powi(-8) };
        assert!(off < bar, "{name}: {off}");
    }
}

#[test]
fn a_signal_ends_a_run_after_its_step_with_a_checkpoint() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let run = Run::new("sft");
        let overrides = ["train.max_steps=100000", "train.save_steps=0"];
        let process = run.spawn(&overrides);
        while metrics(&run.output_dir()).len() < 2 {
            sleep(Duration::from_millis(5));
        }
        let pid = process.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let output = process.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));

        let steps = metrics(&run.output_dir()).len();
        let checkpoint = run.output_dir().join(format!("checkpoint-{steps}"));
        assert!(checkpoint.is_dir(), "no {}", checkpoint.display());
        let text = stderr(&output);
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            format!(
                "stopped after step {steps} of 100000, checkpoint saved to {}; resume with: lambda-dpo train {} train.resume=auto",
                checkpoint.display(),
                run.output_dir().join("run.toml").display()
            )
        );
        // As the message says, run.toml can be resumed like any config.
        let config = run.output_dir().join("run.toml");
        let refused = Run::program(&["train", config.to_str().unwrap(), "train.resume=auto", "train.max_steps=3"]);
        assert!(stderr(&refused).contains("the run was started with train.max_steps 100000, but now has 3"));
    }
}

#[test]
fn an_output_folder_with_a_run_is_not_overwritten() {
    let run = Run::new("sft");
    run.train(&["train.max_steps=1"]);
    let output = run.try_train(&["train.max_steps=1"]);
    assert_eq!(
        stderr(&output).trim_end(),
        format!(
            "error: {} already holds a run (model): resume it with train.resume=auto, choose another output_dir, or \
             delete the folder",
            run.output_dir().display()
        )
    );
}

#[test]
fn old_checkpoints_are_deleted_after_new_ones_are_written() {
    let run = Run::new("sft");
    run.train(&["train.max_steps=5", "train.save_steps=1", "train.save_total_limit=2"]);
    let mut names: Vec<String> = fs::read_dir(run.output_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("checkpoint"))
        .collect();
    names.sort();
    assert_eq!(names, ["checkpoint-4", "checkpoint-5"]);
}

#[test]
fn a_second_model_can_be_the_reference() {
    let first = Run::new("sft");
    first.train(&["train.max_steps=1"]);
    let reference = format!("reference.path={}", first.output_dir().join("model").display());
    let run = Run::new("lambda_dpo");
    run.train(&["train.max_steps=1", &reference]);
    assert_ne!(metrics(&run.output_dir())[0]["logps/ratio"], 0.0);
}

#[test]
fn bfloat16_trains_and_resumes() {
    for (adapter, result) in [(&[][..], "model"), (LAMBDA_ADAPTER, "adapter")] {
        let mut overrides = vec!["train.max_steps=3", "model.dtype=bfloat16", "train.save_steps=2"];
        overrides.extend(adapter);
        let whole = Run::new("lambda_dpo");
        whole.train(&overrides);
        // As if the run had been stopped after the checkpoint.
        fs::remove_dir_all(whole.output_dir().join(result)).unwrap();
        let before = without_clocks(&whole.output_dir());
        overrides.push("train.resume=auto");
        whole.train(&overrides);
        assert_eq!(without_clocks(&whole.output_dir()), before);
    }
}
