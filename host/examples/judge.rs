//! Scores texts with a reward model and computes win rates, to be compared with what Transformers and numpy compute.
//!
//! - `judge tokens MODEL [bfloat16]` reads lines of token ids, as JSON lists, and writes their scores as one JSON list.
//! - `judge answers MODEL PLUGIN` reads lines `{"messages", "response"}` and writes their scores as one JSON list.
//! - `judge win-rate` reads one JSON object with `policy` and `against` (`scores` and `lengths`, by prompt and sample),
//!   `dimensions` and `lambda`, and writes the win rate as `evaluation.json` holds it.

use std::io::{Write as _, stdin, stdout};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use lambda_dpo_host::answers::judge::{Judge, JudgedAnswer, REWARD};
use lambda_dpo_host::answers::rater::Scores;
use lambda_dpo_host::evaluate::win_rate::{Side, win_rate};
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::RewardModel;
use lambda_dpo_host::plugin::Plugin;
use serde_json::{Value, json};
use tch::Kind;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let text = std::io::read_to_string(stdin())?;
    let lines = || text.lines().map(|line| -> Result<Value> { Ok(serde_json::from_str(line)?) });
    let found = match arguments.as_slice() {
        ["tokens", model, rest @ ..] => {
            let kind = if rest.first() == Some(&"bfloat16") { Kind::BFloat16 } else { Kind::Float };
            let texts = lines().map(|ids| Ok(serde_json::from_value(ids?)?)).collect::<Result<Vec<Vec<i64>>>>()?;
            json!(RewardModel::load(Path::new(model), Libtorch::cpu(), kind)?.scores(&texts)?)
        }
        ["answers", model, plugin] => {
            let (model, plugin) = (Path::new(model), Plugin::load(Some(Path::new(plugin)))?);
            let judge = Judge::load_reward_model(model, model, &plugin, Libtorch::cpu(), Kind::Float, 3)?;
            let answers = lines().map(|line| answer(&line?)).collect::<Result<Vec<_>>>()?;
            json!(judge.scores(&answers)?.iter().map(|scores| scores[REWARD]).collect::<Vec<f64>>())
        }
        ["win-rate"] => {
            let input: Value = serde_json::from_str(&text)?;
            let scores = |side: &str| serde_json::from_value::<Vec<Vec<Scores>>>(input[side]["scores"].clone());
            let lengths = |side: &str| serde_json::from_value::<Vec<Vec<usize>>>(input[side]["lengths"].clone());
            let (own, own_lengths) = (scores("policy")?, lengths("policy")?);
            let (other, other_lengths) = (scores("against")?, lengths("against")?);
            let dimensions: Vec<String> = serde_json::from_value(input["dimensions"].clone())?;
            let lambda: Vec<f64> = serde_json::from_value(input["lambda"].clone())?;
            let own = Side { scores: &own, lengths: &own_lengths };
            let other = Side { scores: &other, lengths: &other_lengths };
            serde_json::to_value(win_rate(own, other, &dimensions, &lambda)?)?
        }
        _ => bail!("usage: judge tokens MODEL [bfloat16] | judge answers MODEL PLUGIN | judge win-rate"),
    };
    writeln!(stdout(), "{found}")?;
    Ok(())
}

fn answer(line: &Value) -> Result<JudgedAnswer> {
    let response = line["response"].as_str().context("a line has no `response`")?.to_owned();
    Ok(JudgedAnswer { messages: serde_json::from_value(line["messages"].clone())?, response })
}
