//! The special and added tokens of a tokenizer folder, which several files name, read as Transformers 5 reads them.

use std::collections::HashSet;

use indexmap::IndexMap;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

/// Result whose error lacks a place: the caller knows the folder.
type Outcome<T> = std::result::Result<T, String>;

/// The tokens with a name that every tokenizer may have, in the order in which they are added.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The two keys for lists of further special tokens; the latter is the older one.
const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";

/// The named tokens that a class of tokenizers has if the files do not name them; null in a file is none.
fn class_default(class: &str, name: &str) -> Option<&'static str> {
    match (class.trim_end_matches("Fast"), name) {
        ("Qwen2Tokenizer", "unk_token" | "eos_token" | "pad_token") => Some("<|endoftext|>"),
        _ => None,
    }
}

/// Longest added token. Those of models have less than 100; the automaton that finds added tokens in a text is built in a
/// time that grows with the square of their length.
const MOST_BYTES: usize = 1 << 10;

/// Refuses an added token that would take long to find.
///
/// # Errors
///
/// Returns a clause with the beginning of the token.
pub(super) fn check_length(content: &str) -> Outcome<()> {
    if content.len() <= MOST_BYTES {
        return Ok(());
    }
    let beginning: String = content.chars().take(20).collect();
    Err(format!(
        "the added token {beginning:?}… has {} bytes, more than the {MOST_BYTES} that are read: an added token is found in \
         every text, which takes long for such a token; leave it out, or make it shorter",
        content.len()
    ))
}

/// What the files of a folder say about tokens.
pub(super) struct Sources<'a> {
    /// `tokenizer_config.json`.
    pub(super) config: &'a Map<String, Value>,
    /// `special_tokens_map.json`: it overrides the configuration, unless that lists its added tokens itself.
    pub(super) special_map: &'a Map<String, Value>,
    /// `added_tokens.json`: ids by token.
    pub(super) added_tokens: &'a Map<String, Value>,
    /// The added tokens of `tokenizer.json`.
    pub(super) in_tokenizer: Vec<(u32, AddedToken)>,
    /// The padding token of `tokenizer.json`, if it was saved while it padded.
    pub(super) padding: Option<String>,
}

/// The special tokens with a name, and the tokens that the tokenizer lacks.
pub(super) struct SpecialTokens {
    /// `bos_token`, `eos_token`, …, and names of the model's own.
    pub(super) named: IndexMap<String, AddedToken>,
    /// Tokens to add, in this order.
    pub(super) to_add: Vec<AddedToken>,
}

/// Reads the special tokens.
///
/// # Errors
///
/// Returns a clause that names the field if a token is neither a text nor an object with `content`, or of
/// [`check_length`].
pub(super) fn read(sources: &Sources) -> Outcome<SpecialTokens> {
    let listed = listed_tokens(sources)?;
    let (names, extra) = named_values(sources)?;

    let mut named = IndexMap::new();
    for (name, value) in names {
        let Some(token) = token(&value, true, &name)? else { continue };
        let known = listed.values().find(|known| known.content == token.content && NAMED.contains(&name.as_str()));
        named.insert(name, known.cloned().unwrap_or(token));
    }
    let known: Vec<&AddedToken> = sources.in_tokenizer.iter().map(|(_, token)| token).collect();
    // A token with other properties than in tokenizer.json is added again, and gets these.
    let mut to_add: Vec<AddedToken> = listed.into_values().filter(|token| !known.contains(&token)).collect();
    let mut contents: HashSet<String> =
        known.iter().copied().chain(&to_add).map(|token| token.content.clone()).collect();
    for token in named.values().cloned().chain(extra) {
        if contents.insert(token.content.clone()) {
            to_add.push(token);
        }
    }
    for token in &mut to_add {
        check_length(&token.content)?;
        token.special |= named.values().any(|named| named.content == token.content);
    }
    Ok(SpecialTokens { named, to_add })
}

/// Returns the added tokens by id: those in the configuration's `added_tokens_decoder` or, if it has none, those in
/// `added_tokens.json` and `tokenizer.json`.
fn listed_tokens(sources: &Sources) -> Outcome<std::collections::BTreeMap<u32, AddedToken>> {
    let mut listed = std::collections::BTreeMap::new();
    match sources.config.get("added_tokens_decoder") {
        Some(Value::Object(decoder)) => {
            for (id, value) in decoder {
                let field = format!("added_tokens_decoder.{id}");
                let index = id.parse().map_err(|_| format!("`{field}` is not a number"))?;
                listed.extend(token(value, false, &field)?.map(|token| (index, token)));
            }
        }
        Some(other) => return Err(format!("`added_tokens_decoder` is {other}: expected an object")),
        None => {
            let (names, extra) = named_values(sources)?;
            let contents = names.values().filter_map(content).chain(extra.iter().map(|token| token.content.as_str()));
            let special: HashSet<&str> = contents.collect();
            for (content, id) in sources.added_tokens {
                let index = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let index = index.ok_or_else(|| format!("added_tokens.json: the id of {content:?} is {id}"))?;
                listed.insert(index, AddedToken::from(content, special.contains(content.as_str())));
            }
            listed.extend(sources.in_tokenizer.iter().cloned());
        }
    }
    Ok(listed)
}

/// Returns the values of the named tokens, in the order in which they are added, and the further special tokens.
fn named_values(sources: &Sources) -> Outcome<(IndexMap<String, Value>, Vec<AddedToken>)> {
    let Sources { config, special_map, .. } = sources;
    let mut names: IndexMap<String, Value> = IndexMap::new();
    let is_own = |name: &str| name.ends_with("_token") && !NAMED.contains(&name);
    let is_token = |value: &Value| content(value).is_some();
    let overrides = !config.contains_key("added_tokens_decoder");
    let overriding = |name: &str| special_map.get(name).filter(|_| overrides);
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    for name in NAMED {
        let default = class_default(class, name).or(sources.padding.as_deref().filter(|_| name == "pad_token"));
        let value = overriding(name).or_else(|| config.get(name)).cloned();
        if let Some(value) = value.or_else(|| default.map(Value::from)) {
            names.insert(name.to_owned(), value);
        }
    }
    let mut own: IndexMap<String, Value> = config
        .iter()
        .filter(|(name, value)| is_own(name) && is_token(value))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if overrides {
        own.extend(
            special_map
                .iter()
                .filter(|(name, value)| is_own(name) && is_token(value))
                .map(|(k, v)| (k.clone(), v.clone())),
        );
    }

    let mut extra = Vec::new();
    let is_empty = |value: &Value| match value {
        Value::Array(tokens) => tokens.is_empty(),
        Value::Object(tokens) => tokens.is_empty(),
        other => other.is_null(),
    };
    let in_config = config.get(EXTRA).filter(|value| !is_empty(value)).or_else(|| config.get(ADDITIONAL));
    let in_map =
        [overriding(EXTRA), overriding(ADDITIONAL).filter(|_| in_config.is_none() && overriding(EXTRA).is_none())];
    for value in in_config.into_iter().chain(in_map.into_iter().flatten()) {
        match value {
            Value::Null => {}
            // Names of the model's own.
            Value::Object(tokens) => own.extend(tokens.iter().map(|(name, value)| (name.clone(), value.clone()))),
            Value::Array(tokens) => {
                for value in tokens {
                    extra.extend(token(value, true, EXTRA)?);
                }
            }
            other => return Err(format!("`{EXTRA}` is {other}: expected a list, or an object of named tokens")),
        }
    }
    names.extend(own);
    Ok((names, extra))
}

/// Returns the text of a token.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Reads a token, a text or an object with its properties; null is none.
fn token(value: &Value, special: bool, field: &str) -> Outcome<Option<AddedToken>> {
    let Some(content) = content(value) else {
        return match value {
            Value::Null => Ok(None),
            other => Err(format!("`{field}` is {other}: expected a text, or an object with `content`")),
        };
    };
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special);
    let token = AddedToken::from(content, special).normalized(flag("normalized").unwrap_or(!special));
    let token = token.single_word(flag("single_word").unwrap_or(false));
    Ok(Some(token.lstrip(flag("lstrip").unwrap_or(false)).rstrip(flag("rstrip").unwrap_or(false))))
}
