//! The decoder compared with Transformers: log-probs, gradients and checkpointing; and the errors for bad model
//! folders.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::generate::{GenerateOptions, generate};
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{ForwardOptions, Model, ModelInputs, RowKey};
use lambda_dpo_tests::golden_model::{
    FAMILIES, Golden, difference, folder, inputs, load, load_in, log_probs, relative,
};
use lambda_dpo_tests::shared_data;
use tch::{Device, Kind, Tensor};

/// Absolute difference per token from Transformers in float32. The contract is 1e-4; measured 6e-6.
const TOLERANCE: f32 = 2e-5;

/// Largest relative error of gradients and hidden states. Transformers' are in float32, as rounded on the machine that made
/// the golden values; ours are computed in float64, with the same float32 angles of the rotary embedding, so that what is
/// left does not depend on this machine.
const GOLDEN: f64 = 1e-5;

/// Largest relative difference of two ways to compute the same in float64.
const FLOAT64: f64 = 1e-10;

#[test]
fn log_probs_are_those_of_transformers() {
    for family in FAMILIES {
        let (model, golden) = (load(family), Golden::of(family));
        let expected = golden.log_probs("");
        let rows = golden.rows();
        let hidden = model.hidden(&inputs(&rows.tensors())).unwrap();
        let found = log_probs(&model, &golden, &hidden, &golden.predictors(&rows, 0)[..]);
        assert!(difference(&found, &expected) < TOLERANCE, "{family}: {}", difference(&found, &expected));

        let packed = golden.packed();
        let hidden = model.hidden(&inputs(&packed.tensors())).unwrap();
        for prompt in 0..2 {
            let found = log_probs(&model, &golden, &hidden, &golden.predictors(&packed, prompt));
            assert!(difference(&found, &expected) < TOLERANCE, "{family}, packed: {}", difference(&found, &expected));
        }
    }
}

/// Compares every gradient with the golden file, by parameter name.
fn check_gradients(model: &Model, golden: &Golden, prefix: &str, what: &str) {
    let trainable = model.trainable();
    let mut num_checked = 0;
    for (name, parameter) in &trainable {
        let Some(expected) = golden.values.get(&format!("{prefix}grad.{name}")) else {
            assert_eq!(name, "lm_head.weight", "{what}: no golden gradient");
            continue;
        };
        let found = relative(&parameter.grad(), expected);
        assert!(found < GOLDEN, "{what}: {name}: {found:e}");
        num_checked += 1;
    }
    assert_eq!(num_checked, golden.values.keys().filter(|name| name.starts_with(&format!("{prefix}grad."))).count());
}

#[test]
fn gradients_are_those_of_pytorch() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let grad_hidden = golden.values["grad_hidden"].to_kind(Kind::Double);
        for checkpointing in [false, true] {
            let model = load_in(family, Kind::Double);
            let tensors = golden.rows().tensors();
            let options = ForwardOptions { checkpointing, dropout_seed: None };
            let activations = model.forward(&inputs(&tensors), &options).unwrap();
            let mask = grad_hidden.not_equal(0);
            assert!(relative(&(activations.hidden() * mask), &golden.values["hidden"]) < GOLDEN, "{family}");
            assert!(!activations.hidden().requires_grad());
            activations.backward(&grad_hidden).unwrap();
            check_gradients(&model, &golden, "", &format!("{family}, checkpointing {checkpointing}"));
        }
    }
}

/// A prompt's responses give the same gradient in one row as in a row each.
#[test]
fn packed_gradients_are_those_of_rows() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let gradients = |is_packed: bool, checkpointing: bool| {
            let model = load_in(family, Kind::Double);
            let rows = if is_packed { golden.packed() } else { golden.rows() };
            let tensors = rows.tensors();
            let options = ForwardOptions { checkpointing, dropout_seed: None };
            let activations = model.forward(&inputs(&tensors), &options).unwrap();
            let hidden_size = model.config().hidden_size;
            let grad = Tensor::zeros(activations.hidden().size(), (Kind::Double, Device::Cpu));
            let predictors = Tensor::from_slice(&golden.predictors(&rows, 0));
            let values = golden.values["grad_hidden"].view([-1, hidden_size]).to_kind(Kind::Double);
            let values = values.narrow(0, 0, predictors.size()[0]);
            let _ = grad.view([-1, hidden_size]).index_add_(0, &predictors, &values);
            activations.backward(&grad).unwrap();
            model.trainable()
        };
        let (expected, found) = (gradients(false, false), gradients(true, false));
        let again = gradients(true, true);
        for (((name, expected), (_, found)), (_, again)) in expected.iter().zip(&found).zip(&again) {
            if name != "lm_head.weight" {
                let difference = relative(&found.grad(), &expected.grad());
                assert!(difference < FLOAT64, "{family}: {name}: {difference:e}");
                assert_eq!(found.grad(), again.grad(), "{family}: {name} with checkpointing");
            }
        }
    }
}

#[test]
fn gradients_accumulate_and_the_head_has_its_own() {
    let golden = Golden::of("qwen2");
    let model = load_in("qwen2", Kind::Double);
    let grad_hidden = golden.values["grad_hidden"].to_kind(Kind::Double);
    let head_grad = Tensor::randn(model.lm_head().size(), (Kind::Double, Device::Cpu));
    assert!(model.lm_head_trainable());
    let tensors = golden.rows().tensors();
    for _ in 0..2 {
        model.accumulate_lm_head_grad(head_grad.copy()).unwrap();
        let activations = model.forward(&inputs(&tensors), &ForwardOptions::default()).unwrap();
        activations.backward(&grad_hidden).unwrap();
    }
    // This model's head is tied to its embedding, so both gradients add up.
    let expected = (&golden.values["grad.model.embed_tokens.weight"] + head_grad) * 2;
    assert!(relative(&model.lm_head().grad(), &expected) < GOLDEN);

    model.freeze();
    assert!(model.trainable().is_empty());
    let message = model.accumulate_lm_head_grad(Tensor::zeros([1, 1], (Kind::Float, Device::Cpu))).unwrap_err();
    assert!(message.to_string().contains("trainable: false"), "{message}");
}

#[test]
fn bfloat16_is_close() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let model = Model::load(&folder(family), Libtorch::cpu(), Kind::BFloat16).unwrap();
        let packed = golden.packed();
        let tensors = packed.tensors();
        let options = ForwardOptions { checkpointing: true, dropout_seed: None };
        let activations = model.forward(&inputs(&tensors), &options).unwrap();
        assert_eq!(activations.hidden().kind(), Kind::BFloat16);
        let wide = model.lm_head().to_kind(Kind::Float);
        let rows =
            activations.hidden().view([-1, 32]).index_select(0, &Tensor::from_slice(&golden.predictors(&packed, 1)));
        let logits = tch::no_grad(|| rows.to_kind(Kind::Float).linear(&wide, None::<Tensor>));
        let targets = Tensor::from_slice(&golden.responses.concat()).unsqueeze(1);
        let found = Vec::<f32>::try_from(logits.log_softmax(-1, Kind::Float).gather(1, &targets, false).squeeze_dim(1));
        let expected = golden.log_probs("");
        let found = found.unwrap();
        // Log-probs are around −6, and bfloat16 has 8 bits of mantissa.
        assert!(difference(&found, &expected) < 0.5, "{family}");
        let loss_error = (found.iter().sum::<f32>() / expected.iter().sum::<f32>() - 1.0).abs();
        assert!(loss_error < 2e-3, "{family}: the negative log-likelihood is off by {loss_error:e}");
        activations
            .backward(&Tensor::ones([1, packed.columns[0].len() as i64, 32], (Kind::Float, Device::Cpu)))
            .unwrap();
        for (name, parameter) in model.trainable() {
            assert!(
                name == "lm_head.weight" || parameter.grad().isfinite().all().int64_value(&[]) == 1,
                "{family}: {name}"
            );
        }
    }
}

#[test]
fn the_key_value_cache_changes_nothing() {
    for family in FAMILIES {
        let (model, golden) = (load_in(family, Kind::Double), Golden::of(family));
        let expected = model.hidden(&inputs(&golden.rows().tensors())).unwrap();
        let sequence = [golden.prompt.clone(), golden.responses[1].clone()].concat();
        for num_at_once in [1, golden.prompt.len()] {
            let mut cache = model.kv_cache();
            let row = cache.insert();
            let (start, rest) = sequence.split_at(num_at_once);
            let mut hidden = model.extend_to_last(&mut cache, &[(row, start)], None).unwrap();
            for token in rest {
                hidden = model.extend_to_last(&mut cache, &[(row, &[*token])], None).unwrap();
            }
            let last = expected.get(1).get(sequence.len() as i64 - 1).unsqueeze(0);
            assert!(relative(&hidden, &last) < FLOAT64, "{family}");
        }
    }
}

#[test]
fn rows_of_a_cache_have_any_lengths() {
    for family in FAMILIES {
        let model = load_in(family, Kind::Double);
        let vocab_size = model.config().vocab_size;
        // Lengths around the capacities of blocks, and beyond sliding windows.
        let sequences: Vec<Vec<i64>> = [150_i64, 290, 20, 140, 270]
            .iter()
            .map(|length| (0..*length).map(|at| (7 * at * at + 13 * at + length) % vocab_size).collect())
            .collect();
        let mut cache = model.kv_cache();
        let keys: Vec<RowKey> = sequences.iter().map(|_| cache.insert()).collect();
        let mut done = [140_usize, 30, 2, 129, 30];
        let start: Vec<(RowKey, &[i64])> =
            keys.iter().zip(&sequences).zip(done).map(|((key, row), end)| (*key, &row[..end])).collect();
        let hidden = model.extend(&mut cache, &start, None).unwrap();
        let check = |row: usize, found: &Tensor, range: std::ops::Range<usize>| {
            let input_ids = Tensor::from_slice(&sequences[row][..range.end]).unsqueeze(0);
            let zeros = input_ids.zeros_like();
            let position_ids = Tensor::arange(range.end as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0);
            let whole = ModelInputs {
                input_ids: &input_ids,
                position_ids: &position_ids,
                prompt_ids: &zeros,
                sequence_ids: &(&zeros - 1),
                lambda: None,
            };
            let expected = model.hidden(&whole).unwrap().get(0).narrow(0, range.start as i64, range.len() as i64);
            assert!(relative(found, &expected) < FLOAT64, "{family}, row {row}, {range:?}");
        };
        for (row, end) in done.into_iter().enumerate() {
            check(row, &hidden.get(row as i64).narrow(0, 0, end as i64), 0..end);
        }
        // Several tokens that follow others.
        let parts = [(keys[4], &sequences[4][30..230]), (keys[1], &sequences[1][30..110])];
        let hidden = model.extend(&mut cache, &parts, None).unwrap();
        check(4, &hidden.get(0), 30..230);
        check(1, &hidden.get(1).narrow(0, 0, 80), 30..110);
        (done[4], done[1]) = (230, 110);
        let copy = cache.fork(keys[1]).unwrap();
        cache.remove(keys[1]).unwrap();
        let of = |key: RowKey| if key == copy { 1 } else { keys.iter().position(|other| *other == key).unwrap() };
        loop {
            let rows: Vec<RowKey> = cache.rows().filter(|key| done[of(*key)] < sequences[of(*key)].len()).collect();
            if rows.is_empty() {
                break;
            }
            let new: Vec<(RowKey, &[i64])> =
                rows.iter().map(|key| (*key, &sequences[of(*key)][done[of(*key)]..=done[of(*key)]])).collect();
            let hidden = model.extend_to_last(&mut cache, &new, None).unwrap();
            for (index, key) in (0..).zip(rows) {
                done[of(key)] += 1;
                let end = sequences[of(key)].len();
                if done[of(key)] == end {
                    check(of(key), &hidden.narrow(0, index, 1), end - 1..end);
                    if of(key) == 0 {
                        cache.remove(key).unwrap();
                    }
                }
            }
        }
        let message = model.extend(&mut cache, &[(keys[0], &[1])], None).unwrap_err().to_string();
        assert_eq!(message, "the cache has no such row: it was removed");
    }
}

#[test]
fn random_models_repeat_and_follow_the_configuration() {
    let make = |seed| Model::random(&folder("qwen2"), Libtorch::cpu(), Kind::Float, seed).unwrap();
    let (one, same, other) = (make(1).trainable(), make(1).trainable(), make(2).trainable());
    for ((name, one), ((_, same), (_, other))) in one.iter().zip(same.iter().zip(&other)) {
        assert_eq!(one, same, "{name}");
        let is_constant = name.ends_with("norm.weight") || name.ends_with(".bias");
        assert_eq!(one == other, is_constant, "{name}");
    }
    let find = |name: &str| one.iter().find(|(found, _)| found == name).map(|(_, tensor)| tensor.detach()).unwrap();
    assert_eq!(find("model.norm.weight").sum(Kind::Float).double_value(&[]), 32.0);
    assert_eq!(find("model.layers.0.self_attn.q_proj.bias").abs().max().double_value(&[]), 0.0);
    let embedding = find("model.embed_tokens.weight");
    assert_eq!(embedding.get(0).abs().max().double_value(&[]), 0.0, "the padding token's row");
    assert!((embedding.std(true).double_value(&[]) - 0.02).abs() < 1e-3);
}

/// A copy of a golden model that a test may damage.
fn copy(family: &str) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(folder(family).join(name), target.path().join(name)).unwrap();
    }
    target
}

fn message(folder: &Path) -> String {
    let message = Model::load(folder, Libtorch::cpu(), Kind::Float).err().unwrap().to_string();
    message.replace(&folder.display().to_string(), "MODEL")
}

fn edit_config(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn bad_model_folders_are_reported() {
    assert_eq!(
        message(Path::new("no/such/model")),
        "MODEL is not a folder; give a model folder with config.json and safetensors weights"
    );
    let model = copy("llama2");
    fs::remove_file(model.path().join("config.json")).unwrap();
    assert_eq!(
        message(model.path()),
        "MODEL has no config.json; a model folder has config.json, safetensors weights and tokenizer files"
    );
    let model = copy("llama2");
    fs::remove_file(model.path().join("model.safetensors")).unwrap();
    assert!(message(model.path()).starts_with("MODEL has no model.safetensors; weights are read from"));

    let model = copy("llama2");
    let weights = fs::read(model.path().join("model.safetensors")).unwrap();
    fs::write(model.path().join("model.safetensors"), &weights[..50_000]).unwrap();
    assert_eq!(
        message(model.path()),
        format!(
            "MODEL/model.safetensors is cut short: it has 50000 bytes, but its header promises {}; copy or download it again",
            weights.len()
        )
    );

    let model = copy("llama2");
    edit_config(model.path(), "LlamaForCausalLM", "GemmaForCausalLM");
    assert_eq!(
        message(model.path()),
        "MODEL/config.json: architecture GemmaForCausalLM is not supported; supported are LlamaForCausalLM, \
         MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
    );
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let model = copy("llama2");
    edit_config(model.path(), "\"mlp_bias\": true", "\"mlp_bias\": false");
    assert!(message(model.path()).starts_with("MODEL/model.safetensors has a tensor `model.layers."));
    let model = copy("llama2");
    edit_config(model.path(), "\"attention_bias\": false", "\"attention_bias\": true");
    assert_eq!(
        message(model.path()),
        "MODEL/model.safetensors has no tensor `model.layers.0.self_attn.q_proj.bias` of shape [32], which config.json \
         calls for"
    );
    let model = copy("llama2");
    edit_config(model.path(), "\"vocab_size\": 128", "\"vocab_size\": 130");
    let found = message(model.path());
    assert!(found.starts_with("MODEL/model.safetensors: tensor `"), "{found}");
    assert!(found.ends_with("has shape [128, 32], but config.json calls for [130, 32]"), "{found}");
}

/// Writes the weights of a copied model again, with `change` made to their names; None leaves a tensor out.
fn rename(model: &Path, change: impl Fn(&str) -> Option<String>) {
    let path = model.join("model.safetensors");
    let tensors = safetensors::read(&path).unwrap();
    let renamed: Vec<_> = tensors.iter().filter_map(|(name, tensor)| Some((change(name)?, tensor))).collect();
    safetensors::write(&path, renamed.iter().map(|(name, tensor)| (name.as_str(), *tensor)), &[("format", "pt")])
        .unwrap();
}

#[test]
fn checkpoints_of_other_classes_are_read_as_transformers_reads_them() {
    let without_prefix = |name: &str| Some(name.trim_start_matches("model.").to_owned());
    for (family, class) in [("llama2", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM")] {
        let expected = load(family);
        let family_name = class.trim_end_matches("ForCausalLM");
        let is_tied = family == "qwen2";
        let model = copy(family);
        // From the base class; a model that is not tied still needs its head.
        rename(model.path(), without_prefix);
        edit_config(model.path(), class, &format!("{family_name}Model"));
        let read = Model::load(model.path(), Libtorch::cpu(), Kind::Float).unwrap();
        assert!(read.named_parameters().eq(expected.named_parameters()), "{family}");
        assert_eq!(read.trainable()[0].0, "model.embed_tokens.weight");

        // Saved again, it is the whole model.
        let again = tempfile::tempdir().unwrap();
        read.save(&again.path().join("saved"), model.path()).unwrap();
        let config = fs::read_to_string(again.path().join("saved/config.json")).unwrap();
        assert!(config.contains(&format!("\"{class}\"")), "{config}");

        // A tied model may store its head instead of its embedding.
        if is_tied {
            let model = copy(family);
            rename(model.path(), |name| Some(name.replace("model.embed_tokens.weight", "lm_head.weight")));
            let read = Model::load(model.path(), Libtorch::cpu(), Kind::Float).unwrap();
            assert!(read.named_parameters().eq(expected.named_parameters()), "{family}");
        }

        // The weights of another head are not the model's.
        let model = copy(family);
        let path = model.path().join("model.safetensors");
        let mut tensors = safetensors::read(&path).unwrap();
        for name in ["v_head.summary.weight", "v_head.summary.bias", "score.weight"] {
            tensors.insert(name.to_owned(), Tensor::ones([1, 32], (Kind::Float, Device::Cpu)));
        }
        let entries = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        safetensors::write(&path, entries, &[("format", "pt")]).unwrap();
        let read = Model::load(model.path(), Libtorch::cpu(), Kind::Float).unwrap();
        assert!(read.named_parameters().eq(expected.named_parameters()), "{family}");
    }
}

#[test]
fn checkpoints_without_what_the_model_needs_name_the_way_out() {
    let model = copy("llama2");
    rename(model.path(), |name| Some(name.to_owned()).filter(|name| name != "lm_head.weight"));
    edit_config(model.path(), "LlamaForCausalLM", "LlamaForSequenceClassification");
    assert_eq!(
        message(model.path()),
        "MODEL/model.safetensors has no tensor `lm_head.weight` of shape [128, 32], which config.json calls for; it was \
         saved from a class without LM head (the base model, or a reward model): save the whole model with \
         `AutoModelForCausalLM`, or set `tie_word_embeddings` if its head is the embedding"
    );
    for prefix in ["module.", "pretrained_model.", "base_model.model."] {
        let model = copy("llama2");
        rename(model.path(), |name| Some(format!("{prefix}{name}")));
        let found = message(model.path());
        assert!(found.starts_with(&format!("MODEL/model.safetensors has a tensor `{prefix}")), "{found}");
        let way_out = format!("; remove `{prefix}`, which a wrapper added, from the names of all tensors");
        assert!(found.ends_with(&way_out), "{found}");
    }
    let model = copy("llama2");
    let path = model.path().join("model.safetensors");
    let mut tensors = safetensors::read(&path).unwrap();
    let norm = tensors["model.norm.weight"].shallow_clone();
    tensors.insert("norm.weight".to_owned(), norm);
    let entries = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::write(&path, entries, &[("format", "pt")]).unwrap();
    let found = message(model.path());
    assert!(found.ends_with("; it also has `model.norm.weight`, so leave one of the two out"), "{found}");
}

#[test]
fn a_pretrained_model_continues_its_story() {
    let Some(folder) = shared_data("stories260k") else { return };
    let model = Model::load(&folder, Libtorch::cpu(), Kind::Float).unwrap();
    let text = fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let pieces = tokenizer["model"]["vocab"].as_object().unwrap();
    let options = GenerateOptions {
        max_new_tokens: 60,
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
        eos_token_ids: model.config().eos_token_id.clone(),
    };
    let mut streamed = Vec::new();
    let ids = generate(&model, &[model.config().bos_token_id.unwrap()], &options, &mut |token| {
        streamed.push(token);
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(ids.tokens, streamed);
    let piece = |id: &i64| pieces.iter().find(|(_, value)| value.as_i64() == Some(*id)).unwrap().0.replace('▁', " ");
    let found: String = ids.tokens.iter().map(piece).collect();
    let expected = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
    assert!(found.trim_start().starts_with(expected), "{found}");
}
