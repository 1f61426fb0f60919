//! `lambda-dpo validate`: compares an exported policy with the model it was exported from.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::cli::ValidateArgs;
use crate::console::Progress;
use crate::files::hub::{Hub, Use};
use crate::files::record_files::RecordFiles;
use crate::model::dtype_name;
use crate::policy::compare::{Comparison, ComparisonInputs, Spread, WorstToken, compare, usual_tolerance};
use crate::policy::{LogitsPolicy as _, OnnxPolicy};

use super::loaded_model::{LoadedModel, prepare};
use super::records::open_records;

/// Output of `--json`.
#[derive(Debug, Serialize)]
struct ValidationReport<'a> {
    onnx: &'a Path,
    opset: i64,
    ir_version: i64,
    dtype: &'static str,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

/// Returns exit code 0 if the policy passes, else 1.
pub(super) fn run(args: &ValidateArgs, plugin: Option<&Path>) -> Result<u8> {
    let libtorch = prepare(&args.model)?;
    let policy = OnnxPolicy::open(&args.onnx, args.onnxruntime.as_deref(), libtorch)?;
    let files = RecordFiles::find(&Hub::from_env(), &args.records, Use::Train)?;
    let loaded = LoadedModel::load_on(libtorch, &args.model, plugin)?;
    let dataset = open_records(&loaded.plugin, &loaded.tokenizer, &files, args.format)?;
    let tolerance = args.tolerance.unwrap_or_else(|| usual_tolerance(loaded.model.kind(), policy.kind()));
    let samples: Vec<usize> = (0..dataset.len()).collect();
    let mut progress = Progress::new("validating", dataset.len() as u64, 0);
    let inputs = ComparisonInputs {
        model: &loaded.model,
        policy: &policy,
        plugin: &loaded.plugin,
        dataset: &dataset,
        samples: &samples,
        tolerance,
    };
    let comparison = compare(&inputs, &mut |done| progress.update(done as u64, dataset.len() as u64, ""));
    progress.clear();
    let comparison = comparison?;
    let file = policy.file();
    let report = ValidationReport {
        onnx: &file.path,
        opset: file.opset,
        ir_version: file.ir_version,
        dtype: dtype_name(policy.kind()).unwrap_or("float32"),
        comparison: &comparison,
    };
    let text = if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { describe(&report, &loaded)? };
    stdout().write_all(text.as_bytes())?;
    Ok(u8::from(!comparison.passed))
}

fn describe(report: &ValidationReport, loaded: &LoadedModel) -> Result<String> {
    let ValidationReport { comparison, .. } = report;
    let mut text = String::new();
    writeln!(text, "{} (opset {}, {})", report.onnx.display(), report.opset, report.dtype)?;
    let Comparison { num_records, num_responses, num_tokens, .. } = comparison;
    writeln!(text, "  compared        {num_records} records, {num_responses} responses, {num_tokens} tokens")?;
    let spread = |spread: &Spread| format!("max {:.2e}, mean {:.2e}, p99 {:.2e}", spread.max, spread.mean, spread.p99);
    writeln!(text, "  token log-probs {}", spread(&comparison.token_log_probs))?;
    writeln!(text, "  response sums   {}", spread(&comparison.sequence_log_probs))?;
    if let Some(loss) = comparison.loss {
        let (model, policy) = (loss.model, loss.policy);
        writeln!(
            text,
            "  loss            model {model:.6}, policy {policy:.6}; at most {:.2e} apart per record",
            loss.max_difference
        )?;
    }
    let ranking = &comparison.ranking;
    let first = ranking.first_record.map(|record| format!(", first in record {record}")).unwrap_or_default();
    writeln!(text, "  rankings        differ in {} records{first}", ranking.num_different)?;
    if let Some(worst) = comparison.worst {
        let WorstToken { record, response, token, token_id, model, policy } = worst;
        let word = loaded.tokenizer.decode(&[token_id], false)?;
        writeln!(
            text,
            "  worst           record {record}, response {response}, token {token} ({word:?}): model {model:.6}, policy \
             {policy:.6}"
        )?;
    }
    let verdict = if comparison.passed { "passed" } else { "FAILED" };
    writeln!(text, "  {verdict} at a tolerance of {:e} per token", comparison.tolerance)?;
    Ok(text)
}
