//! Checks of the values and of keys that contradict each other. Every message names the key, the problem and a way out.

use std::collections::BTreeMap;

use lambda_dpo_concepts::or_list;

use super::{
    AdapterKind, AdapterSection, ConfigError, DType, Format, Init, Layout, Objective, Reduction, ReferenceKind,
    RunConfig, Schedule, Stage, TargetModules,
};

/// The sum of λ weights may differ from 1 by this much, as in the ABI; they are renormalised.
pub const LAMBDA_TOLERANCE: f64 = 1e-3;

pub(super) fn validate(config: &RunConfig) -> Result<(), ConfigError> {
    required(config)?;
    stage_and_format(config)?;
    data(config)?;
    adapter_and_reference(config)?;
    quantize(config)?;
    torchscript(config)?;
    lambda(config)?;
    loss(config)?;
    train(config)
}

fn invalid<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid(message.into()))
}

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { invalid(message()) }
}

/// Returns the first name that occurs a second time.
pub fn repeated(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)).map(|(_, name)| name)
}

fn required(config: &RunConfig) -> Result<(), ConfigError> {
    let missing = |key: &str, hint: &str| Err(ConfigError::Missing { key: key.into(), hint: hint.into() });
    if config.output_dir.as_os_str().is_empty() {
        return missing("output_dir", "set it to the folder that the run writes");
    }
    if config.model.path.as_os_str().is_empty() {
        return missing("model.path", "set it to a model folder, or to its name on the Hugging Face hub");
    }
    if config.data.records.is_empty() {
        return missing("data.records", "set it to a list of record files");
    }
    Ok(())
}

fn stage_and_format(config: &RunConfig) -> Result<(), ConfigError> {
    let Some(format) = config.data.format else { return Ok(()) };
    let (fits, wanted) = match config.stage {
        Stage::Sft => (format == Format::Chat, "\"chat\""),
        Stage::Dpo => (format != Format::Chat, "\"pairs\", \"ultrafeedback\" or \"rankings\""),
        Stage::LambdaDpo => (format.has_dimensions(), "\"ultrafeedback\" or \"rankings\""),
    };
    check(fits, || format!("stage \"{}\" needs data.format = {wanted}, not \"{format}\"", config.stage))
}

fn data(config: &RunConfig) -> Result<(), ConfigError> {
    let data = &config.data;
    check((0.0..1.0).contains(&data.eval_fraction), || {
        format!("data.eval_fraction must be at least 0 and below 1, not {}", data.eval_fraction)
    })?;
    check(data.eval_fraction == 0.0 || data.eval_records.is_empty(), || {
        "data.eval_fraction and data.eval_records exclude each other: remove one of them".into()
    })?;
    check(data.temperature > 0.0 && data.temperature.is_finite(), || {
        format!("data.temperature must be a number above 0, not {}", data.temperature)
    })?;
    check(data.cutoff_len >= 2, || format!("data.cutoff_len must be at least 2, not {}", data.cutoff_len))?;
    check(data.max_samples != Some(0), || "data.max_samples must be at least 1: leave it out to read all".into())?;
    if let Some(dimensions) = &data.dimensions {
        check(!dimensions.is_empty(), || "data.dimensions is empty: leave it out to use every dimension".into())?;
        if let Some(name) = repeated(dimensions) {
            return invalid(format!("data.dimensions names `{name}` twice"));
        }
    }
    Ok(())
}

fn adapter_and_reference(config: &RunConfig) -> Result<(), ConfigError> {
    if let Some(adapter) = &config.adapter {
        lambda_adapter(config, adapter)?;
        check((0.0..1.0).contains(&adapter.dropout), || {
            format!("adapter.dropout must be at least 0 and below 1, not {}", adapter.dropout)
        })?;
        check(adapter.lora_alpha() > 0.0, || format!("adapter.alpha must be above 0, not {}", adapter.lora_alpha()))?;
        check(adapter.target_modules != TargetModules::Names(Vec::new()), || {
            "adapter.target_modules is an empty list: name layers, or write \"all-linear\"".into()
        })?;
    }
    let reference = &config.reference;
    check(reference.kind != ReferenceKind::AdapterOff || config.adapter.is_some(), || {
        "reference.kind = \"adapter_off\" needs an [adapter] section".into()
    })?;
    let is_file = matches!(reference.kind, ReferenceKind::Onnx | ReferenceKind::TorchScript);
    let takes_path = is_file || matches!(reference.kind, ReferenceKind::Auto | ReferenceKind::Model);
    check(reference.path.is_none() || takes_path, || {
        format!("reference.path is only for reference.kind = \"model\", not \"{}\"", reference.kind)
    })?;
    check(reference.path.is_some() || !is_file, || {
        format!("reference.kind = \"{}\" needs reference.path, the exported file or folder", reference.kind)
    })?;
    let random_adapter = config.model.init == Init::Random && config.adapter.is_some();
    check(!random_adapter, || {
        "model.init = \"random\" cannot be combined with an [adapter]: the random base would not be saved with it"
            .into()
    })
}

fn lambda_adapter(config: &RunConfig, adapter: &AdapterSection) -> Result<(), ConfigError> {
    if adapter.kind == AdapterKind::Lora {
        check(adapter.rank >= 1, || "adapter.rank must be at least 1, not 0".into())?;
        return check(adapter.rank_per_dimension.is_none(), || {
            "adapter.rank_per_dimension is only for adapter.kind = \"lambda_lora\", not \"lora\"".into()
        });
    }
    check(adapter.rank_of_a_dimension() >= 1, || {
        "adapter.rank_per_dimension, by default adapter.rank, must be at least 1, not 0".into()
    })?;
    check(config.stage == Stage::LambdaDpo || config.data.dimensions.is_some(), || {
        format!(
            "adapter.kind = \"lambda_lora\" in stage \"{}\" needs data.dimensions, the names of the dimensions of λ, because \
             its records have none",
            config.stage
        )
    })
}

/// Rejects training of weights in 4 bits.
fn quantize(config: &RunConfig) -> Result<(), ConfigError> {
    let Some(quantization) = config.model.quantize else { return Ok(()) };
    check(config.model.torchscript.is_none(), || {
        format!("model.torchscript cannot be combined with model.quantize = \"{quantization}\": leave it out")
    })?;
    check(config.adapter.is_some(), || {
        format!(
            "model.quantize = \"{quantization}\" needs an [adapter] section, because weights in 4 bits cannot be trained \
             themselves: add one, or leave model.quantize out"
        )
    })
}

/// Rejects keys that have no meaning for a TorchScript module, whose forward is not this program's.
fn torchscript(config: &RunConfig) -> Result<(), ConfigError> {
    if config.model.torchscript.is_none() {
        return Ok(());
    }
    check(config.loss.layout != Layout::Packed, || {
        "loss.layout = \"packed\" needs an attention mask that model.torchscript does not take: leave it out, or set \"rows\""
            .into()
    })?;
    check(config.adapter.is_none(), || {
        "model.torchscript cannot be combined with an [adapter]: all of its parameters are trained".into()
    })?;
    let excluded = [
        (config.model.init == Init::Random, "model.init = \"random\""),
        (config.model.dtype != DType::Float32, "model.dtype = \"bfloat16\""),
        (config.train.gradient_checkpointing, "train.gradient_checkpointing = true"),
    ];
    let found = excluded.iter().find(|(is_set, _)| *is_set);
    check(found.is_none(), || {
        format!("model.torchscript cannot be combined with {}: leave it out", found.map_or("", |(_, key)| key))
    })
}

fn lambda(config: &RunConfig) -> Result<(), ConfigError> {
    let lambda = &config.lambda;
    check(lambda.alpha > 0.0 && lambda.alpha.is_finite(), || {
        format!("lambda.alpha must be a number above 0, not {}", lambda.alpha)
    })?;
    let belongs_to = |is_set: bool, key: &str, schedule: Schedule| {
        if is_set && lambda.schedule != schedule {
            return invalid(format!(
                "lambda.{key} is only for lambda.schedule = \"{schedule}\", not \"{}\"",
                lambda.schedule
            ));
        }
        check(is_set || lambda.schedule != schedule, || format!("lambda.schedule = \"{schedule}\" needs lambda.{key}"))
    };
    belongs_to(lambda.weights.is_some(), "weights", Schedule::Fixed)?;
    belongs_to(lambda.table.is_some(), "table", Schedule::Table)?;
    belongs_to(lambda.dimension.is_some(), "dimension", Schedule::Unimodal)?;
    if let Some(weights) = &lambda.weights {
        weights_are_lambda("lambda.weights", weights)?;
    }
    let rows = lambda.table.as_deref().unwrap_or_default();
    check(lambda.table.is_none() || !rows.is_empty(), || {
        "lambda.table has no rows: add one, or choose another lambda.schedule".into()
    })?;
    for (index, row) in rows.iter().enumerate() {
        weights_are_lambda(&format!("lambda.table[{index}].weights"), &row.weights)?;
        check(row.probability >= 0.0 && row.probability.is_finite(), || {
            format!("lambda.table[{index}].probability must be a non-negative number, not {}", row.probability)
        })?;
    }
    let total: f64 = rows.iter().map(|row| row.probability).sum();
    check(rows.is_empty() || total > 0.0, || {
        "lambda.table gives every row the probability 0: make one of them positive".into()
    })
}

fn weights_are_lambda(key: &str, weights: &BTreeMap<String, f64>) -> Result<(), ConfigError> {
    if let Some((name, weight)) = weights.iter().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0)) {
        return invalid(format!("{key} gives `{name}` the weight {weight}: weights must be non-negative numbers"));
    }
    let total: f64 = weights.values().sum();
    check((total - 1.0).abs() <= LAMBDA_TOLERANCE, || {
        format!(
            "{key} sum to {}, not to 1: change them so that the difference is at most {LAMBDA_TOLERANCE}",
            (total * 1e6).round() / 1e6
        )
    })
}

fn loss(config: &RunConfig) -> Result<(), ConfigError> {
    let loss = &config.loss;
    check(loss.beta > 0.0 && loss.beta.is_finite(), || {
        format!("loss.beta must be a number above 0, not {}", loss.beta)
    })?;
    check(loss.logits_budget_mib != Some(0), || "loss.logits_budget_mib must be at least 1".into())?;
    check(loss.max_tokens != Some(0), || {
        "loss.max_tokens must be at least 1: leave it out for one prompt per row".into()
    })?;
    check(loss.max_tokens.is_none() || loss.layout == Layout::Packed, || {
        format!("loss.max_tokens is only for loss.layout = \"packed\", not \"{}\"", loss.layout)
    })?;
    check(loss.layout != Layout::Expanded || config.stage == Stage::LambdaDpo, || {
        format!("loss.layout = \"expanded\" is for stage \"lambda_dpo\", not \"{}\"", config.stage)
    })?;
    check(!loss.paper_exact || config.stage == Stage::LambdaDpo, || {
        format!("loss.paper_exact is for stage \"lambda_dpo\", not \"{}\"", config.stage)
    })?;
    debug_assert!(!loss.paper_exact || config.reduction() == Reduction::Mean);
    objective(config)
}

fn objective(config: &RunConfig) -> Result<(), ConfigError> {
    let (loss, objective) = (&config.loss, config.objective());
    check(config.stage.objectives().contains(&objective), || {
        let words: Vec<&str> = config.stage.objectives().iter().map(|objective| objective.name()).collect();
        format!("loss.kind in stage \"{}\" must be {}, not \"{objective}\"", config.stage, or_list(&words))
    })?;
    check(objective.reductions().contains(&config.reduction()), || {
        format!(
            "loss.reduction must be \"mean\" for loss.kind = \"{objective}\", which is defined on means over tokens: leave it \
             out"
        )
    })?;
    check((0.0..0.5).contains(&loss.label_smoothing), || {
        format!("loss.label_smoothing must be at least 0 and below 0.5, not {}", loss.label_smoothing)
    })?;
    check(loss.label_smoothing == 0.0 || objective == Objective::Sigmoid, || {
        format!("loss.label_smoothing is only for loss.kind = \"sigmoid\", not \"{objective}\"")
    })?;
    check(loss.simpo_gamma.is_none() || objective == Objective::Simpo, || {
        format!("loss.simpo_gamma is only for loss.kind = \"simpo\", not \"{objective}\"")
    })?;
    for (key, value) in [("simpo_gamma", config.simpo_gamma()), ("sft_weight", loss.sft_weight)] {
        check(value >= 0.0 && value.is_finite(), || format!("loss.{key} must be a non-negative number, not {value}"))?;
    }
    check(loss.sft_weight == 0.0 || objective.has_preferences(), || {
        "loss.sft_weight is for the stages dpo and lambda_dpo: stage \"sft\" is nothing but that likelihood".into()
    })?;
    let asks_for_reference =
        !matches!(config.reference.kind, ReferenceKind::Auto | ReferenceKind::None) || config.reference.path.is_some();
    check(objective.has_reference() || !objective.has_preferences() || !asks_for_reference, || {
        format!("loss.kind = \"{objective}\" has no reference: leave out [reference]")
    })
}

fn train(config: &RunConfig) -> Result<(), ConfigError> {
    let RunConfig { train, data, .. } = config;
    let at_least_one = [
        ("per_device_train_batch_size", Some(train.per_device_train_batch_size)),
        ("gradient_accumulation_steps", Some(train.gradient_accumulation_steps)),
        ("logging_steps", Some(train.logging_steps)),
        ("max_steps", train.max_steps),
        ("eval_steps", train.eval_steps),
        ("save_total_limit", train.save_total_limit),
    ];
    for (key, value) in at_least_one {
        check(value != Some(0), || format!("train.{key} must be at least 1, not 0"))?;
    }
    check(train.eval_steps.is_none() || data.eval_fraction > 0.0 || !data.eval_records.is_empty(), || {
        "train.eval_steps needs records to evaluate on: set data.eval_records or data.eval_fraction, or leave it out"
            .into()
    })?;
    let from_zero = [
        ("learning_rate", train.learning_rate),
        ("max_grad_norm", train.max_grad_norm),
        ("weight_decay", train.weight_decay),
        ("adam_epsilon", train.adam_epsilon),
    ];
    for (key, value) in from_zero {
        check(value >= 0.0 && value.is_finite(), || format!("train.{key} must be a non-negative number, not {value}"))?;
    }
    for (key, value) in [("adam_beta1", train.adam_beta1), ("adam_beta2", train.adam_beta2)] {
        check((0.0..1.0).contains(&value), || format!("train.{key} must be at least 0 and below 1, not {value}"))?;
    }
    check((0.0..=1.0).contains(&train.warmup_ratio), || {
        format!("train.warmup_ratio must be between 0 and 1, not {}", train.warmup_ratio)
    })?;
    check(train.num_train_epochs > 0.0 && train.num_train_epochs.is_finite(), || {
        format!("train.num_train_epochs must be above 0, not {}", train.num_train_epochs)
    })?;
    check(!train.resume.is_empty(), || "train.resume must be \"no\", \"auto\" or a checkpoint folder".into())
}
