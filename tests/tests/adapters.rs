//! LoRA compared with PEFT: log-probs, gradients and files; and the errors for adapters that do not fit.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{ForwardOptions, LoraConfig, Model, TargetModules};
use lambda_dpo_tests::golden_model::{Golden, difference, folder, inputs, load, load_in, log_probs, relative};
use tch::{Kind, Tensor};

/// The families with an adapter: one on layers of two names, one on all linear layers with rsLoRA.
const FAMILIES: [&str; 2] = ["llama31", "qwen2"];

fn load_with_adapter(family: &str) -> Model {
    let mut model = load(family);
    model.load_adapter(&folder(family).join("adapter")).unwrap();
    model
}

fn packed_log_probs(model: &Model, golden: &Golden) -> Vec<f32> {
    let packed = golden.packed();
    let hidden = model.hidden(&inputs(&packed.tensors())).unwrap();
    log_probs(model, golden, &hidden, &golden.predictors(&packed, 1))
}

fn config(dropout: f64) -> LoraConfig {
    LoraConfig {
        rank: 2,
        alpha: 4.0,
        dropout,
        use_rslora: false,
        target_modules: TargetModules::AllLinear,
        lambda: None,
    }
}

#[test]
fn log_probs_are_those_of_peft() {
    for family in FAMILIES {
        let (mut model, golden) = (load_with_adapter(family), Golden::of(family));
        let with = golden.log_probs("adapter.");
        let without = golden.log_probs("");
        assert!(difference(&with, &without) > 0.1, "the adapter has no effect");
        assert!(difference(&packed_log_probs(&model, &golden), &with) < 5e-5, "{family}");
        model.set_adapter_enabled(false);
        assert!(difference(&packed_log_probs(&model, &golden), &without) < 5e-5, "{family}, switched off");
        model.set_adapter_enabled(true);
        model.merge_adapter().unwrap();
        assert!(!model.has_adapter());
        assert!(difference(&packed_log_probs(&model, &golden), &with) < 5e-5, "{family}, merged");
    }
}

#[test]
fn gradients_are_those_of_peft_and_nothing_else_has_one() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        for checkpointing in [false, true] {
            // In float64, so that only what Transformers rounded when the golden values were made is left.
            let base = load_in(family, Kind::Double);
            let frozen = base.trainable();
            let mut model = base;
            model.load_adapter(&folder(family).join("adapter")).unwrap();
            let tensors = golden.rows().tensors();
            let options = ForwardOptions { checkpointing, dropout_seed: None };
            let activations = model.forward(&inputs(&tensors), &options).unwrap();
            activations.backward(&golden.values["grad_hidden"].to_kind(Kind::Double)).unwrap();
            let trainable = model.trainable();
            assert_eq!(trainable.len(), golden.values.keys().filter(|name| name.starts_with("adapter.grad.")).count());
            for (name, parameter) in &trainable {
                let found = relative(&parameter.grad(), &golden.values[&format!("adapter.grad.{name}")]);
                assert!(found < 1e-5, "{family}, checkpointing {checkpointing}: {name}: {found:e}");
            }
            assert!(frozen.iter().all(|(_, parameter)| !parameter.requires_grad() && !parameter.grad().defined()));
            assert!(!model.lm_head_trainable());
        }
    }
}

#[test]
fn a_new_adapter_changes_nothing_until_it_is_trained() {
    let golden = Golden::of("llama31");
    let mut model = load("llama31");
    let before = packed_log_probs(&model, &golden);
    model.add_lora(&config(0.1), 7).unwrap();
    assert_eq!(packed_log_probs(&model, &golden), before);
    let trainable = model.trainable();
    assert_eq!(trainable.len(), 2 * 7 * 2);
    assert_eq!(trainable[0].0, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
    for (name, parameter) in &trainable {
        let largest = parameter.abs().max().double_value(&[]);
        let bound = 1.0 / (parameter.size()[1] as f64).sqrt();
        if name.ends_with("lora_B.weight") {
            assert_eq!(largest, 0.0)
        } else {
            assert!(largest > 0.7 * bound && largest <= bound)
        }
    }
    let message = model.add_lora(&config(0.1), 7).unwrap_err().to_string();
    assert_eq!(message, "the model has an adapter already; merge or remove it first");
}

/// Gradients under dropout with the given seed.
fn dropout_gradients(checkpointing: bool, seed: Option<i64>) -> Vec<(String, Tensor)> {
    let golden = Golden::of("qwen2");
    let mut model = load("qwen2");
    model.add_lora(&config(0.25), 7).unwrap();
    for (index, (_, parameter)) in model.trainable().into_iter().enumerate() {
        tch::manual_seed(index as i64);
        tch::no_grad(|| parameter.detach().copy_(&(Tensor::randn_like(&parameter) * 0.3)));
    }
    let tensors = golden.rows().tensors();
    let options = ForwardOptions { checkpointing, dropout_seed: seed };
    let activations = model.forward(&inputs(&tensors), &options).unwrap();
    // Numbers drawn elsewhere in between must not matter.
    tch::manual_seed(99);
    activations.backward(&golden.values["grad_hidden"]).unwrap();
    model.trainable().into_iter().map(|(name, parameter)| (name, parameter.grad())).collect()
}

#[test]
fn recomputation_uses_the_same_dropout() {
    let kept = dropout_gradients(false, Some(5));
    assert_eq!(kept, dropout_gradients(true, Some(5)));
    assert_ne!(kept, dropout_gradients(false, Some(6)));
    assert_ne!(kept, dropout_gradients(false, None));
}

#[test]
fn bfloat16_models_keep_float32_adapters() {
    let golden = Golden::of("qwen2");
    let mut model = Model::load(&folder("qwen2"), Libtorch::cpu(), Kind::BFloat16).unwrap();
    model.load_adapter(&folder("qwen2").join("adapter")).unwrap();
    let tensors = golden.packed().tensors();
    let activations = model.forward(&inputs(&tensors), &ForwardOptions::default()).unwrap();
    assert_eq!(activations.hidden().kind(), Kind::BFloat16);
    let grad = activations.hidden().ones_like();
    activations.backward(&grad).unwrap();
    for (name, parameter) in model.trainable() {
        assert_eq!((parameter.kind(), parameter.grad().kind()), (Kind::Float, Kind::Float), "{name}");
        assert_eq!(parameter.grad().isfinite().all().int64_value(&[]), 1, "{name}");
    }
}

#[test]
fn a_saved_adapter_is_read_back() {
    for family in FAMILIES {
        let model = load_with_adapter(family);
        let target = tempfile::tempdir().unwrap();
        let saved = target.path().join("adapter");
        model.save_adapter(&saved, family).unwrap();
        let read = safetensors::read(&saved.join("adapter_model.safetensors")).unwrap();
        let original = safetensors::read(&folder(family).join("adapter/adapter_model.safetensors")).unwrap();
        assert_eq!(read.len(), original.len());
        assert!(original.iter().all(|(name, tensor)| &read[name] == tensor));
        let mut again = load(family);
        again.load_adapter(&saved).unwrap();
        let golden = Golden::of(family);
        assert_eq!(packed_log_probs(&again, &golden), packed_log_probs(&model, &golden));
        let message = model.save(&target.path().join("model"), &folder(family)).unwrap_err().to_string();
        assert!(message.starts_with("a model with an adapter cannot be saved as a whole"), "{message}");
    }
}

/// The error of loading `family`'s adapter on model `base`, with `from` replaced by `to` in its configuration.
fn message(family: &str, base: &str, from: &str, to: &str) -> String {
    let target = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(folder(family).join("adapter").join(name), target.path().join(name)).unwrap();
    }
    let path = target.path().join("adapter_config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(&path, text.replace(from, to)).unwrap();
    let mut model = load(base);
    let message = model.load_adapter(target.path()).unwrap_err().to_string();
    assert!(!model.has_adapter());
    message
        .replace(&target.path().display().to_string(), "ADAPTER")
        .replace(&folder(base).display().to_string(), "MODEL")
}

#[test]
fn adapters_for_another_model_are_refused() {
    assert_eq!(
        message("llama31", "qwen3", "\"r\": 2", "\"r\": 2"),
        "the adapter ADAPTER does not fit the model MODEL: its tensor \
         `base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight` has shape [32, 2], but the model calls for [64, 2]"
    );
    assert_eq!(
        message("llama31", "llama31", "\"q_proj\"", "\"c_attn\""),
        "the adapter ADAPTER does not fit the model MODEL: its target `c_attn` is not a linear layer of the model's decoder"
    );
    assert_eq!(
        message("llama31", "llama31", "\"q_proj\"", "\"k_proj\""),
        "the adapter ADAPTER does not fit the model MODEL: it has no tensor \
         `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight`"
    );
    let message = message("llama31", "llama31", "\"down_proj\",", "");
    assert!(message.contains("it has a tensor `base_model.model.model.layers.0.mlp.down_proj.lora_"), "{message}");
    assert!(message.ends_with("that no layer of the model takes"), "{message}");
}

/// Of the initialisations of PEFT, these make the adapter a part of the base's weights, and leave the base the rest.
#[test]
fn adapters_whose_initialisation_changed_the_base_are_refused() {
    for name in ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga", "unheard_of"] {
        let to = format!("\"init_lora_weights\": \"{name}\"");
        assert_eq!(
            message("llama31", "llama31", "\"init_lora_weights\": true", &to),
            format!(
                "ADAPTER/adapter_config.json: `init_lora_weights` = \"{name}\", an initialisation that changes the base \
                 model's weights, is not supported; convert the adapter with PEFT's `save_pretrained(…, \
                 path_initial_model_for_weight_conversion=…)`, merge it with `merge_and_unload`, or set the field to true \
                 if the model given with it has the changed weights"
            )
        );
    }
}

#[test]
fn adapters_whose_initialisation_left_the_base_are_read() {
    for value in ["false", "null", "\"gaussian\"", "\"eva\"", "\"orthogonal\"", "\"mica\""] {
        let target = tempfile::tempdir().unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            let text = fs::read(folder("llama31").join("adapter").join(name)).unwrap();
            fs::write(target.path().join(name), text).unwrap();
        }
        let path = target.path().join("adapter_config.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"init_lora_weights\": true", &format!("\"init_lora_weights\": {value}")))
            .unwrap();
        let mut model = load("llama31");
        model.load_adapter(target.path()).unwrap();
        let golden = Golden::of("llama31");
        assert!(difference(&packed_log_probs(&model, &golden), &golden.log_probs("adapter.")) < 5e-5, "{value}");
    }
}

#[test]
fn features_of_peft_that_are_missing_are_named() {
    let way_out = "is not supported; supported are plain LoRA adapters of linear layers, with or without rsLoRA";
    let cases = [
        ("\"use_dora\": false", "\"use_dora\": true", "`use_dora` = true"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 4}", "`rank_pattern` = {\"q_proj\":4}"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "`bias` = \"all\""),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "`modules_to_save` = [\"lm_head\"]"),
        ("\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\"", "`peft_type` = \"IA3\""),
    ];
    for (from, to, feature) in cases {
        let expected = format!("ADAPTER/adapter_config.json: {feature} {way_out}");
        assert_eq!(message("llama31", "llama31", from, to), expected);
    }
    let cases = [
        ("\"use_dora\": false", "\"use_dora\": false, \"kasa_config\": {\"beta\": 1}", "`kasa_config` = {\"beta\":1}"),
        ("\"use_dora\": false", "\"use_bdlora\": {\"nblocks\": 2}", "`use_bdlora` = {\"nblocks\":2}"),
    ];
    for (from, to, feature) in cases {
        let expected = format!("ADAPTER/adapter_config.json: {feature} {way_out}");
        assert_eq!(message("llama31", "llama31", from, to), expected);
    }
    let mut model = load("llama31");
    let message = model.load_adapter(Path::new("no/such/adapter")).unwrap_err().to_string();
    assert_eq!(
        message,
        "no/such/adapter has no adapter_config.json; an adapter in PEFT's format has adapter_config.json and \
         adapter_model.safetensors"
    );
    let targets = TargetModules::Names(vec!["q_proj".into(), "lm_head".into()]);
    let message = model.add_lora(&LoraConfig { target_modules: targets, ..config(0.0) }, 1).unwrap_err().to_string();
    assert!(message.starts_with("`target_modules` names `lm_head`, which is not a linear layer"), "{message}");
}
