//! A model folder's tokenizer, special tokens and chat template.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::tokenizer::{Tokenizer, TokenizerInfo};
use crate::chat_template::ChatTemplate;
use crate::error::contained;
use crate::{Error, Result};

impl Tokenizer {
    /// Opens the tokenizer of a model folder: `tokenizer.json` and, if present, `tokenizer_config.json`,
    /// `special_tokens_map.json` and `chat_template.jinja`. `chat_template` is the file of a template to use instead of the
    /// folder's own.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder has no `tokenizer.json` or a file in it does not parse.
    pub fn open(folder: &Path, chat_template: Option<&Path>) -> Result<Self> {
        open(folder, chat_template)
    }
}

fn open(folder: &Path, chat_template: Option<&Path>) -> Result<Tokenizer> {
    let mut contents = Contents::default();
    let mut encoder = open_encoder(folder, &mut contents)?;
    let config = read_object(&folder.join("tokenizer_config.json"), &mut contents)?.unwrap_or_default();
    let fallback = read_object(&folder.join("special_tokens_map.json"), &mut contents)?.unwrap_or_default();
    let special_tokens = special_tokens(&config, &fallback);
    contained(|| add_tokens(&mut encoder, &config, &special_tokens))
        .map_err(|problem| Error::InvalidData(format!("{}: tokens cannot be added: {problem}", folder.display())))?;

    let printable = special_tokens.iter().map(|(name, token)| (name.clone(), token.content.clone()));
    let template = match find_template(folder, chat_template, &config)? {
        Some((origin, source)) => {
            contents.add(source.as_bytes());
            Some(ChatTemplate::new(&source, origin.display().to_string(), printable)?)
        }
        None => None,
    };
    let id_of = |name: &str| special_tokens.get(name).and_then(|token| encoder.token_to_id(&token.content));
    let info = TokenizerInfo {
        vocab_size: encoder.get_vocab_size(true),
        bos_token_id: id_of("bos_token").map(i64::from),
        eos_token_id: id_of("eos_token").map(i64::from),
        pad_token_id: id_of("pad_token").map(i64::from),
        has_chat_template: template.is_some(),
    };
    let added = encoder.get_added_tokens_decoder();
    let special_ids: HashSet<u32> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
    Ok(Tokenizer {
        encoder,
        template,
        special_ids,
        info,
        folder: folder.display().to_string(),
        hash: contents.0.finalize(),
    })
}

/// Hashes the contents of files so that different lists of files have different hashes.
#[derive(Default)]
struct Contents(blake3::Hasher);

impl Contents {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(blake3::hash(bytes).as_bytes());
    }
}

fn open_encoder(folder: &Path, contents: &mut Contents) -> Result<tokenizers::Tokenizer> {
    let path = folder.join("tokenizer.json");
    let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
        ErrorKind::NotFound if folder.is_dir() => {
            let way_out = "there is no tokenizer.json in this folder; copy the model's, or write one with \
                           `AutoTokenizer.from_pretrained(…).save_pretrained(…)`";
            Error::io(folder, std::io::Error::new(ErrorKind::NotFound, way_out))
        }
        ErrorKind::NotFound => {
            Error::io(folder, std::io::Error::new(ErrorKind::NotFound, "there is no such model folder"))
        }
        _ => Error::io(&path, source),
    })?;
    contents.add(&bytes);
    let mut encoder = contained(|| tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| error.to_string()))
        .flatten()
        .map_err(|problem| Error::InvalidData(format!("{}: not a valid tokenizer: {problem}", path.display())))?;
    // A tokenizer saved while it truncated or padded would do so here, behind the back of `cutoff_len`.
    encoder.with_padding(None);
    encoder.with_truncation(None).map_err(|error| Error::InvalidData(format!("{}: {error}", path.display())))?;
    Ok(encoder)
}

/// A JSON object from a file that may be absent.
fn read_object(path: &Path, contents: &mut Contents) -> Result<Option<Map<String, Value>>> {
    let text = read_optional(path)?;
    contents.add(text.as_deref().unwrap_or_default().as_bytes());
    let Some(text) = text else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(Error::InvalidData(format!("{}: expected a JSON object", path.display()))),
        Err(error) => Err(Error::InvalidData(format!("{}: not valid JSON: {error}", path.display()))),
    }
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::io(path, source)),
    }
}

/// The tokens that the configuration names (`bos_token`, `eos_token`, …), each a text or an object with its flags.
fn special_tokens(config: &Map<String, Value>, fallback: &Map<String, Value>) -> IndexMap<String, AddedToken> {
    let named = |map: &Map<String, Value>| -> Vec<(String, AddedToken)> {
        let entries = map.iter().filter(|(name, _)| name.ends_with("_token"));
        entries.filter_map(|(name, value)| Some((name.clone(), added_token(value)?))).collect()
    };
    let mut tokens: IndexMap<String, AddedToken> = named(config).into_iter().collect();
    for (name, token) in named(fallback) {
        if !config.contains_key(&name) {
            tokens.insert(name, token);
        }
    }
    tokens
}

fn added_token(value: &Value) -> Option<AddedToken> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
    match value {
        Value::String(content) => Some(AddedToken::from(content.clone(), true)),
        Value::Object(object) => {
            let content = object.get("content")?.as_str()?;
            let special = object.get("special").and_then(Value::as_bool).unwrap_or(true);
            let token = AddedToken::from(content, special).single_word(flag("single_word"));
            Some(token.lstrip(flag("lstrip")).rstrip(flag("rstrip")).normalized(flag("normalized")))
        }
        _ => None,
    }
}

/// Adds the tokens that the configuration names and `tokenizer.json` lacks, as Transformers does: the decoder's entries by
/// id, then the special tokens.
fn add_tokens(
    encoder: &mut tokenizers::Tokenizer,
    config: &Map<String, Value>,
    special: &IndexMap<String, AddedToken>,
) {
    let mut tokens = Vec::new();
    if let Some(Value::Object(decoder)) = config.get("added_tokens_decoder") {
        let by_id = decoder.iter().filter_map(|(id, value)| Some((id.parse::<u32>().ok()?, added_token(value)?)));
        let mut by_id: Vec<_> = by_id.collect();
        by_id.sort_by_key(|(id, _)| *id);
        tokens.extend(by_id.into_iter().map(|(_, token)| token));
    }
    tokens.extend(special.values().cloned());
    for name in ["additional_special_tokens", "extra_special_tokens"] {
        if let Some(Value::Array(list)) = config.get(name) {
            tokens.extend(list.iter().filter_map(added_token));
        }
    }
    let known: HashSet<String> = encoder.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    for token in tokens.into_iter().filter(|token| !known.contains(&token.content)) {
        if token.special {
            encoder.add_special_tokens(&[token]);
        } else {
            encoder.add_tokens(&[token]);
        }
    }
}

/// Finds the template: the caller's file, the folder's `chat_template.jinja`, or the configuration's `chat_template` (a
/// text, or a list of named ones, of which `default` is taken).
fn find_template(
    folder: &Path,
    chat_template: Option<&Path>,
    config: &Map<String, Value>,
) -> Result<Option<(PathBuf, String)>> {
    if let Some(path) = chat_template {
        let source = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        return Ok(Some((path.to_owned(), source)));
    }
    let path = folder.join("chat_template.jinja");
    if let Some(source) = read_optional(&path)? {
        return Ok(Some((path, source)));
    }
    let path = folder.join("tokenizer_config.json");
    let named = |list: &[Value]| -> Option<String> {
        let default = list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
        let only = list.first().filter(|_| list.len() == 1);
        default.or(only)?.get("template")?.as_str().map(str::to_owned)
    };
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some((path, source.clone()))),
        Some(Value::Array(list)) if named(list).is_some() => Ok(named(list).map(|source| (path, source))),
        Some(_) => Err(Error::InvalidData(format!(
            "{}: `chat_template` is neither a text nor a list with a template named default; name a file with one as \
             `data.chat_template`",
            path.display()
        ))),
    }
}
