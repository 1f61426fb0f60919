//! Chat templates: conversation → text in the form that a model was trained on.
//!
//! Templates are Jinja2 in the environment of Transformers (`trim_blocks`, `lstrip_blocks`, loop controls,
//! `raise_exception`, its `tojson`, Python's string methods, `{% generation %}`), rendered by minijinja. One thing
//! differs: `strftime_now` always returns the same day, so that a template that prints the date renders the same tokens
//! for a run that is resumed tomorrow, and for a reference that was cached yesterday.

mod json;
mod strftime;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, Output, State, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::error::contained;
use crate::{Error, Message, Result};

const NAME: &str = "chat_template";

/// A compiled chat template with the special tokens that it may print.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Origin of the template, for messages.
    origin: String,
    special_tokens: BTreeMap<String, Value>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// The message that a template passed to `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// `origin` is the file it came from, and `special_tokens` are the variables that it may print besides the
    /// conversation (`bos_token`, `eos_token`, …).
    ///
    /// # Errors
    ///
    /// Returns an error with the line if the template is not valid Jinja2.
    pub fn new(
        source: &str,
        origin: impl Into<String>,
        special_tokens: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let origin = origin.into();
        let mut environment = environment();
        let source = without_generation_tags(source);
        of_engine(|| environment.add_template_owned(NAME, source)).map_err(|error| {
            Error::InvalidData(format!("{origin}: not a valid chat template: {}", describe(&error)))
        })?;
        let special_tokens = special_tokens.into_iter().map(|(name, token)| (name, Value::from(token))).collect();
        Ok(Self { environment, origin, special_tokens })
    }

    /// Renders a conversation, with the assistant's header at the end if `add_generation_prompt` is set.
    ///
    /// # Errors
    ///
    /// Returns the problem as a clause: the message that the template raised, or the place where it failed.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> std::result::Result<String, String> {
        self.render_with_tools(messages, None, add_generation_prompt)
    }

    /// [`render`](Self::render) with descriptions of tools, a list, which the template sees as `tools`.
    ///
    /// # Errors
    ///
    /// Like there.
    pub fn render_with_tools(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> std::result::Result<String, String> {
        let special_tokens = Value::from_serialize(&self.special_tokens);
        let variables = context! {
            messages => Value::from_serialize(messages),
            tools => tools.map_or_else(|| Value::from(()), Value::from_serialize),
            documents => Value::from(()),
            add_generation_prompt,
            ..special_tokens
        };
        let rendered = of_engine(|| self.environment.get_template(NAME)?.render(variables));
        rendered.map_err(|error| match raised(&error) {
            Some(message) => format!("the chat template ({}) refuses this conversation: {message}", self.origin),
            None => format!("the chat template ({}) fails on this conversation: {}", self.origin, describe(&error)),
        })
    }
}

/// Calls minijinja, which panics in some cases, such as slicing an empty list backwards (Qwen3's template does that to
/// the messages).
fn of_engine<T>(
    body: impl FnOnce() -> std::result::Result<T, minijinja::Error>,
) -> std::result::Result<T, minijinja::Error> {
    contained(body).unwrap_or_else(|panic| {
        let detail = format!("the template engine cannot do this: {panic}");
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, detail))
    })
}

/// Creates the environment of Transformers' `apply_chat_template`.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_formatter(format_like_python);
    // Where minijinja's tests differ from Python's: None is not iterable, strings and mappings are sequences.
    environment.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
    });
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    environment.add_filter("tojson", json::tojson);
    environment.add_function("strftime_now", strftime::strftime_now);
    environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment
}

/// Prints `True`, `False` and `None` as Jinja2 does.
fn format_like_python(out: &mut Output, state: &State, value: &Value) -> std::result::Result<(), minijinja::Error> {
    match value.kind() {
        ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
        ValueKind::None => Ok(out.write_str("None")?),
        _ => minijinja::escape_formatter(out, state, value),
    }
}

fn raised(error: &minijinja::Error) -> Option<String> {
    let mut source = Some(error as &(dyn std::error::Error + 'static));
    while let Some(error) = source {
        if let Some(raised) = error.downcast_ref::<Raised>() {
            return Some(raised.to_string());
        }
        source = error.source();
    }
    None
}

fn describe(error: &minijinja::Error) -> String {
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    format!("{}{detail}{line}", error.kind())
}

/// Replaces `{% generation %} … {% endgeneration %}`, which marks what the model says and renders as its content, by a
/// block that minijinja knows and that renders the same.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let inside = start + "{%".len();
        let Some(length) = rest[inside..].find("%}") else { break };
        let (tag, after) = (&rest[inside..inside + length], inside + length + "%}".len());
        let name = tag.trim_matches(['-', '+']).trim();
        text.push_str(&rest[..start]);
        match name {
            "generation" => text.push_str(&rest[start..after].replace("generation", "if true")),
            "endgeneration" => text.push_str(&rest[start..after].replace("endgeneration", "endif")),
            _ => text.push_str(&rest[start..after]),
        }
        rest = &rest[after..];
    }
    text.push_str(rest);
    text
}
