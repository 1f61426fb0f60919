//! `lambda-dpo plan`: what it counts is what a run then takes, and what it cannot count it says.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and measurements")]

use std::fs;
use std::sync::{Mutex, PoisonError};

use lambda_dpo_tests::trainer::{Run, stderr};
use lambda_dpo_tests::{program, root};
use serde_json::Value;

/// Held by a test that trains: the threads of two runs at once wait for each other.
static TRAINING: Mutex<()> = Mutex::new(());
/// Of the measured peak.
const TOLERANCE: f64 = 0.1;

/// Runs `lambda-dpo plan` in the checkout, and returns its exit code, what it prints, and what it says.
fn plan(arguments: &[&str]) -> (i32, String, String) {
    let cache = tempfile::tempdir().unwrap();
    let output = program(cache.path()).arg("plan").args(arguments).current_dir(root()).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
}

/// The number of GiB in the line of a plan that begins so.
fn planned(plan: &str, name: &str) -> f64 {
    let line = plan.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
    line.strip_suffix("GiB").unwrap().split_whitespace().last().unwrap().parse().unwrap()
}

/// Peak of the process after each step, in GiB.
fn peaks(run: &Run) -> Vec<f64> {
    let metrics = fs::read_to_string(run.output_dir().join("metrics.jsonl")).unwrap();
    let peaks =
        metrics.lines().filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["peak_memory_bytes"].as_f64());
    peaks.map(|peak| peak / f64::from(1 << 30)).collect()
}

fn measured(run: &Run) -> f64 {
    peaks(run).into_iter().fold(0.0, f64::max)
}

/// What the program and libtorch hold besides tensors: the model of this run has less than a mebibyte of them.
fn of_the_program() -> f64 {
    let smallest = Run::new("lambda_dpo");
    smallest.train(&["train.max_steps=2", "train.save_steps=0"]);
    measured(&smallest)
}

#[test]
fn planned_memory_is_what_runs_take() {
    let _alone = TRAINING.lock().unwrap_or_else(PoisonError::into_inner);
    let program = of_the_program();
    println!("the program: {program:.3} GiB measured");
    let run = Run::sized("lambda_dpo", 512, 8);
    let config = run.path("run.toml");
    let always = ["train.max_steps=2", "train.per_device_train_batch_size=12", "train.save_steps=0"];
    for (name, overrides) in [
        ("LoRA", &["adapter.rank=16"][..]),
        ("LoRA with checkpointing", &["adapter.rank=16", "train.gradient_checkpointing=true"]),
        ("all weights", &[]),
    ] {
        let overrides = [&always, overrides].concat();
        let (_, plan, _) = plan(&[&[config.to_str().unwrap()], &overrides[..]].concat());
        let _ = fs::remove_dir_all(run.output_dir());
        run.train(&overrides);
        let (planned, measured) = (planned(&plan, "at the same time") + program, measured(&run));
        println!("{name}: {planned:.3} GiB planned, {measured:.3} measured");
        assert!((planned / measured - 1.0).abs() < TOLERANCE, "{name}: {planned} planned, {measured} measured");
    }
}

#[test]
fn memory_does_not_grow_with_the_number_of_steps() {
    let _alone = TRAINING.lock().unwrap_or_else(PoisonError::into_inner);
    let run = Run::sized("lambda_dpo", 512, 8);
    for checkpointing in ["train.gradient_checkpointing=false", "train.gradient_checkpointing=true"] {
        // Two micro-batches of two prompts in each of the three steps of an epoch, of other prompts in each epoch.
        let overrides =
            ["train.gradient_accumulation_steps=2", "train.num_train_epochs=4", "train.save_steps=0", checkpointing];
        let _ = fs::remove_dir_all(run.output_dir());
        run.train(&overrides);
        let peaks = peaks(&run);
        let (first_epochs, all) = (peaks[5], peaks[peaks.len() - 1]);
        println!("{first_epochs:.3} GiB after two epochs, {all:.3} after four");
        assert_eq!(peaks.len(), 12);
        assert!(all < 1.05 * first_epochs, "{peaks:?}");
    }
}

#[test]
fn the_documentation_has_what_the_program_prints() {
    let text = fs::read_to_string(root().join("docs/planning.md")).unwrap();
    let blocks: Vec<_> = text.split("```console\n").skip(1).map(|block| block.split_once("```").unwrap().0).collect();
    assert!(blocks.len() > 1);
    for block in blocks {
        let (command, expected) = block.split_once('\n').unwrap();
        let words: Vec<&str> = command.strip_prefix("$ lambda-dpo plan ").unwrap().split_whitespace().collect();
        let (_, printed, said) = plan(&words);
        assert_eq!(printed, expected, "{command}\n{said}");
    }
}

#[test]
fn a_run_that_does_not_fit_is_told_before_it_starts() {
    let run = Run::new("lambda_dpo");
    let config = run.path("run.toml");
    let config = config.to_str().unwrap();
    let fits = plan(&[config, "--lengths", "100,4,100", "--card-gib", "24"]);
    assert_eq!((fits.0, fits.2.as_str()), (0, ""));
    let (code, _, said) = plan(&[config, "--lengths", "100,4,100", "--card-gib", "0.001"]);
    assert_eq!(code, 0);
    assert!(said.contains("but 0.00 GiB are free: lower train.per_device_train_batch_size"), "{said}");
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let run = Run::new("lambda_dpo");
    let config = run.path("run.toml");
    let config = config.to_str().unwrap();
    for (arguments, expected) in [
        (&["--lengths", "100,4"][..], "--lengths takes 3 numbers, found 2"),
        (&["--lengths", "100,0,4"], "--lengths must be between 1 and 16777216, found 0"),
        (&["--lengths", "100,4,100", "--card-gib", "0"], "--card-gib 0 must be above 0"),
        (&["--tflops", "0"], "--tflops 0 must be above 0"),
        (&["--card-gib", "24"], "--lengths"),
        (&["--lengths", "9,2,9", "adapter.kind=lambda_lora"], "data.dimensions is missing"),
        (&["model.torchscript=x.pt"], "model.torchscript is a program"),
    ] {
        let (code, printed, said) = plan(&[&[config], arguments].concat());
        assert_ne!(code, 0, "{arguments:?}");
        assert_eq!(printed, "", "{arguments:?}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
