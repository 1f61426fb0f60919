//! The library used from several threads.

use std::thread;

use lambda_dpo_abi as abi;
use lambda_dpo_host::plugin::{self, Plugin};
use lambda_dpo_tests::table::{self, Handle};
use lambda_dpo_tests::{fixture, plugin_library};
use tch::{Kind, Tensor};

use lambda_dpo_tests::batches::{Problem, exported};

use crate::memory::{KIB, alone, bytes_in_use};

const THREADS: u64 = 8;

fn record(i: u64) -> String {
    let completion = |j: u64| {
        let (words, rating) = (["one", "two", "blue"][((i + j) % 3) as usize], 1 + (i * j) % 5);
        format!(
            r#"{{"response": "{words} plum", "annotations": {{"a": {{"Rating": {rating}}}, "b": {{"Rating": {j}}}}}}}"#
        )
    };
    let completions: Vec<String> = (0..2 + i % 3).map(completion).collect();
    format!(r#"{{"instruction": "name a fruit", "completions": [{}]}}"#, completions.join(","))
}

/// The values of a tensor, to the last bit: all of its dtypes fit float64 here.
fn bits(tensor: &Tensor) -> Vec<u64> {
    let values = Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap();
    values.into_iter().map(f64::to_bits).collect()
}

/// Converts, tokenises and collates a few records with a shared tokenizer, and computes a loss and a gradient. Returns all
/// values.
fn work(tokenizer: &Handle<abi::Tokenizer>, plugin: &Plugin, seed: u64) -> Vec<Vec<u64>> {
    let convert = table::convert_options(abi::FORMAT_ULTRAFEEDBACK);
    let samples: Vec<_> = (0..4)
        .map(|i| {
            let sample = table::convert_record(&record(seed + i), i, &convert).unwrap().unwrap();
            table::tokenize(tokenizer, &sample, &table::tokenize_options()).unwrap().unwrap()
        })
        .collect();
    let batch = table::collate(&samples, &[0.5; 8], &table::collate_options(abi::LAYOUT_PACKED)).unwrap();
    let mut found: Vec<Vec<u64>> = batch.0.iter().map(|(_, tensor)| bits(tensor)).collect();

    let problem = Problem::random(seed, Kind::Float);
    let options = plugin::LossOptions {
        objective: plugin::Objective::Listwise,
        reduction: plugin::Reduction::Sum,
        beta: 0.3,
        logits_budget_bytes: 1 << 12,
        wants: plugin::Wants { hidden: true, lm_head: true, ..plugin::Wants::default() },
        ..plugin::LossOptions::default()
    };
    let (outputs, context) = plugin.loss_forward(&exported(&problem.inputs()), &options).unwrap();
    // A context may move to another thread, which passes the same inputs.
    let backward = move || {
        let problem = Problem::random(seed, Kind::Float);
        bits(&context.unwrap().backward(&exported(&problem.inputs()), 1.0).unwrap().hidden.unwrap())
    };
    found.extend([bits(&outputs.loss), thread::spawn(backward).join().unwrap()]);
    found
}

/// Calls of the table in [`work`], besides those that free: 4 records, 4 samples, a batch, a loss and its backward.
const CALLS: usize = 11;
const ALL_CALLS: usize = 100_000;
const ROUNDS: usize = 10;
/// Rounds that memory has to come back to what it was.
const MORE_ROUNDS: usize = 20;

/// 10⁵ calls: what each gives is what it gives to one thread alone, and what they leave in memory does not grow.
#[test]
fn eight_threads_get_the_same_as_one() {
    alone("threads::eight_threads_get_the_same_as_one", || {
        let plugin = Plugin::load(Some(&plugin_library())).unwrap();
        let tokenizer = table::tokenizer_open(&fixture("words")).unwrap();
        let expected: Vec<_> = (0..THREADS).map(|seed| work(&tokenizer, &plugin, seed)).collect();
        let each = ALL_CALLS / ROUNDS / CALLS / THREADS as usize;
        let round = || {
            thread::scope(|scope| {
                for (seed, expected) in (0..THREADS).zip(&expected) {
                    let (tokenizer, plugin) = (&tokenizer, plugin.clone());
                    scope.spawn(move || {
                        for _ in 0..=each {
                            assert_eq!(&work(tokenizer, &plugin, seed), expected);
                        }
                    });
                }
            });
            bytes_in_use()
        };
        // After some rounds, libtorch keeps 4 MiB for a thread that has ended, and gives them back after others: what has
        // leaked never comes back.
        let first = (0..ROUNDS / 2).map(|_| round()).max().unwrap();
        let mut last = (0..ROUNDS / 2).map(|_| round()).min().unwrap();
        for _ in 0..MORE_ROUNDS {
            if last <= first + 64 * KIB {
                break;
            }
            last = last.min(round());
        }
        assert!(last <= first + 64 * KIB, "{} KiB became {}", first / KIB, last / KIB);
    });
}

#[test]
fn contexts_are_freed_unused_from_any_thread() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let problem = Problem::random(4, Kind::Float);
    let logits = problem.logits();
    let inputs = plugin::LossInputs { reference_log_probs: None, ..exported(&problem.with_logits(&logits)) };
    let options = plugin::LossOptions {
        objective: plugin::Objective::Sft,
        reduction: plugin::Reduction::Sum,
        beta: 1.0,
        logits_budget_bytes: 1 << 20,
        wants: plugin::Wants { logits: true, ..plugin::Wants::default() },
        ..plugin::LossOptions::default()
    };
    for _ in 0..50 {
        let (_, context) = plugin.loss_forward(&inputs, &options).unwrap();
        let context = context.unwrap();
        thread::spawn(move || drop(context)).join().unwrap();
    }
}
