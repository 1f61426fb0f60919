//! Reward models: their scores from the decoder's hidden states, and the errors for folders that hold none.
//! `tests/python/test_reward_models.py` compares the scores with Transformers.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::RewardModel;
use lambda_dpo_tests::golden_model::{FAMILIES, Golden, folder, inputs, load};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Difference from the product of the same hidden states, whose rows have other neighbours: some roundings of sums of 32
/// terms of size 1.
const TOLERANCE: f64 = 1e-4;

/// A golden model as a reward model, whose score weighs the hidden states by `weight` [n, H].
fn reward_model(family: &str, weight: &Tensor, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(folder(family).join("config.json")).unwrap()).unwrap();
    let class = config["architectures"][0].as_str().unwrap().replace("ForCausalLM", "ForSequenceClassification");
    config["architectures"] = json!([class]);
    config["id2label"] = json!({"0": "LABEL_0"});
    change(&mut config);
    fs::write(target.path().join("config.json"), config.to_string()).unwrap();
    let mut tensors = safetensors::read(&folder(family).join("model.safetensors")).unwrap();
    tensors.insert("score.weight".to_owned(), weight.shallow_clone());
    write(target.path(), tensors.iter().filter(|(name, _)| *name != "lm_head.weight"));
    target
}

fn write<'t>(folder: &Path, tensors: impl Iterator<Item = (&'t String, &'t Tensor)>) {
    let entries = tensors.map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::write(&folder.join("model.safetensors"), entries, &[("format", "pt")]).unwrap();
}

fn weight(num_labels: i64) -> Tensor {
    let values = Tensor::arange(num_labels * 32, (Kind::Float, Device::Cpu));
    (values * 0.7).sin().view([num_labels, 32])
}

fn load_reward(folder: &Path) -> RewardModel {
    RewardModel::load(folder, Libtorch::cpu(), Kind::Float).unwrap()
}

fn message(folder: &Path) -> String {
    let message = RewardModel::load(folder, Libtorch::cpu(), Kind::Float).err().unwrap().to_string();
    message.replace(&folder.display().to_string(), "MODEL")
}

#[test]
fn a_score_is_that_of_the_last_hidden_state() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let hidden = load(family).hidden(&inputs(&golden.rows().tensors())).unwrap();
        let texts: Vec<Vec<i64>> =
            golden.responses.iter().map(|response| [golden.prompt.clone(), response.clone()].concat()).collect();
        let reward = reward_model(family, &weight(1), |_| {});
        let reward = load_reward(reward.path());
        let found = reward.scores(&texts).unwrap();
        for (row, (text, found)) in (0..).zip(texts.iter().zip(&found)) {
            let last = hidden.get(row).get(text.len() as i64 - 1);
            let expected = (last * weight(1).get(0)).sum(Kind::Double).double_value(&[]);
            assert!((found - expected).abs() < TOLERANCE, "{family}, text {row}: {found}, not {expected}");
            let alone = reward.scores(std::slice::from_ref(text)).unwrap()[0];
            assert!((found - alone).abs() < TOLERANCE, "{family}, text {row} alone: {alone}, not {found}");
        }
        assert!((found[0] - found[1]).abs() > 10.0 * TOLERANCE, "{family}: texts have scores of their own");
    }
}

#[test]
fn the_last_token_is_the_last_that_is_no_padding() {
    let with_padding = |padding: Value| {
        let reward = reward_model("llama31", &weight(1), |config| config["pad_token_id"] = padding.clone());
        load_reward(reward.path())
    };
    let ends = |reward: &RewardModel, text: &[i64]| reward.scores(&[text.to_vec(), vec![9; 12]]).unwrap()[0];
    // 2 ends turns, and is the padding too: those at the end are skipped, one in the middle is not.
    let text = [5, 6, 2, 7, 2, 2];
    let is_padding = with_padding(json!(2));
    assert!((ends(&is_padding, &text) - ends(&is_padding, &text[..4])).abs() < TOLERANCE);
    let other = with_padding(json!(0));
    assert!((ends(&other, &text) - ends(&other, &text[..4])).abs() > 10.0 * TOLERANCE);
    for padding in [json!(null), json!(-1)] {
        let found = ends(&with_padding(padding), &text);
        assert!((found - ends(&other, &text)).abs() < TOLERANCE);
    }
    // Nothing but padding: the first token, as in Transformers.
    assert!((ends(&is_padding, &[2, 2]) - ends(&other, &[2])).abs() < TOLERANCE);
}

#[test]
fn texts_that_cannot_be_scored_are_named() {
    let reward = reward_model("llama31", &weight(1), |_| {});
    let reward = load_reward(reward.path());
    assert!(reward.scores(&[]).unwrap().is_empty());
    let refused = |texts: &[Vec<i64>]| reward.scores(texts).unwrap_err().to_string();
    assert_eq!(refused(&[vec![1], vec![]]), "text 1 has no tokens to score");
    assert_eq!(
        refused(&[vec![1, 2], vec![3, 128]]),
        "token id 128 (row 1, column 1) is not in the model's vocabulary of 128; the tokenizer belongs to another model"
    );
}

#[test]
fn folders_without_a_reward_model_are_refused() {
    assert_eq!(
        message(&folder("qwen2")).replace(&*folder("").to_string_lossy(), ""),
        "MODEL/config.json: Qwen2ForCausalLM is a language model, not a reward model, which is a \
         Qwen2ForSequenceClassification with one label"
    );
    let of_class = |class: &str| {
        let reward = reward_model("llama2", &weight(1), |config| config["architectures"] = json!([class]));
        message(reward.path())
    };
    assert_eq!(
        of_class("LlamaForTokenClassification"),
        "MODEL/config.json: LlamaForTokenClassification is another model, not a reward model, which is a \
         LlamaForSequenceClassification with one label"
    );
    assert_eq!(
        of_class("Gemma2ForSequenceClassification"),
        "MODEL/config.json: a reward model of architecture Gemma2ForSequenceClassification is not supported; supported are \
         LlamaForSequenceClassification, MistralForSequenceClassification, Qwen2ForSequenceClassification, \
         Qwen3ForSequenceClassification, and any other by a command that runs it (--rater)"
    );
    let with_labels = |labels: Value, count: Value| {
        let reward = reward_model("llama2", &weight(3), |config| {
            config["id2label"] = labels.clone();
            config["num_labels"] = count.clone();
        });
        message(reward.path())
    };
    assert_eq!(
        with_labels(json!({"0": "a", "1": "b", "2": "c"}), json!(1)),
        "MODEL/config.json: `id2label` gives the model 3 labels, but a reward model has one: score by a command that chooses \
         among them (--rater)"
    );
    assert!(
        with_labels(json!(null), json!(3)).starts_with("MODEL/config.json: `num_labels` gives the model 3 labels,")
    );
    assert_eq!(
        with_labels(json!(null), json!(null)),
        "MODEL/config.json: it has neither `id2label` nor `num_labels`, which means 2 labels, but a reward model has one: set \
         `num_labels` to 1 if that is what its `score.weight` has"
    );
    assert_eq!(
        with_labels(json!(null), json!(1)),
        "MODEL/model.safetensors: tensor `score.weight` has shape [3, 32], but config.json calls for [1, 32]"
    );
}

#[test]
fn a_checkpoint_is_read_as_transformers_reads_it() {
    let reward = reward_model("llama2", &weight(1), |_| {});
    let path = reward.path().join("model.safetensors");
    let texts = [vec![5, 6, 7]];
    let expected = load_reward(reward.path()).scores(&texts).unwrap();
    let mut tensors = safetensors::read(&path).unwrap();

    // A language model's head is left out; the family may be known by `model_type` alone.
    tensors.insert("lm_head.weight".to_owned(), Tensor::ones([128, 32], (Kind::Float, Device::Cpu)));
    write(reward.path(), tensors.iter());
    let config = reward.path().join("config.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("architectures");
    json["tie_word_embeddings"] = json!(true);
    fs::write(&config, json.to_string()).unwrap();
    assert_eq!(load_reward(reward.path()).scores(&texts).unwrap(), expected);

    tensors.insert("score.bias".to_owned(), Tensor::ones([1], (Kind::Float, Device::Cpu)));
    write(reward.path(), tensors.iter());
    assert!(message(reward.path()).starts_with("MODEL/model.safetensors has a tensor `score.bias` that a model of"));
    write(reward.path(), tensors.iter().filter(|(name, _)| !name.starts_with("score.")));
    assert_eq!(
        message(reward.path()),
        "MODEL/model.safetensors has no tensor `score.weight` of shape [1, 32], which config.json calls for; a reward model's \
         score is a linear layer of this name: save the whole model with `AutoModelForSequenceClassification`"
    );
}
