//! The library used from several threads.

use std::thread;

use lambda_dpo_abi as abi;
use lambda_dpo_host::plugin::{self, Plugin};
use lambda_dpo_tests::table::{self, Handle};
use lambda_dpo_tests::{fixture, plugin_library};
use tch::{Kind, Tensor};

use lambda_dpo_tests::batches::{Problem, exported};

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

/// Converts, tokenises and collates a few records with a shared tokenizer, and computes a loss.
fn work(tokenizer: &Handle<abi::Tokenizer>, plugin: &Plugin, seed: u64) -> (Vec<Tensor>, f64, Tensor) {
    let convert = table::convert_options(abi::FORMAT_ULTRAFEEDBACK);
    let samples: Vec<_> = (0..4)
        .map(|i| {
            let sample = table::convert_record(&record(seed + i), i, &convert).unwrap().unwrap();
            table::tokenize(tokenizer, &sample, &table::tokenize_options()).unwrap().unwrap()
        })
        .collect();
    let batch = table::collate(&samples, &[0.5; 8], &table::collate_options(abi::LAYOUT_PACKED)).unwrap();
    let tensors = batch.0.into_iter().map(|(_, tensor)| tensor).collect();

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
        context.unwrap().backward(&exported(&problem.inputs()), 1.0).unwrap().hidden.unwrap()
    };
    let grad_hidden = thread::spawn(backward).join().unwrap();
    (tensors, outputs.loss.double_value(&[]), grad_hidden)
}

#[test]
fn eight_threads_get_the_same_as_one() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let tokenizer = table::tokenizer_open(&fixture("words")).unwrap();
    let alone: Vec<_> = (0..THREADS).map(|seed| work(&tokenizer, &plugin, seed)).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (tokenizer, plugin) = (&tokenizer, plugin.clone());
                scope.spawn(move || (0..20).map(|_| work(tokenizer, &plugin, seed)).collect::<Vec<_>>())
            })
            .collect();
        for (thread, expected) in threads.into_iter().zip(&alone) {
            for found in thread.join().unwrap() {
                assert_eq!(found.0, expected.0);
                assert_eq!(found.1.to_bits(), expected.1.to_bits());
                assert_eq!(found.2, expected.2);
            }
        }
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
