//! `lambda-dpo plan CONFIG.toml [key=value …]`: the memory and the operations that a training run needs, by part.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::cli::PlanArgs;
use crate::config;
use crate::console::say;
use crate::train::plan::{Card, Lengths, RunPlan, gib};

pub(super) fn run(args: &PlanArgs, plugin: Option<&Path>) -> Result<()> {
    // A variable that is not UTF-8 cannot be a key of the config.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = config::load(&args.config, environment, &args.overrides)?;
    if let Some(rate) = args.tflops.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
        bail!("--tflops {rate} must be above 0");
    }
    let card = args.card_gib.map(|gib| Card::new(gib).with_context(|| format!("--card-gib {gib} must be above 0")));
    let card = card.transpose()?;
    let plan = match &args.lengths {
        None => RunPlan::of_records(&config, plugin)?,
        Some(lengths) => RunPlan::of_lengths(&config, lengths_of(lengths, args.num_records)?, card)?,
    };
    std::io::stdout().write_all(table(&plan, args.tflops).as_bytes())?;
    if let Some(warning) = plan.warning() {
        say(&warning);
    }
    Ok(())
}

/// Reads --lengths.
fn lengths_of(lengths: &[i64], num_records: u64) -> Result<Lengths> {
    let &[prompt, num_responses, response] = lengths else {
        bail!(
            "--lengths takes 3 numbers, found {}: tokens of a prompt, responses, and tokens of a response, as 200,4,300",
            lengths.len()
        );
    };
    if let Some(length) = lengths.iter().find(|length| !(1..=1 << 24).contains(*length)) {
        bail!("--lengths must be between 1 and {}, found {length}", 1 << 24);
    }
    Ok(Lengths { prompt, num_responses, response, num_records })
}

/// Writes the plan as text.
fn table(plan: &RunPlan, tflops: Option<f64>) -> String {
    let memory = &plan.memory;
    let mut text = format!(
        "{} parameters, {} of them trained\n\nmemory of the largest micro-batch, {} tokens with padding\n",
        number(plan.num_parameters),
        number(plan.num_trained),
        number(plan.num_positions)
    );
    for (name, bytes) in memory.parts().into_iter().filter(|(_, bytes)| *bytes > 0) {
        text += &format!("  {name:<32}{:>12}\n", gib(bytes as f64));
    }
    text += &format!("  {:<32}{:>12}\n", "at the same time, at most", gib(memory.peak as f64));
    text += &format!("\noperations of the run{:>24.3e}\n", plan.operations);
    if let Some(tflops) = tflops {
        text += &format!("at {tflops} · 10¹² a second{:>21.1} h\n", plan.operations / (tflops * 1e12) / 3600.0);
    }
    text
}

/// Writes a number with a comma between thousands.
fn number(number: i64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!([0, 999, 1_000, 134_515_008].map(number), ["0", "999", "1,000", "134,515,008"]);
    }
}
