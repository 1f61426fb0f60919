//! Loads a [`RunConfig`]: read the layers, check their keys, merge them, fill in what depends on other keys, validate.

use std::path::Path;

use super::keys::{known_keys, nearest, remove};
use super::layer::{ENV_PREFIX, Layer};
use super::{
    ConfigError, Format, Layout, MissingRating, Objective, Per, Reduction, RunConfig, Schedule, Stage, validate,
};

/// Keys whose tables are replaced, not merged, if a later layer sets them whole.
const WHOLE_TABLES: &[&str] = &["lambda.weights"];

/// Reads the file and overlays environment variables and overrides.
///
/// # Errors
///
/// Returns the first [`ConfigError`] found.
pub fn load(
    file: &Path,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &[String],
) -> Result<RunConfig, ConfigError> {
    let known = known_keys();
    let mut layers = vec![Layer::from_file(file)?];
    let mut variables: Vec<_> = environment.filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    variables.sort();
    for (name, value) in &variables {
        let layer = Layer::from_variable(name, value, &known, &layers)?;
        layers.push(layer);
    }
    for text in overrides {
        layers.push(Layer::from_override(text)?);
    }
    for layer in &layers {
        layer.check_keys(&known)?;
    }
    let mut config = merge(&layers)?;
    complete(&mut config, &layers)?;
    validate::validate(&config)?;
    Ok(config)
}

fn merge(layers: &[Layer]) -> Result<RunConfig, ConfigError> {
    let mut builder = config::Config::builder();
    for (position, layer) in layers.iter().enumerate() {
        let mut layer = layer.clone();
        for key in WHOLE_TABLES {
            if layers[position + 1..].iter().any(|later| later.sets_whole_table(key)) {
                remove(&mut layer.keys, key);
            }
        }
        builder = builder.add_source(layer);
    }
    let merged = builder.build().map_err(|error| to_error(&error, layers))?;
    merged.try_deserialize().map_err(|error| to_error(&error, layers))
}

/// Fills in the defaults that depend on other keys.
fn complete(config: &mut RunConfig, layers: &[Layer]) -> Result<(), ConfigError> {
    config.data.format.get_or_insert(match config.stage {
        Stage::Sft => Format::Chat,
        Stage::Dpo => Format::Pairs,
        Stage::LambdaDpo => Format::UltraFeedback,
    });
    if config.model.torchscript.is_some() && origin_of(layers, "loss.layout").is_none() {
        config.loss.layout = Layout::Rows;
    }
    if config.loss.paper_exact {
        complete_paper_exact(config, layers)?;
    }
    config.loss.kind = Some(config.objective());
    config.loss.reduction = Some(config.reduction());
    if config.objective() == Objective::Simpo {
        config.loss.simpo_gamma = Some(config.simpo_gamma());
    }
    Ok(())
}

/// Sets what `paper_exact` implies (docs/method.md, "Appendix B"); a layer that sets another value is an error.
fn complete_paper_exact(config: &mut RunConfig, layers: &[Layer]) -> Result<(), ConfigError> {
    let RunConfig { data, loss, lambda, .. } = config;
    imply(layers, "loss.layout", &mut loss.layout, Layout::Expanded, "\"expanded\"")?;
    imply(layers, "loss.reduction", &mut loss.reduction, Some(Reduction::Mean), "\"mean\"")?;
    imply(layers, "loss.kind", &mut loss.kind, Some(Objective::Listwise), "\"listwise\"")?;
    imply(layers, "data.missing_rating", &mut data.missing_rating, MissingRating::Value(1.0), "1.0")?;
    imply(layers, "data.temperature", &mut data.temperature, 1.0, "1.0")?;
    if origin_of(layers, "lambda.schedule").is_none() {
        lambda.schedule = Schedule::UniformNormalized;
        if origin_of(layers, "lambda.per").is_none() {
            lambda.per = Per::Step;
        }
    }
    Ok(())
}

fn imply<T: PartialEq>(layers: &[Layer], key: &str, field: &mut T, value: T, text: &str) -> Result<(), ConfigError> {
    match origin_of(layers, key) {
        Some(origin) if *field != value => Err(ConfigError::Value {
            origin,
            key: key.to_owned(),
            problem: format!("contradicts loss.paper_exact, which implies {text}: remove one of them"),
        }),
        _ => {
            *field = value;
            Ok(())
        }
    }
}

/// Returns the origin of the last layer that sets a key, whose value holds.
fn origin_of(layers: &[Layer], key: &str) -> Option<String> {
    layers.iter().rev().find(|layer| layer.has(key)).map(|layer| layer.origin.clone())
}

/// Rewords an error of the config crate, and names the layer that it comes from.
fn to_error(error: &config::ConfigError, layers: &[Layer]) -> ConfigError {
    let (key, problem) = match error {
        config::ConfigError::NotFound(key) => {
            let hint = match key.as_str() {
                "stage" => "set it to \"sft\", \"dpo\" or \"lambda_dpo\"",
                "output_dir" => "set it to the folder that the run writes",
                _ => "set it",
            };
            return ConfigError::Missing { key: key.clone(), hint: hint.to_owned() };
        }
        config::ConfigError::Type { unexpected, expected, key, .. } => {
            (key.clone(), format!("must be {expected}, not {unexpected}"))
        }
        config::ConfigError::At { error, key, .. } => (key.clone(), with_nearest(reworded(&error.to_string()))),
        other => (None, other.to_string()),
    };
    let Some(key) = key else { return ConfigError::Invalid(problem) };
    let plain_key = key.split('[').next().unwrap_or(&key);
    let origin = origin_of(layers, plain_key).unwrap_or_else(|| "the run config".to_owned());
    ConfigError::Value { origin, key, problem }
}

/// Adds to `must be "sum" or "mean", not "meen"` which of the words is nearest to the wrong one.
fn with_nearest(message: String) -> String {
    // Text between quotes: the words that are known, and last the one that is not.
    let mut words: Vec<String> = message.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    match words.pop().and_then(|wrong| nearest(&wrong, &words)) {
        Some(nearest) if message.starts_with("must be ") => format!("{message}; did you mean \"{nearest}\"?"),
        _ => message,
    }
}

/// Rewords serde's `invalid type: string "x", expected a number` like the other messages.
fn reworded(message: &str) -> String {
    match message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        Some((found, expected)) => format!("must be {expected}, not {found}"),
        None => message.to_owned(),
    }
}
