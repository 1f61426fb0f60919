//! Benchmarks of the program's stages one by one: attention and a decoder layer over packed rows, adapters, the
//! optimiser.
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has nothing to report")]

use std::fs;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use lambda_dpo_core::{Batch, CollateOptions, Layout, TokenizedResponse, TokenizedSample, collate};
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{ForwardOptions, LambdaParts, LoraConfig, Model, ModelInputs, TargetModules};
use lambda_dpo_host::train::optimizer::{AdamW, AdamWOptions, clip_scale};
use lambda_dpo_tests::batches::model_inputs;
use ndarray::Array2;
use serde_json::json;
use tch::{Device, Kind, Tensor};

const LENGTHS: [usize; 4] = [150, 240, 310, 380];

fn short() -> Criterion {
    Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

/// One layer of the model in the comparison of whole steps; a tiny MLP leaves attention as the only cost.
fn one_layer(intermediate_size: i64) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 256,
        "intermediate_size": intermediate_size, "num_hidden_layers": 1, "num_attention_heads": 8,
        "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
        "tie_word_embeddings": false, "hidden_act": "silu"
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    Model::random(folder.path(), Libtorch::cpu(), Kind::Float, 1).unwrap()
}

/// Prompts of 200 tokens with their responses, one row for each prompt.
fn packed(num_prompts: u64) -> Batch {
    let sample = |record_index| {
        TokenizedSample::new(
            record_index,
            vec![5; 200],
            (0..LENGTHS.len())
                .map(|at| TokenizedResponse { response_index: at, ids: vec![6; LENGTHS[at]], is_target: None })
                .collect(),
            Array2::from_elem((1, LENGTHS.len()), 0.25),
        )
    };
    let samples: Vec<_> = (0..num_prompts).map(sample).collect();
    let samples: Vec<_> = samples.iter().collect();
    let options = CollateOptions { layout: Layout::Packed, max_tokens: None, pad_to_multiple_of: 8, pad_token_id: 0 };
    collate(&samples, &vec![1.0; samples.len()], &options).unwrap()
}

fn layer(criterion: &mut Criterion) {
    let batch = packed(1);
    let inputs = ModelInputs { lambda: None, ..model_inputs(&batch) };
    let (rows, tokens) = batch.input_ids.size2().unwrap();
    let grad = Tensor::ones([rows, tokens, 256], (Kind::Float, Device::Cpu));
    for (name, intermediate_size) in [("attention", 8), ("decoder layer", 688)] {
        let model = one_layer(intermediate_size);
        let mut group = criterion.benchmark_group(format!("{name}, packed prompt of 1280 tokens"));
        group.bench_function("forward", |bencher| bencher.iter(|| model.hidden(&inputs).unwrap()));
        group.bench_function("forward and backward", |bencher| {
            bencher.iter(|| {
                let activations = model.forward(&inputs, &ForwardOptions::default()).unwrap();
                activations.backward(&grad).unwrap();
            });
        });
        group.finish();
    }
}

/// Forward and backward of one layer with a LoRA, and with a λ-adapter of the same total rank and a different λ for
/// each prompt.
fn adapters(criterion: &mut Criterion) {
    const DIMENSIONS: i64 = 4;
    let batch = packed(2);
    let lambda = Tensor::from_slice(&[0.7_f32, 0.1, 0.1, 0.1, 0.0, 0.5, 0.5, 0.0]).view([2, DIMENSIONS]);
    let inputs = ModelInputs { lambda: Some(&lambda), ..model_inputs(&batch) };
    let (rows, tokens) = batch.input_ids.size2().unwrap();
    let grad = Tensor::ones([rows, tokens, 256], (Kind::Float, Device::Cpu));
    let parts = LambdaParts { dimensions: (0..DIMENSIONS).map(|k| k.to_string()).collect(), rank: 4 };
    let mut group = criterion.benchmark_group("adapter of rank 20, forward and backward of a decoder layer");
    for (name, rank, lambda) in [("LoRA", 20, None), ("λ-adapter", 4, Some(parts))] {
        let target_modules = TargetModules::AllLinear;
        let mut model = one_layer(688);
        let config = LoraConfig { rank, alpha: 8.0, dropout: 0.0, use_rslora: false, target_modules, lambda };
        model.add_lora(&config, 1).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let activations = model.forward(&inputs, &ForwardOptions::default()).unwrap();
                activations.backward(&grad).unwrap();
            });
        });
    }
    group.finish();
}

/// Gradient norm, clipping and update of 21 million parameters, in tensors of the model's shapes.
fn optimizer(criterion: &mut Criterion) {
    let mut shapes = vec![vec![32_000, 256], vec![32_000, 256]];
    for _ in 0..6 {
        shapes.extend([vec![256, 256], vec![256, 256], vec![256, 256], vec![256, 256]]);
        shapes.extend([vec![688, 256], vec![688, 256], vec![256, 688], vec![256], vec![256]]);
    }
    let parameters: Vec<Tensor> =
        shapes.iter().map(|shape| Tensor::ones(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true)).collect();
    let named = parameters.iter().enumerate().map(|(at, tensor)| (format!("weight_{at}"), tensor.shallow_clone()));
    let options = AdamWOptions { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let mut optimizer = AdamW::new(named.collect(), options).unwrap();
    let set_gradients = || parameters.iter().for_each(|parameter| parameter.sum(Kind::Float).backward());
    criterion.bench_function("optimiser/norm, clip and update", |bencher| {
        bencher.iter_batched(
            set_gradients,
            |()| {
                let norm = optimizer.grad_norm().unwrap();
                optimizer.step(1e-6, clip_scale(norm, 1.0)).unwrap();
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group! { name = benches; config = short(); targets = layer, adapters, optimizer }
criterion_main!(benches);
