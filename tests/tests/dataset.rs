//! The dataset through the table: the same as in the core, prefetched or not; and batches of prompts of similar length.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use lambda_dpo_core as core;
use lambda_dpo_host::plugin::{self, Plugin};
use lambda_dpo_host::policy::collation::Collation;
use lambda_dpo_host::train::data::order::permutation;
use lambda_dpo_host::train::data::{EpochOrder, LambdaSource, Plan, TrainBatches};
use lambda_dpo_tests::{fixture, plugin_library};
use tch::Device;

const PAD: i64 = 3;

/// Lets one test run at a time, because one of them counts the threads of the process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn records() -> Vec<PathBuf> {
    vec![fixture("demo/records.jsonl")]
}

fn open(plugin: &Plugin, cache_dir: Option<PathBuf>) -> plugin::Dataset {
    let tokenizer = plugin.tokenizer(&fixture("demo/model"), None).unwrap();
    let options = plugin::DatasetOptions { cache_dir, ..plugin::DatasetOptions::default() };
    plugin.dataset(&records(), &tokenizer, &options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn open_in_core() -> core::Dataset {
    let tokenizer = core::Tokenizer::open(&fixture("demo/model"), None).unwrap();
    let options = core::DatasetOptions {
        convert: core::ConvertOptions::new(core::Format::UltraFeedback),
        tokenize: core::TokenizeOptions::default(),
        tokens: core::dataset::TokenFolder::Scratch(std::env::temp_dir()),
    };
    core::Dataset::open(&records(), &tokenizer, &options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn packed() -> plugin::CollateOptions {
    plugin::CollateOptions { layout: plugin::Layout::Packed, max_tokens: Some(256), pad_token_id: PAD }
}

/// Names of the threads of this process.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect()
}

#[test]
fn the_table_returns_what_the_core_returns() {
    let _alone = alone();
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let native = open_in_core();
    for (cache_dir, was_read) in [(None, None), (Some(false), Some(false)), (Some(true), Some(true))] {
        let dataset = open(&plugin, cache_dir.map(|_: bool| cache.path().join("samples")));
        assert_eq!(dataset.cache().map(|cache| cache.was_read), was_read);
        assert_eq!((dataset.hash(), dataset.dimensions()), (native.hash().as_str(), native.dimensions()));
        assert_eq!(dataset.len(), native.len());
        for (given, info) in dataset.samples().iter().zip(native.samples()) {
            assert_eq!(given.record_index, info.record_index);
            assert_eq!((given.num_responses, given.num_tokens), (info.num_responses, info.num_tokens));
            assert_eq!(given.content_hash.to_le_bytes(), info.content_hash);
        }
        let lambda = [0.1, 0.2, 0.3, 0.4, 0.25, 0.25, 0.25, 0.25];
        let options = core::CollateOptions {
            layout: core::Layout::Packed,
            max_tokens: Some(256),
            pad_to_multiple_of: 8,
            pad_token_id: PAD,
        };
        let expected = native.batch(&[5, 2], &lambda, &options).unwrap();
        for prefetched in [false, true] {
            if prefetched {
                dataset.prefetch(&[5, 2], &lambda, &packed()).unwrap();
            }
            let batch = dataset.batch(&[5, 2], &lambda, &packed()).unwrap();
            for (name, given, expected) in [
                ("input_ids", &batch.input_ids, &expected.input_ids),
                ("sequence_ids", &batch.sequence_ids, &expected.sequence_ids),
                ("target_positions", &batch.target_positions, &expected.target_positions),
                ("pi_target", &batch.pi_target, &expected.pi_target),
                ("lambda", &batch.lambda, &expected.lambda),
            ] {
                assert_eq!(given, expected, "{name}");
            }
        }
    }
}

#[test]
fn a_freed_dataset_leaves_no_thread() {
    let _alone = alone();
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let dataset = open(&plugin, None);
    let lambda = [0.25; 4];
    // Linux cuts thread names at 15 bytes.
    let is_ours = |name: &String| name.starts_with("lambda-dpo-coll");
    for sample in 0..plugin::PREFETCH_CAPACITY {
        dataset.prefetch(&[sample], &lambda, &packed()).unwrap();
    }
    let record = dataset.batch(&[7], &lambda, &packed()).unwrap().record_indices.int64_value(&[0]);
    assert_eq!(record as u64, dataset.samples()[7].record_index);
    // A thread sets its name when it first runs.
    let has_begun = (0..10_000).any(|_| {
        sleep(Duration::from_millis(1));
        threads().iter().any(is_ours)
    });
    assert!(has_begun, "{:?}", threads());
    drop(dataset);
    assert!(!threads().iter().any(is_ours), "{:?}", threads());
}

#[test]
fn a_step_groups_its_prompts_by_length() {
    let _alone = alone();
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let dataset = open(&plugin, None);
    let samples: Vec<usize> = (0..dataset.len()).filter(|sample| sample % 3 != 0).collect();
    let plan = Plan { num_samples: samples.len(), batch_size: 4, accumulation_steps: 3 };
    let num_samples = samples.len();
    let batches = TrainBatches {
        dataset: &dataset,
        samples,
        lambda: LambdaSource::Constant(vec![0.25; 4]),
        adapter_lambda: None,
        collation: Collation { options: packed(), device: Device::Cpu },
        plan,
        order: EpochOrder::new(num_samples, 42),
    };
    let mut seen = Vec::new();
    for step in 0..plan.steps_per_epoch() {
        let micro_batches = batches.samples_of(step);
        let in_step = micro_batches.concat();
        let lengths: Vec<usize> = in_step.iter().map(|sample| dataset.samples()[*sample].num_tokens).collect();
        assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
        assert!(micro_batches[..micro_batches.len() - 1].iter().all(|samples| samples.len() == 4));
        // The epoch order decides which prompts form the step.
        let order = permutation(num_samples, 42, 0);
        let mut expected: Vec<usize> = order[plan.positions(step)].iter().map(|at| batches.samples[*at]).collect();
        expected.sort_unstable();
        let mut sorted = in_step;
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        seen.extend(sorted);

        batches.prefetch(step).unwrap();
        for (micro_batch, samples) in batches.step(step).unwrap().iter().zip(&micro_batches) {
            assert_eq!(&micro_batch.samples, samples);
            let records: Vec<i64> = Vec::try_from(&micro_batch.batch.record_indices).unwrap();
            let expected = samples.iter().map(|sample| dataset.samples()[*sample].record_index as i64);
            assert!(expected.eq(records));
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, batches.samples);
}
