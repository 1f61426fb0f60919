//! A model folder's tokenizer, special tokens and chat template.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::special_tokens::{self, Sources, SpecialTokens};
use super::tokenizer::{Tokenizer, TokenizerInfo};
use crate::chat_template::ChatTemplate;
use crate::error::contained;
use crate::{Error, Result};

const CONFIG: &str = "tokenizer_config.json";
const ADDED: &str = "added_tokens.json";
/// Name of the template for conversations with tools.
const WITH_TOOLS: &str = "tool_use";

impl Tokenizer {
    /// Opens the tokenizer of a model folder: `tokenizer.json` and, if present, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `added_tokens.json`, `chat_template.jinja` and `additional_chat_templates/`, which are
    /// read as Transformers reads them. `chat_template` is the file of a template to use instead of the folder's own.
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
    let (mut encoder, padding) = open_encoder(folder, &mut contents)?;
    let mut object = |name: &str| -> Result<Map<String, Value>> {
        Ok(read_object(&folder.join(name), &mut contents)?.unwrap_or_default())
    };
    let config = object(CONFIG)?;
    let (special_map, added_tokens) = (object("special_tokens_map.json")?, object(ADDED)?);
    check_lengths(&folder.join(ADDED), added_tokens.keys())?;
    let in_config = |problem: String| invalid(&folder.join(CONFIG), &problem);
    refuse_versioned(&config).map_err(in_config)?;

    let in_tokenizer = encoder.get_added_tokens_decoder().into_iter().collect();
    let sources =
        Sources { config: &config, special_map: &special_map, added_tokens: &added_tokens, in_tokenizer, padding };
    let SpecialTokens { named, to_add } = special_tokens::read(&sources).map_err(in_config)?;
    contained(|| encoder.add_tokens(&to_add))
        .map_err(|problem| invalid(folder, &format!("tokens cannot be added: {problem}")))?;
    if config.get("split_special_tokens").and_then(Value::as_bool) == Some(true) {
        encoder.set_encode_special_tokens(true);
    }
    let continuing =
        continuing(&encoder).map_err(|problem| invalid(folder, &format!("not a valid tokenizer: {problem}")))?;

    let printable: Vec<_> = named.iter().map(|(name, token)| (name.clone(), token.content.clone())).collect();
    let template = match find_template(folder, chat_template, &config)? {
        Some(Found { origin, default, with_tools }) => {
            contents.add(default.as_bytes());
            let template = ChatTemplate::new(&default, origin.display().to_string(), printable)?;
            Some(match with_tools {
                Some(source) => {
                    contents.add(source.as_bytes());
                    template.with_tools(&source)?
                }
                None => template,
            })
        }
        None => None,
    };
    let id_of = |name: &str| named.get(name).and_then(|token| encoder.token_to_id(&token.content));
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
        continuing,
        template,
        special_ids,
        info,
        folder: folder.display().to_string(),
        hash: contents.0.finalize(),
    })
}

/// Refuses a folder with tokenizers for several versions of Transformers, which would choose one by its own version.
fn refuse_versioned(config: &Map<String, Value>) -> std::result::Result<(), String> {
    match config.get("fast_tokenizer_files").and_then(Value::as_array) {
        Some(files) if files.iter().any(|file| file != "tokenizer.json") => Err(format!(
            "`fast_tokenizer_files` = {} names tokenizers for several versions of Transformers: copy the one to use to \
             tokenizer.json, and remove the field",
            Value::from(files.clone())
        )),
        _ => Ok(()),
    }
}

/// Hashes the contents of files so that different lists of files have different hashes.
#[derive(Default)]
struct Contents(blake3::Hasher);

impl Contents {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(blake3::hash(bytes).as_bytes());
    }
}

/// Returns the tokenizer and, if it was saved while it padded, its padding token.
fn open_encoder(folder: &Path, contents: &mut Contents) -> Result<(tokenizers::Tokenizer, Option<String>)> {
    let path = folder.join("tokenizer.json");
    let bytes = read_regular(&path).map_err(|source| match source.kind() {
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
    // What does not parse has its message from the tokenizer.
    let added = serde_json::from_slice::<AddedTokens>(&bytes).unwrap_or_default().added_tokens;
    check_lengths(&path, added.iter().map(|token| &token.content))?;
    let mut encoder = contained(|| tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| error.to_string()))
        .flatten()
        .map_err(|problem| invalid(&path, &format!("not a valid tokenizer: {problem}")))?;
    let padding = encoder.get_padding().map(|padding| padding.pad_token.clone());
    // A tokenizer saved while it truncated or padded would do so here, behind the back of `cutoff_len`.
    encoder.with_padding(None);
    encoder.with_truncation(None).map_err(|error| invalid(&path, &error.to_string()))?;
    Ok((encoder, padding))
}

/// The added tokens of `tokenizer.json`, looked at before the tokenizer is made.
#[derive(Default, Deserialize)]
struct AddedTokens {
    #[serde(default)]
    added_tokens: Vec<Content>,
}

#[derive(Deserialize)]
struct Content {
    content: String,
}

/// Refuses a file with an added token that would take long to find.
fn check_lengths<'t>(path: &Path, mut tokens: impl Iterator<Item = &'t String>) -> Result<()> {
    tokens.try_for_each(|token| special_tokens::check_length(token)).map_err(|problem| invalid(path, &problem))
}

fn invalid(path: &Path, problem: &str) -> Error {
    Error::InvalidData(format!("{}: {problem}", path.display()))
}

/// Returns the encoder of a text that another precedes, if it differs: without the normaliser or the option of a
/// pre-tokenizer that puts a space before a text.
fn continuing(encoder: &tokenizers::Tokenizer) -> std::result::Result<Option<tokenizers::Tokenizer>, String> {
    let parts = (serde_json::to_value(encoder.get_normalizer()), serde_json::to_value(encoder.get_pre_tokenizer()));
    let (Ok(normalizer), Ok(pre_tokenizer)) = parts else { return Ok(None) };
    let (without_normalizer, without_pre_tokenizer) = (without_prefix(&normalizer), without_prefix(&pre_tokenizer));
    if without_normalizer == normalizer && without_pre_tokenizer == pre_tokenizer {
        return Ok(None);
    }
    let mut continuing = encoder.clone();
    let problem = |error: serde_json::Error| error.to_string();
    let normalizer: Option<NormalizerWrapper> = serde_json::from_value(without_normalizer).map_err(problem)?;
    let pre_tokenizer: Option<PreTokenizerWrapper> = serde_json::from_value(without_pre_tokenizer).map_err(problem)?;
    continuing.with_normalizer(normalizer);
    continuing.with_pre_tokenizer(pre_tokenizer);
    Ok(Some(continuing))
}

/// Returns a normaliser or pre-tokenizer, as in `tokenizer.json`, that puts no space before a text.
fn without_prefix(part: &Value) -> Value {
    let Value::Object(part) = part else { return part.clone() };
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut part = part.clone();
    match kind {
        "Prepend" => return Value::Null,
        "Metaspace" => _ = part.insert("prepend_scheme".into(), "never".into()),
        "ByteLevel" => _ = part.insert("add_prefix_space".into(), false.into()),
        "Sequence" => {
            for list in ["normalizers", "pretokenizers"] {
                if let Some(Value::Array(parts)) = part.get_mut(list) {
                    *parts = parts.iter().map(without_prefix).filter(|part| !part.is_null()).collect();
                }
            }
        }
        _ => {}
    }
    Value::Object(part)
}

/// A JSON object from a file that may be absent.
fn read_object(path: &Path, contents: &mut Contents) -> Result<Option<Map<String, Value>>> {
    let text = read_optional(path)?;
    contents.add(text.as_deref().unwrap_or_default().as_bytes());
    let Some(text) = text else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(invalid(path, "expected a JSON object")),
        Err(error) => Err(invalid(path, &format!("not valid JSON: {error}"))),
    }
}

/// Reads a file of a model folder: a pipe in its place would keep the caller waiting, and a device fill the memory.
fn read_regular(path: &Path) -> std::io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() {
        return std::fs::read(path);
    }
    let what = if metadata.is_dir() { "a folder" } else { "a pipe or a device" };
    Err(std::io::Error::new(ErrorKind::InvalidInput, format!("it is {what}, but a regular file is to be read")))
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    let not_text = |_| std::io::Error::new(ErrorKind::InvalidData, "it is not valid UTF-8");
    match read_regular(path).and_then(|bytes| String::from_utf8(bytes).map_err(not_text)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::io(path, source)),
    }
}

/// The templates of a folder.
struct Found {
    origin: PathBuf,
    default: String,
    /// The one named `tool_use`, which takes the default's place for conversations with tools.
    with_tools: Option<String>,
}

/// Finds the templates, as Transformers does: the caller's file; or the folder's `chat_template.jinja` with those in
/// `additional_chat_templates/`; or else the configuration's `chat_template`, a text, or a list or object of named ones,
/// of which `default` is taken.
fn find_template(folder: &Path, chat_template: Option<&Path>, config: &Map<String, Value>) -> Result<Option<Found>> {
    if let Some(path) = chat_template {
        let default = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        return Ok(Some(Found { origin: path.to_owned(), default, with_tools: None }));
    }
    let path = folder.join("chat_template.jinja");
    let named = folder.join("additional_chat_templates");
    let default = read_optional(&path)?;
    let in_folder = read_optional(&named.join("default.jinja"))?;
    // Among the named ones too, as the file that Transformers would find later.
    let with_tools = read_optional(&named.join(format!("{WITH_TOOLS}.jinja")))?;
    match in_folder.map(|source| (named.join("default.jinja"), source)).or(default.map(|source| (path, source))) {
        Some((origin, default)) => return Ok(Some(Found { origin, default, with_tools })),
        None if has_templates(&named) => {
            return Err(Error::InvalidData(format!(
                "{}: none of the templates is named default; name the file of one as `data.chat_template`",
                named.display()
            )));
        }
        None => {}
    }
    let origin = folder.join(CONFIG);
    let of_name = |templates: &Value, name: &str| -> Option<String> {
        let template = match templates {
            Value::Array(list) => list.iter().rev().find(|entry| entry["name"] == name)?.get("template"),
            other => other.get(name),
        };
        Some(template?.as_str()?.to_owned())
    };
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some(Found { origin, default: source.clone(), with_tools: None })),
        Some(templates) => match of_name(templates, "default") {
            Some(default) => Ok(Some(Found { origin, default, with_tools: of_name(templates, WITH_TOOLS) })),
            None => Err(Error::InvalidData(format!(
                "{}: `chat_template` is neither a text nor a list with a template named default; name a file with one \
                 as `data.chat_template`",
                origin.display()
            ))),
        },
    }
}

/// Whether there is a template in a folder.
fn has_templates(folder: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(folder) else { return false };
    files.flatten().any(|file| file.path().extension().is_some_and(|extension| extension == "jinja"))
}
