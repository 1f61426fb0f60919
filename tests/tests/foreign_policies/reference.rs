//! ONNX and TorchScript references: the same losses as with the model they were exported from.

use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_tests::program;
use lambda_dpo_tests::trainer::{Run, metrics, stderr};
use serde_json::Value;

/// The losses are around 1.4.
const TOLERANCE: f64 = 1e-4;

const STEPS: [&str; 3] = ["train.max_steps=10", "train.learning_rate=1e-2", "data.eval_fraction=0.25"];

/// A run with its model exported to `onnx` and `torchscript`.
fn with_exports() -> Run {
    let run = Run::new("lambda_dpo");
    for format in ["onnx", "torchscript"] {
        let mut command = program(&run.path("cache"));
        command.args(["export", "--to", format, "--model"]).arg(run.path("model")).arg(run.path(format));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    run
}

fn train(run: &Run, name: &str, more: &[&str]) -> String {
    let output_dir = format!("output_dir={}", run.path(name).display());
    stderr(&run.train(&[&STEPS, more, &[&output_dir]].concat()))
}

/// Every loss in the metrics of a run, including evaluations.
fn losses(run: &Run, name: &str) -> Vec<f64> {
    let loss = |row: &Value| row.get("loss").or(row.get("eval_loss")).and_then(Value::as_f64).unwrap();
    metrics(&run.path(name)).iter().map(loss).collect()
}

fn of_kind(run: &Run, kind: &str) -> [String; 2] {
    [format!("reference.kind={kind}"), format!("reference.path={}", run.path(kind).display())]
}

#[test]
fn losses_are_those_with_the_model() {
    let run = with_exports();
    for adapter in [&[][..], &["adapter.rank=2"]] {
        let name = |kind: &str| format!("{kind}-{}", adapter.len());
        train(&run, &name("model"), &[&["reference.kind=model"], adapter].concat());
        let expected = losses(&run, &name("model"));
        assert_eq!(expected.len(), 12);
        assert!((expected[11] - expected[1]).abs() > 0.01, "the run does not learn: {expected:?}");
        for kind in ["onnx", "torchscript"] {
            let reference = of_kind(&run, kind);
            let said = train(&run, &name(kind), &[&[reference[0].as_str(), &reference[1]], adapter].concat());
            assert!(said.contains("reference: the log-probs of ") && said.contains(" over 12 records\n"), "{said}");
            for (found, expected) in losses(&run, &name(kind)).iter().zip(&expected) {
                assert!((found - expected).abs() < TOLERANCE, "{kind}: {found} and {expected}");
            }
        }
    }
}

#[test]
fn log_probs_are_kept_under_the_contents_of_the_file() {
    let run = with_exports();
    for kind in ["onnx", "torchscript"] {
        let reference = of_kind(&run, kind);
        let reference = [reference[0].as_str(), &reference[1]];
        let computed = train(&run, &format!("{kind}-first"), &reference);
        assert!(computed.contains("log-probs, 0 from the cache"), "{computed}");
        let found = train(&run, &format!("{kind}-again"), &reference);
        let line =
            found.lines().find_map(|line| line.strip_prefix("reference: ").filter(|line| line.contains("cache")));
        let (total, rest) = line.unwrap().split_once(" log-probs, ").unwrap();
        assert_eq!(rest, format!("{total} from the cache"));
        assert_eq!(losses(&run, &format!("{kind}-first")), losses(&run, &format!("{kind}-again")));
    }
}

#[test]
fn a_reference_with_other_weights_is_refused_unless_validation_is_off() {
    let run = with_exports();
    let other =
        lambda_dpo_host::model::Model::random(&run.path("model"), Libtorch::cpu(), tch::Kind::Float, 8).unwrap();
    other.freeze();
    std::fs::rename(run.path("model"), run.path("tokenizer")).unwrap();
    other.save(&run.path("model"), &run.path("tokenizer")).unwrap();
    for (kind, file) in [("onnx", "model.onnx"), ("torchscript", "model.pt")] {
        let reference = of_kind(&run, kind);
        let reference = ["train.max_steps=1", reference[0].as_str(), &reference[1]];
        let output = run.try_train(&reference);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let start = format!(
            "error: the reference {} differs from the weights of {} by up to ",
            run.path(kind).join(file).display(),
            run.path("model").display()
        );
        let end = "; 1e-4 is allowed): export it again, or set reference.validate = false if it is a different policy on purpose";
        let line = text.lines().last().unwrap();
        assert!(line.starts_with(&start) && line.ends_with(end), "{line}");
        train(&run, kind, &[&reference[..], &["reference.validate=false"]].concat());
        assert_ne!(metrics(&run.path(kind))[0]["eval_logps/ratio"], 0.0);
    }
}
