//! How much memory the weights of linear layers take in 4 bits. A test program of its own, because it measures its process.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use lambda_dpo_host::libtorch::{Libtorch, peak_memory_bytes};
use lambda_dpo_host::model::{Model, ModelInputs, Precision};
use tch::{Device, Kind, Tensor};

/// Bytes of main memory that the process holds.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

/// Computes a few hidden states.
fn pass(model: &Model) -> Tensor {
    let options = (Kind::Int64, Device::Cpu);
    let positions = Tensor::arange(8, options).unsqueeze(0);
    let inputs = ModelInputs {
        input_ids: &(&positions + 3),
        position_ids: &positions,
        prompt_ids: &Tensor::zeros([1, 8], options),
        sequence_ids: &Tensor::full([1, 8], -1, options),
        lambda: None,
    };
    model.hidden(&inputs).unwrap()
}

/// Loads and runs the model that LAMBDA_DPO_MODEL names (SmolLM2, for the figures of docs/benchmarks.md).
#[test]
#[ignore = "needs a model of 100 million parameters or more: LAMBDA_DPO_MODEL names its folder"]
fn linear_weights_take_less_than_0_16_of_float32_at_their_peak() {
    let folder = std::env::var("LAMBDA_DPO_MODEL").unwrap();
    let libtorch = Libtorch::cpu();
    // What libtorch allocates for its first operations is not of the weights.
    let warm = Tensor::randn([64, 64], (Kind::Float, Device::Cpu));
    drop(warm.matmul(&warm));
    let before = resident_bytes();
    let model = Model::load(Path::new(&folder), libtorch, Precision { kind: Kind::Float, nf4: true }).unwrap();
    assert!(model.is_quantized());
    assert_eq!(pass(&model).isfinite().all().int64_value(&[]), 1);
    let peak = peak_memory_bytes().unwrap() - before;
    let dense: u64 = model.named_parameters().map(|(_, tensor)| tensor.numel() as u64 * 4).sum();
    let held: u64 = model
        .quantized_parts()
        .unwrap()
        .iter()
        .map(|(_, part)| part.numel() as u64 * part.kind().elt_size_in_bytes() as u64)
        .sum();
    let codes = model.quantized_parts().unwrap();
    let num_values: u64 =
        codes.iter().filter(|(name, _)| name.ends_with(".weight")).map(|(_, part)| part.numel() as u64 * 2).sum();
    let share = |bytes: u64| bytes as f64 / (num_values * 4) as f64;
    let (held, peak) = (share(held), share(peak.saturating_sub(dense)));
    println!("{num_values} linear weights: {held:.4} of float32 held, {peak:.4} at the peak of loading and a pass");
    assert!(held < 0.14 && peak < 0.16, "{held} and {peak}");
}
