//! One layer of the config: the file, an environment variable, or an override.

use std::path::{Component, Path, PathBuf};

use toml::{Table, Value};

use super::ConfigError;
use super::keys::{get, get_mut, leaves, nearest};

/// Prefix of the environment variables that set keys.
pub(super) const ENV_PREFIX: &str = "LAMBDA_DPO__";

/// Keys that hold a path.
const PATH_KEYS: &[&str] = &["output_dir", "model.torchscript", "data.chat_template", "train.resume"];

/// Keys that hold a path or a hub name, or a list of them.
const PATH_OR_HUB_KEYS: &[&str] = &["model.path", "reference.path", "data.records", "data.eval_records"];

/// One source of keys.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Its name in messages.
    pub(super) origin: String,
    pub(super) keys: Table,
    /// The key that a variable or an override sets; None for the file.
    pub(super) one_key: Option<String>,
}

impl Layer {
    pub(super) fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        let mut keys: Table = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_path_buf(),
            line: error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
            problem: error.message().replace('\n', " "),
        })?;
        expand_homes(&mut keys);
        let base = path.parent().unwrap_or(Path::new(""));
        for key in PATH_KEYS.iter().chain(PATH_OR_HUB_KEYS) {
            if let Some(value) = get_mut(&mut keys, key) {
                rebase(value, base, PATH_OR_HUB_KEYS.contains(key));
            }
        }
        Ok(Self { origin: path.display().to_string(), keys, one_key: None })
    }

    /// Reads a variable: keys in any case, and after them names of a table's entries as they are written. A name that an
    /// earlier layer has in another case is that entry.
    pub(super) fn from_variable(
        name: &str,
        value: &str,
        known: &[String],
        earlier: &[Layer],
    ) -> Result<Self, ConfigError> {
        let mut path: Vec<String> = Vec::new();
        for part in name[ENV_PREFIX.len()..].split("__") {
            let key = path.join(".");
            path.push(if known.contains(&key) { entry_name(part, &key, earlier) } else { part.to_lowercase() });
        }
        if path.iter().any(String::is_empty) {
            return Err(ConfigError::Override { text: format!("{name}={value}") });
        }
        let mut keys = nest(&path, parse_value(value));
        expand_homes(&mut keys);
        Ok(Self { origin: format!("environment variable {name}"), keys, one_key: Some(path.join(".")) })
    }

    pub(super) fn from_override(text: &str) -> Result<Self, ConfigError> {
        let malformed = || ConfigError::Override { text: text.to_owned() };
        let (key, value) = text.split_once('=').ok_or_else(malformed)?;
        let path = parse_key(key).ok_or_else(malformed)?;
        let mut keys = nest(&path, parse_value(value));
        expand_homes(&mut keys);
        Ok(Self { origin: format!("override `{text}`"), keys, one_key: Some(path.join(".")) })
    }

    pub(super) fn check_keys(&self, known: &[String]) -> Result<(), ConfigError> {
        match leaves(&self.keys, known).into_iter().find(|key| !known.contains(key)) {
            None => Ok(()),
            Some(key) => {
                let suggestion = nearest(&key, known);
                Err(ConfigError::UnknownKey { origin: self.origin.clone(), key, suggestion })
            }
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        get(&self.keys, key).is_some()
    }

    /// Returns true if the layer sets this table as one value, and not an entry of it.
    pub(super) fn sets_whole_table(&self, key: &str) -> bool {
        let sets_table = get(&self.keys, key).is_some_and(Value::is_table);
        sets_table && self.one_key.as_ref().is_none_or(|one_key| one_key == key)
    }
}

/// Returns the name of an entry of the table `key` as the last earlier layer that has it writes it.
fn entry_name(name: &str, key: &str, earlier: &[Layer]) -> String {
    let tables = earlier.iter().rev().filter_map(|layer| get(&layer.keys, key)?.as_table());
    let names: Vec<&String> = tables.flat_map(|table| table.keys()).collect();
    let exact = names.iter().find(|known| known.as_str() == name);
    let found = exact.or_else(|| names.iter().find(|known| known.eq_ignore_ascii_case(name)));
    found.map_or_else(|| name.to_owned(), |found| (*found).clone())
}

impl config::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        Ok(self.keys.iter().map(|(key, value)| (key.clone(), to_config(value))).collect())
    }
}

fn to_config(value: &Value) -> config::Value {
    let kind = match value {
        Value::String(text) => config::ValueKind::String(text.clone()),
        Value::Integer(number) => config::ValueKind::I64(*number),
        Value::Float(number) => config::ValueKind::Float(*number),
        Value::Boolean(flag) => config::ValueKind::Boolean(*flag),
        Value::Datetime(date) => config::ValueKind::String(date.to_string()),
        Value::Array(items) => config::ValueKind::Array(items.iter().map(to_config).collect()),
        Value::Table(entries) => {
            config::ValueKind::Table(entries.iter().map(|(key, entry)| (key.clone(), to_config(entry))).collect())
        }
    };
    config::Value::new(None, kind)
}

/// Parses a key by TOML's own rule for dotted keys, quoted parts included.
fn parse_key(key: &str) -> Option<Vec<String>> {
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

/// Parses a number, bool, list or table; other text is a string.
fn parse_value(text: &str) -> Value {
    let text = text.trim();
    match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => match table.remove("value") {
            None | Some(Value::Datetime(_)) => Value::String(text.to_owned()),
            Some(value) => value,
        },
        // A shell removes quotes, so [a.jsonl, b.jsonl] is a list of strings, too.
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

/// Replaces `~` in all keys that hold paths: a shell does that only where a word begins.
fn expand_homes(keys: &mut Table) {
    fn expand(value: &mut Value) {
        match value {
            Value::String(text) if text.starts_with('~') => {
                *text = crate::files::paths::expand_home(Path::new(&*text)).display().to_string();
            }
            Value::Array(items) => items.iter_mut().for_each(expand),
            _ => {}
        }
    }
    for key in PATH_KEYS.iter().chain(PATH_OR_HUB_KEYS) {
        if let Some(value) = get_mut(keys, key) {
            expand(value);
        }
    }
}

/// Resolves relative paths against the file's folder; the words of `train.resume` and, if allowed, hub names are kept.
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

/// Joins `base` and `path`; each leading `..` of `path` removes the last folder of `base` unless that is a link, so that
/// the path is one that a person would write.
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
