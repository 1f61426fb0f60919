//! Benchmarks of the core's stages one by one: convert, tokenize, collate, log-probs, loss.
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has nothing to report")]

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lambda_dpo_core::{
    CollateOptions, ConvertOptions, Format, Layout, LossInputs, LossOptions, Objective, Sample, SampleReader,
    TokenizeOptions, TokenizedResponse, TokenizedSample, Tokenizer, Wants, collate, loss_forward,
};
use lambda_dpo_tests::fixture;
use ndarray::Array2;
use tch::{Device, Kind, Tensor};

const VOCAB: i64 = 32_000;
const HIDDEN: i64 = 256;
const NUM_DIMENSIONS: usize = 4;
const LENGTHS: [usize; 4] = [150, 240, 310, 380];

fn short() -> Criterion {
    Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

fn records() -> [PathBuf; 1] {
    [fixture("demo/records.jsonl")]
}

fn read() -> Vec<Sample> {
    let reader = SampleReader::open(&records(), ConvertOptions::new(Format::UltraFeedback)).unwrap();
    reader.collect::<Result<_, _>>().unwrap()
}

fn convert(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("convert");
    group.throughput(Throughput::Bytes(records()[0].metadata().unwrap().len()));
    group.bench_function("demo records", |bencher| bencher.iter(read));
    group.finish();
}

fn tokenize(criterion: &mut Criterion) {
    let tokenizer = Tokenizer::open(&fixture("demo/model"), None).unwrap();
    let (samples, options) = (read(), TokenizeOptions::default());
    let mut group = criterion.benchmark_group("tokenize");
    group.throughput(Throughput::Elements(samples.len() as u64));
    group.bench_function("demo records, one thread", |bencher| {
        bencher.iter(|| samples.iter().map(|sample| tokenizer.tokenize(sample, &options).unwrap()).collect::<Vec<_>>());
    });
    group.finish();
}

/// A prompt of 200 tokens and four responses with lengths as in UltraFeedback.
fn sample(record_index: u64) -> TokenizedSample {
    let tokens = |len: usize, salt: usize| (0..len).map(|at| ((at * 7919 + salt) % 31_000 + 3) as i64).collect();
    let responses = LENGTHS.iter().enumerate().map(|(response_index, &length)| TokenizedResponse {
        response_index,
        ids: tokens(length, response_index),
        is_target: None,
    });
    TokenizedSample::new(
        record_index,
        tokens(200, 9),
        responses.collect(),
        Array2::from_elem((NUM_DIMENSIONS, LENGTHS.len()), 0.25),
    )
}

fn collate_layouts(criterion: &mut Criterion) {
    let samples: Vec<_> = (0..8).map(sample).collect();
    let samples: Vec<_> = samples.iter().collect();
    let lambda = vec![0.25; samples.len() * NUM_DIMENSIONS];
    let mut group = criterion.benchmark_group("collate 8 prompts");
    for layout in [Layout::Packed, Layout::Rows, Layout::Expanded] {
        let options = CollateOptions { layout, max_tokens: None, pad_to_multiple_of: 8, pad_token_id: 0 };
        group.bench_function(BenchmarkId::from_parameter(format!("{layout:?}")), |bencher| {
            bencher.iter(|| collate(&samples, &lambda, &options).unwrap());
        });
    }
    group.finish();
}

fn options(objective: Objective, wants: Wants) -> LossOptions {
    LossOptions { objective, beta: 0.1, wants, ..LossOptions::default() }
}

/// Forward and backward, with the shapes of the comparison of whole steps.
fn log_probs(criterion: &mut Criterion) {
    tch::manual_seed(1);
    let num_targets = LENGTHS.iter().sum::<usize>() as i64;
    let (float, integer) = ((Kind::Float, Device::Cpu), (Kind::Int64, Device::Cpu));
    let hidden = Tensor::randn([1, num_targets, HIDDEN], float);
    let lm_head = Tensor::randn([VOCAB, HIDDEN], float) / 16.0;
    let positions = Tensor::arange(num_targets, integer);
    let ids = Tensor::randint(VOCAB, [num_targets], integer);
    let sequences = Tensor::zeros([num_targets], integer);
    let inputs = LossInputs {
        hidden: Some(&hidden),
        lm_head: Some(&lm_head),
        target_positions: Some(&positions),
        target_ids: Some(&ids),
        target_sequences: Some(&sequences),
        num_sequences: 1,
        ..LossInputs::default()
    };
    let mut group = criterion.benchmark_group("log-probs forward and backward, 1080 targets");
    for (name, lm_head) in [("frozen head", false), ("trained head", true)] {
        let options = options(Objective::Sft, Wants { hidden: true, lm_head, ..Wants::default() });
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (_, context) = loss_forward(&inputs, &options).unwrap();
                context.unwrap().backward(&inputs, 1.0).unwrap()
            });
        });
    }
    group.finish();
}

/// Forward and backward of every preference objective from sequence log-probs, 64 prompts: all that objectives differ in.
fn loss(criterion: &mut Criterion) {
    tch::manual_seed(2);
    let (num_prompts, num_responses) = (64, 64 * LENGTHS.len() as i64);
    let float = (Kind::Float, Device::Cpu);
    // As means of log-probs are; ORPO's odds need probabilities.
    let policy = -Tensor::rand([num_responses], float);
    let reference = Tensor::randn([num_responses], float);
    let offsets = Tensor::arange(num_prompts + 1, (Kind::Int64, Device::Cpu)) * LENGTHS.len() as i64;
    let ratings = Tensor::randint(5, [NUM_DIMENSIONS as i64, num_prompts, LENGTHS.len() as i64], float);
    let pi_target = ratings.softmax(-1, Kind::Float).reshape([NUM_DIMENSIONS as i64, num_responses]);
    let lambda = Tensor::full([num_prompts, NUM_DIMENSIONS as i64], 0.25, float);
    let inputs = LossInputs {
        sequence_log_probs: Some(&policy),
        num_sequences: num_responses,
        reference_log_probs: Some(&reference),
        prompt_offsets: Some(&offsets),
        pi_target: Some(&pi_target),
        lambda: Some(&lambda),
        ..LossInputs::default()
    };
    let mut group = criterion.benchmark_group("loss of 64 prompts");
    for objective in (0..).map_while(Objective::from_code).filter(|objective| objective.has_preferences()) {
        let wants = Wants { sequence_log_probs: true, ..Wants::default() };
        let options = LossOptions { reduction: objective.default_reduction(), ..options(objective, wants) };
        let reference_log_probs = inputs.reference_log_probs.filter(|_| objective.has_reference());
        let inputs = LossInputs { reference_log_probs, ..inputs };
        group.bench_function(objective.name(), |bencher| {
            bencher.iter(|| {
                let (_, context) = loss_forward(black_box(&inputs), &options).unwrap();
                context.unwrap().backward(&inputs, 1.0).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = short(); targets = convert, tokenize, collate_layouts, log_probs, loss }
criterion_main!(benches);
