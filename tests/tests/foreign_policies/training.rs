//! TorchScript modules as the trained policy: the same metrics as with the model, and exact resumption.

use std::fs;
use std::process::Command;

use lambda_dpo_tests::trainer::{Run, close, metrics, stderr};
use lambda_dpo_tests::{fixture, program};
use serde_json::Value;

const STEPS: [&str; 4] =
    ["train.max_steps=6", "train.learning_rate=1e-2", "data.eval_fraction=0.25", "train.gradient_accumulation_steps=2"];

/// A run with its model exported to TorchScript, and the override that trains the module.
fn with_script() -> (Run, String) {
    let run = Run::new("lambda_dpo");
    let mut command = program(&run.path("cache"));
    command.args(["export", "--to", "torchscript", "--model"]).arg(run.path("model")).arg(run.path("script"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let key = format!("model.torchscript={}", run.path("script/model.pt").display());
    (run, key)
}

fn train(run: &Run, name: &str, more: &[&str]) {
    let output_dir = format!("output_dir={}", run.path(name).display());
    run.train(&[&STEPS, more, &[&output_dir]].concat());
}

/// libtorch's own writer ends the process when it cannot write.
#[test]
fn a_full_disk_while_a_module_is_exported_is_an_error() {
    let (run, _) = with_script();
    let is_large = |path: &str| fs::metadata(run.path(path)).unwrap().len() > 16 << 10;
    assert!(is_large("script/model.pt"));
    // A limit on file sizes imitates a full disk: both fail in the middle of a write.
    let limited = |command: &Command| {
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let environment = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let script = format!("trap '' XFSZ; ulimit -f 16; exec {}", words.join(" "));
        let output = Command::new("bash").args(["-c", &script]).envs(environment).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stderr(&output).lines().last().unwrap().to_owned()
    };
    let mut export = program(&run.path("cache"));
    export.args(["export", "--to", "torchscript", "--model"]).arg(run.path("model")).arg(run.path("out"));
    assert_eq!(
        limited(&export),
        format!(
            "error: could not write {}: the file would exceed the size limit of this process or file system; nothing was \
             changed there, so raise the limit or choose another folder: File too large (os error 27)",
            run.path("out/model.pt").display()
        )
    );
    assert!(!run.path("out").exists());
}

#[test]
fn a_module_learns_as_its_model() {
    let (run, script) = with_script();
    for stage in [&[][..], &["stage=dpo", "data.format=ultrafeedback"]] {
        let name = |what: &str| format!("{what}-{}", stage.len());
        train(&run, &name("model"), &[&["loss.layout=rows"], stage].concat());
        train(&run, &name("script"), &[&[script.as_str()], stage].concat());
        let (expected, found) = (metrics(&run.path(&name("model"))), metrics(&run.path(&name("script"))));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            for (key, tolerance) in [("loss", 1e-4), ("eval_loss", 1e-4), ("grad_norm", 1e-3)] {
                if let Some(expected) = expected.get(key) {
                    assert!(close(&found[key], expected, tolerance), "{key}: {} and {expected}", found[key]);
                }
            }
        }
        let at = |row: usize| expected[row]["loss"].as_f64().unwrap();
        assert!((at(1) - at(6)).abs() > 0.01, "the run does not learn");
    }
    // The trained module can be scored, with the tokenizer saved beside it.
    let model = run.path("script-0").join("model");
    let mut command = program(&run.path("cache"));
    command.args(["score", "--device", "cpu", "--model"]).arg(&model).arg("--torchscript").arg(&model);
    command.arg("--records").arg(run.path("records.jsonl")).arg("--out").arg(run.path("scores.jsonl"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

fn without_clocks(run: &Run, name: &str) -> Vec<Value> {
    let mut rows = metrics(&run.path(name));
    for row in &mut rows {
        row.as_object_mut()
            .unwrap()
            .retain(|key, _| !["tokens_per_second", "step_secs", "peak_memory_bytes"].contains(&key.as_str()));
    }
    rows
}

#[test]
fn a_resumed_run_equals_one_that_never_stopped() {
    let (run, script) = with_script();
    let keys = [script.as_str(), "train.save_steps=3"];
    train(&run, "whole", &keys);
    let before = without_clocks(&run, "whole");
    fs::remove_dir_all(run.path("whole/model")).unwrap();
    fs::remove_dir_all(run.path("whole/checkpoint-6")).unwrap();
    train(&run, "whole", &[&keys[..], &["train.resume=auto"]].concat());
    assert_eq!(without_clocks(&run, "whole"), before);
}

/// The module has an architecture that the program does not support.
#[test]
fn a_module_exported_by_python_trains() {
    let run = Run::new("lambda_dpo");
    fs::remove_dir_all(run.path("model")).unwrap();
    fs::create_dir(run.path("model")).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture("words").join(name), run.path("model").join(name)).unwrap();
    }
    let script = format!("model.torchscript={}", fixture("golden/exports/gpt/model.pt").display());
    // This tokenizer knows only a few words of the demo, which is enough to train.
    train(&run, "gpt", &[&script, "train.learning_rate=1e-3"]);
    let rows = metrics(&run.path("gpt"));
    assert_eq!(rows[1]["logps/ratio"], 0.0);
    assert!(
        rows[6]["logps/ratio"].as_f64().unwrap() != 0.0 && rows[6]["grad_norm"].as_f64().unwrap() > 0.0,
        "{}",
        rows[6]
    );
    let text = stderr(&run.try_train(&["output_dir=constants", &script, "model.torchscript=no/such.pt"]));
    assert!(text.ends_with("error: could not read no/such.pt: No such file or directory (os error 2)\n"), "{text}");
}
