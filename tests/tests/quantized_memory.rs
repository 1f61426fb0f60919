//! How much memory the weights of linear layers take in 4 bits, at the peak of the whole program.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and a measurement")]

use std::fs;
use std::path::Path;

use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{Model, Precision};
use lambda_dpo_tests::{fixture, program};
use tch::Kind;

/// Scores a record, and returns the peak of the program's resident memory, in bytes.
fn peak_bytes(model: &Path, options: &[&str]) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let records = fs::read_to_string(fixture("demo/records.jsonl")).unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("records.jsonl"), records.lines().next().unwrap()).unwrap();
    let mut command = program(&file("cache"));
    command.args(["score", "--device", "cpu", "--model"]).arg(model).args(options);
    command.arg("--records").arg(file("records.jsonl")).arg("--out").arg(file("out.jsonl"));
    // Python tells the peak of its one child; GNU time, which does too, is not everywhere.
    let script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); \
                  print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let arguments: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(ToOwned::to_owned).collect();
    let output = std::process::Command::new("python3").args(["-c", script]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap() * 1024
}

/// Loads and runs the model that LAMBDA_DPO_MODEL names.
#[test]
#[ignore = "needs a model of 100 million parameters or more: LAMBDA_DPO_MODEL names its folder"]
fn linear_weights_take_less_than_0_16_of_float32_at_the_peak() {
    let folder = std::env::var("LAMBDA_DPO_MODEL").unwrap();
    let folder = Path::new(&folder);
    let peaks = [&[][..], &["--quantize", "nf4"]].map(|options| peak_bytes(folder, options));
    let precision = Precision { kind: Kind::Float, nf4: true };
    let parts = Model::load(folder, Libtorch::cpu(), precision).unwrap().quantized_parts().unwrap();
    let held: usize = parts.iter().map(|(_, part)| part.numel() * part.kind().elt_size_in_bytes()).sum();
    let codes = parts.iter().filter(|(name, _)| name.ends_with(".weight"));
    let float32: usize = codes.map(|(_, codes)| codes.numel() * 2 * size_of::<f32>()).sum();
    let share = |bytes: f64| bytes / float32 as f64;
    // What is not weights is the same in both.
    let (held, peak) = (share(held as f64), 1.0 - share(peaks[0] as f64 - peaks[1] as f64));
    println!(
        "{float32} bytes in float32: {held:.4} of them are held in 4 bits, {peak:.4} more at the peak than without any"
    );
    assert!(held < 0.14 && peak < 0.16, "{held} and {peak}");
}
