//! Judges: what scores answers, a command or a reward model.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tch::Kind;

use crate::console::{Progress, say};
use crate::libtorch::Libtorch;
use crate::model::RewardModel;
use crate::plugin::{Message, Plugin, Tokenizer};

use super::rater::{Answer, Rater, Scores};

/// Name of a reward model's score.
pub const REWARD: &str = "reward";

/// An answer to be judged.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedAnswer {
    /// The conversation up to the answer.
    pub messages: Vec<Message>,
    /// The answer's text.
    pub response: String,
}

/// What scores answers.
#[expect(clippy::large_enum_variant, reason = "there is one judge in a program")]
pub enum Judge {
    /// A command.
    Rater(Rater),
    /// A reward model, which gives each answer one score, [`REWARD`].
    RewardModel {
        /// The model.
        model: RewardModel,
        /// Its tokenizer, with its chat template.
        tokenizer: Tokenizer,
        /// The folder or hub name by which it was asked for.
        name: PathBuf,
        /// Answers that are scored at once.
        batch_size: usize,
    },
}

impl Judge {
    /// Loads the reward model in `folder`, which was asked for as `name`.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder has no reward model that the program can run, no tokenizer or no chat template.
    pub fn load_reward_model(
        name: &Path,
        folder: &Path,
        plugin: &Plugin,
        libtorch: Libtorch,
        kind: Kind,
        batch_size: usize,
    ) -> Result<Self> {
        ensure!(batch_size >= 1, "--batch-size must be at least 1, not 0");
        let tokenizer = plugin.tokenizer(folder, None)?;
        ensure!(
            tokenizer.info()?.has_chat_template,
            "the tokenizer of the reward model {} has no chat template, through which it reads a conversation: add the file \
             chat_template.jinja that it was trained with",
            folder.display()
        );
        let model = RewardModel::load(folder, libtorch, kind)?;
        Ok(Self::RewardModel { model, tokenizer, name: name.to_path_buf(), batch_size })
    }

    /// Returns how it was asked for: the rater's command, or the reward model's folder or hub name.
    pub fn name(&self) -> String {
        match self {
            Self::Rater(rater) => rater.command().to_owned(),
            Self::RewardModel { name, .. } => name.display().to_string(),
        }
    }

    /// Scores each answer; all scores have the same names, and more is better.
    ///
    /// A reward model reads the conversation with the answer as its chat template renders them, without a generation prompt.
    /// Special tokens come from the template alone.
    ///
    /// # Errors
    ///
    /// Returns an error if the rater fails, the chat template rejects a conversation, or a score is not a finite number.
    pub fn scores(&self, answers: &[JudgedAnswer]) -> Result<Vec<Scores>> {
        match self {
            Self::Rater(rater) => {
                let answers: Vec<Answer> =
                    answers.iter().map(|answer| Answer::new(&answer.messages, &answer.response)).collect();
                rater.rate(&answers)
            }
            Self::RewardModel { model, tokenizer, name, batch_size } => {
                let texts = answers.iter().enumerate().map(|(index, answer)| {
                    encode(tokenizer, answer).with_context(|| format!("answer {index} for the reward model"))
                });
                let texts = texts.collect::<Result<Vec<_>>>()?;
                if let Some(notice) = longer_than_trained(&texts, model.config().max_position_embeddings, name) {
                    say(&notice);
                }
                let rewards = rewards(model, texts, *batch_size)?;
                if let Some(index) = rewards.iter().position(|reward| !reward.is_finite()) {
                    anyhow::bail!(
                        "the reward model {} scores answer {index} as {}: check its weights, or load it with --dtype float32",
                        name.display(),
                        rewards[index]
                    );
                }
                Ok(rewards.into_iter().map(|reward| Scores::from([(REWARD.to_owned(), reward)])).collect())
            }
        }
    }
}

fn encode(tokenizer: &Tokenizer, answer: &JudgedAnswer) -> Result<Vec<i64>> {
    let mut messages = answer.messages.clone();
    messages.push(Message::new("assistant", &answer.response));
    Ok(tokenizer.encode(&tokenizer.render(&messages, false)?)?)
}

/// Scores texts in batches of similar length; the result is in the order of the texts.
fn rewards(model: &RewardModel, mut texts: Vec<Vec<i64>>, batch_size: usize) -> Result<Vec<f64>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&index| Reverse(texts[index].len()));
    let mut rewards = vec![f64::NAN; texts.len()];
    let mut progress = Progress::new("judging", texts.len() as u64, 0);
    let mut num_done = 0;
    for batch in order.chunks(batch_size.max(1)) {
        let rows: Vec<Vec<i64>> = batch.iter().map(|&index| std::mem::take(&mut texts[index])).collect();
        for (&index, reward) in batch.iter().zip(model.scores(&rows)?) {
            rewards[index] = reward;
        }
        num_done += batch.len();
        progress.update(num_done as u64, order.len() as u64, "");
    }
    progress.clear();
    Ok(rewards)
}

/// Says how many texts have more tokens than the model was trained for; they are scored whole.
fn longer_than_trained(texts: &[Vec<i64>], num_trained: i64, name: &Path) -> Option<String> {
    let longest = texts.iter().map(Vec::len).max()?;
    let num_long = texts.iter().filter(|text| text.len() as i64 > num_trained).count();
    (num_long > 0).then(|| {
        format!(
            "{num_long} of {} answers have, with their prompts, more than the {num_trained} tokens that the reward model {} \
             was made for (at most {longest}): their scores mean little",
            texts.len(),
            name.display()
        )
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_rater_reads_the_last_turn() {
        let judge = Judge::Rater(
            Rater::parse(r#"grep -c '"prompt":"Why?","response":"So."' | sed 's/.*/{"found": &}/'"#).unwrap(),
        );
        let messages = vec![Message::new("system", "Be brief."), Message::new("user", "Why?")];
        let scores = judge.scores(&[JudgedAnswer { messages, response: "So.".into() }]).unwrap();
        assert_eq!(scores, [Scores::from([("found".to_owned(), 1.0)])]);
    }

    #[test]
    fn texts_longer_than_the_model_was_made_for_are_counted() {
        let texts = [vec![0; 5], vec![0; 8], vec![0; 9]];
        assert_eq!(longer_than_trained(&texts, 9, Path::new("R")), None);
        assert_eq!(
            longer_than_trained(&texts, 7, Path::new("R")).unwrap(),
            "2 of 3 answers have, with their prompts, more than the 7 tokens that the reward model R was made for (at most 9): \
             their scores mean little"
        );
    }
}
