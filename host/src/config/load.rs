//! Layers → [`RunConfig`].

use std::path::{Component, Path, PathBuf};

use toml::{Table, Value};

use super::{ConfigError, DataSection, LambdaSection, LossSection, MissingRating, RunConfig, Schedule};
use super::{Layout, Per, Reduction, validate};

/// Prefix of the environment's layer.
const ENV_PREFIX: &str = "LAMBDA_DPO__";

/// Keys that hold a path.
const PATH_KEYS: &[&str] = &["output_dir", "model.torchscript", "data.chat_template", "train.resume"];

/// Keys that hold a path or a hub name, or a list of them.
const PATH_OR_HUB_KEYS: &[&str] = &["model.path", "reference.path", "data.records", "data.eval_records"];

/// Keys whose tables are replaced, not merged, by a later layer that gives them whole.
const WHOLE_TABLES: &[&str] = &["lambda.weights"];

/// Reads the file and lays environment and overrides over it.
///
/// # Errors
///
/// [`ConfigError`], the first found.
pub fn load(
    file: &Path,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &[String],
) -> Result<RunConfig, ConfigError> {
    let mut layers = vec![Layer::from_file(file)?];
    let mut variables: Vec<_> = environment.filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    variables.sort();
    for (name, value) in &variables {
        layers.push(Layer::from_variable(name, value)?);
    }
    for text in overrides {
        layers.push(Layer::from_override(text)?);
    }
    let known = known_keys();
    for layer in &layers {
        layer.check_keys(&known)?;
    }
    let mut config = merge(&layers)?;
    complete(&mut config, &layers)?;
    validate::validate(&config)?;
    Ok(config)
}

/// One source of keys.
#[derive(Clone, Debug)]
struct Layer {
    /// How messages name it.
    origin: String,
    keys: Table,
    /// The key of a layer that sets one: variables and overrides.
    one_key: Option<String>,
}

impl Layer {
    fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        let mut keys: Table = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_path_buf(),
            line: error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
            problem: error.message().replace('\n', " "),
        })?;
        let base = path.parent().unwrap_or(Path::new(""));
        for key in PATH_KEYS.iter().chain(PATH_OR_HUB_KEYS) {
            if let Some(value) = get_mut(&mut keys, key) {
                rebase(value, base, PATH_OR_HUB_KEYS.contains(key));
            }
        }
        Ok(Self { origin: path.display().to_string(), keys, one_key: None })
    }

    fn from_variable(name: &str, value: &str) -> Result<Self, ConfigError> {
        let path: Vec<String> = name[ENV_PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        if path.iter().any(String::is_empty) {
            return Err(ConfigError::Override { text: format!("{name}={value}") });
        }
        let keys = nest(&path, parse_value(value));
        Ok(Self { origin: format!("environment variable {name}"), keys, one_key: Some(path.join(".")) })
    }

    fn from_override(text: &str) -> Result<Self, ConfigError> {
        let malformed = || ConfigError::Override { text: text.to_owned() };
        let (key, value) = text.split_once('=').ok_or_else(malformed)?;
        let path = parse_key(key).ok_or_else(malformed)?;
        let keys = nest(&path, parse_value(value));
        Ok(Self { origin: format!("override `{text}`"), keys, one_key: Some(path.join(".")) })
    }

    fn check_keys(&self, known: &[String]) -> Result<(), ConfigError> {
        for key in leaves(&self.keys, known) {
            if !known.contains(&key) {
                let suggestion = nearest(&key, known);
                return Err(ConfigError::UnknownKey { origin: self.origin.clone(), key, suggestion });
            }
        }
        Ok(())
    }

    fn has(&self, key: &str) -> bool {
        get(&self.keys, key).is_some()
    }
}

impl config::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        Ok(self.keys.iter().map(|(key, value)| (key.clone(), to_config(value, &self.origin))).collect())
    }
}

fn merge(layers: &[Layer]) -> Result<RunConfig, ConfigError> {
    let mut builder = config::Config::builder();
    for (position, layer) in layers.iter().enumerate() {
        let mut layer = layer.clone();
        for key in WHOLE_TABLES {
            if layers[position + 1..].iter().any(|later| is_whole(later, key)) {
                remove(&mut layer.keys, key);
            }
        }
        builder = builder.add_source(layer);
    }
    let merged = builder.build().map_err(|error| to_error(&error, layers))?;
    merged.try_deserialize().map_err(|error| to_error(&error, layers))
}

/// Does the layer give this table as one value, and not an entry of it?
fn is_whole(layer: &Layer, key: &str) -> bool {
    let gives_table = get(&layer.keys, key).is_some_and(Value::is_table);
    gives_table && layer.one_key.as_ref().is_none_or(|one_key| one_key == key)
}

/// Fills in the defaults that depend on other keys.
fn complete(config: &mut RunConfig, layers: &[Layer]) -> Result<(), ConfigError> {
    let DataSection { format, .. } = &mut config.data;
    format.get_or_insert(match config.stage {
        super::Stage::Sft => super::Format::Chat,
        super::Stage::Dpo => super::Format::Pairs,
        super::Stage::LambdaDpo => super::Format::UltraFeedback,
    });
    if config.model.torchscript.is_some() && origin_of(layers, "loss.layout").is_none() {
        config.loss.layout = Layout::Rows;
    }
    if config.loss.paper_exact { complete_paper_exact(config, layers) } else { Ok(()) }
}

/// METHOD, "Appendix B": what `paper_exact` implies, unless a layer says otherwise, which is an error.
fn complete_paper_exact(config: &mut RunConfig, layers: &[Layer]) -> Result<(), ConfigError> {
    let RunConfig { data, loss, lambda, .. } = config;
    let LossSection { layout, reduction, .. } = loss;
    imply(layers, "loss.layout", layout, Layout::Expanded, "\"expanded\"")?;
    imply(layers, "loss.reduction", reduction, Reduction::Mean, "\"mean\"")?;
    imply(layers, "data.missing_rating", &mut data.missing_rating, MissingRating::Value(1.0), "1.0")?;
    imply(layers, "data.temperature", &mut data.temperature, 1.0, "1.0")?;
    let LambdaSection { schedule, per, .. } = lambda;
    if origin_of(layers, "lambda.schedule").is_none() {
        *schedule = Schedule::UniformNormalized;
        if origin_of(layers, "lambda.per").is_none() {
            *per = Per::Step;
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

/// The layer whose value of a key holds.
fn origin_of(layers: &[Layer], key: &str) -> Option<String> {
    layers.iter().rev().find(|layer| layer.has(key)).map(|layer| layer.origin.clone())
}

/// The config crate's error as a sentence of ours.
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
        config::ConfigError::At { error, key, .. } => (key.clone(), plain(&error.to_string())),
        other => (None, other.to_string()),
    };
    let Some(key) = key else { return ConfigError::Invalid(problem) };
    let plain_key = key.split('[').next().unwrap_or(&key);
    let origin = origin_of(layers, plain_key).unwrap_or_else(|| "the run config".to_owned());
    ConfigError::Value { origin, key, problem }
}

/// serde's `invalid type: string "x", expected a number` in the words of the other messages.
fn plain(message: &str) -> String {
    match message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        Some((found, expected)) => format!("must be {expected}, not {found}"),
        None => message.to_owned(),
    }
}

/// Every key there is, dotted. Tables that are values in themselves (`lambda.weights`) count as one key.
fn known_keys() -> Vec<String> {
    let every_section = RunConfig {
        stage: super::Stage::Sft,
        output_dir: PathBuf::new(),
        seed: 0,
        model: super::ModelSection::default(),
        adapter: Some(super::AdapterSection::default()),
        reference: super::ReferenceSection::default(),
        data: DataSection::default(),
        lambda: LambdaSection::default(),
        loss: LossSection::default(),
        train: super::TrainSection::default(),
    };
    let mut keys = Vec::new();
    if let Ok(serde_json::Value::Object(sections)) = serde_json::to_value(every_section) {
        for (section, value) in sections {
            match value {
                serde_json::Value::Object(entries) => keys.extend(entries.keys().map(|key| format!("{section}.{key}"))),
                _ => keys.push(section),
            }
        }
    }
    keys
}

/// The keys that a layer sets, dotted, no deeper than known keys go.
fn leaves(table: &Table, known: &[String]) -> Vec<String> {
    let mut keys = Vec::new();
    for (section, value) in table {
        let is_section =
            known.iter().any(|key| key.strip_prefix(section.as_str()).is_some_and(|rest| rest.starts_with('.')));
        match value {
            Value::Table(entries) if is_section => keys.extend(entries.keys().map(|key| format!("{section}.{key}"))),
            _ => keys.push(section.clone()),
        }
    }
    keys
}

/// The known key that a person most likely meant.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |candidate: &String| {
        // Slightly below the whole key's, so that a key in the right section wins.
        let by_last = 0.95 * strsim::jaro_winkler(&last(key), &last(candidate));
        strsim::jaro_winkler(key, candidate).max(by_last)
    };
    known
        .iter()
        .map(|candidate| (score(candidate), candidate))
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(score, _)| *score > 0.75)
        .map(|(_, candidate)| candidate.clone())
}

fn parse_key(key: &str) -> Option<Vec<String>> {
    // TOML's own rule for dotted keys, quoted parts included.
    let table: Table = toml::from_str(&format!("{} = 0", key.trim())).ok()?;
    let mut path = Vec::new();
    let mut level = &table;
    loop {
        let (part, value) = level.iter().next()?;
        path.push(part.clone());
        match value {
            Value::Table(inner) => level = inner,
            _ => return Some(path),
        }
    }
}

/// A number, bool, list or table where the text is one, else a string.
fn parse_value(text: &str) -> Value {
    let text = text.trim();
    match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => match table.remove("value") {
            None | Some(Value::Datetime(_)) => Value::String(text.to_owned()),
            Some(value) => value,
        },
        // A shell eats quotes: [a.jsonl, b.jsonl] is a list of strings all the same.
        _ => match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(items) => Value::Array(items.split(',').map(parse_value).collect()),
            None => Value::String(text.to_owned()),
        },
    }
}

fn nest(path: &[String], value: Value) -> Table {
    let mut table = Table::new();
    if let Some((first, rest)) = path.split_first() {
        let value = if rest.is_empty() { value } else { Value::Table(nest(rest, value)) };
        table.insert(first.clone(), value);
    }
    table
}

fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => get(table.get(section)?.as_table()?, rest),
    }
}

fn get_mut<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => table.get_mut(key),
        Some((section, rest)) => get_mut(table.get_mut(section)?.as_table_mut()?, rest),
    }
}

fn remove(table: &mut Table, key: &str) {
    match key.split_once('.') {
        None => {
            table.remove(key);
        }
        Some((section, rest)) => {
            if let Some(inner) = table.get_mut(section).and_then(Value::as_table_mut) {
                remove(inner, rest);
            }
        }
    }
}

/// Puts relative paths under the file's folder; the words of `train.resume` and, where allowed, hub names stay.
fn rebase(value: &mut Value, base: &Path, or_hub: bool) {
    match value {
        Value::String(text) if text != "no" && text != "auto" && !text.is_empty() => {
            let under_base = under(base, Path::new(&*text));
            if under_base.exists() || !(or_hub && crate::files::hub::is_repository_name(text)) {
                *text = under_base.display().to_string();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rebase(item, base, or_hub)),
        _ => {}
    }
}

/// `base` joined with `path`, each leading `..` of which takes a folder off `base` while that is no link: paths that are
/// read and written as a person would write them.
fn under(base: &Path, path: &Path) -> PathBuf {
    let mut folder = base.to_path_buf();
    let mut rest = path;
    while let Ok(after) = rest.strip_prefix("..") {
        let is_named = matches!(folder.components().next_back(), Some(Component::Normal(_)));
        if !is_named || folder.is_symlink() {
            break;
        }
        folder.pop();
        rest = after;
    }
    folder.join(rest)
}

fn to_config(value: &Value, origin: &str) -> config::Value {
    let origin_text = origin.to_owned();
    let kind = match value {
        Value::String(text) => config::ValueKind::String(text.clone()),
        Value::Integer(number) => config::ValueKind::I64(*number),
        Value::Float(number) => config::ValueKind::Float(*number),
        Value::Boolean(flag) => config::ValueKind::Boolean(*flag),
        Value::Datetime(date) => config::ValueKind::String(date.to_string()),
        Value::Array(items) => config::ValueKind::Array(items.iter().map(|item| to_config(item, origin)).collect()),
        Value::Table(entries) => config::ValueKind::Table(
            entries.iter().map(|(key, entry)| (key.clone(), to_config(entry, origin))).collect(),
        ),
    };
    config::Value::new(Some(&origin_text), kind)
}
