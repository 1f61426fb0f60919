//! Chat templates: conversation → text in the form that a model was trained on.
//!
//! Templates are Jinja2 in the environment of Transformers (`trim_blocks`, `lstrip_blocks`, loop controls,
//! `raise_exception`, its `tojson`, Python's string methods, `{% generation %}`), rendered by minijinja. What minijinja
//! does otherwise than Jinja2 is replaced here, or refused: `fixtures/chat_templates/expressions.json` holds what Jinja2
//! renders, and a test compares. Operators are out of reach: a division by zero is infinite, one by a negative number
//! rounds otherwise, and `~` writes numbers without an exponent. One thing differs on purpose: `strftime_now` always
//! returns the same day, so that a template that prints the date renders the same tokens for a run that is resumed
//! tomorrow, and for a reference that was cached yesterday.
//!
//! | module | what |
//! |---|---|
//! | `source` | line ends, literals and tags that minijinja reads differently |
//! | `values` | lists, tuples, dictionaries, generators that print as in Python |
//! | `python` | Python's text of floats and strings |
//! | `filters`, `methods` | filters and methods that differ |
//! | `json`, `strftime` | `tojson`, `strftime_now` |

mod filters;
mod json;
mod methods;
mod python;
mod source;
mod strftime;
mod values;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, Output, State, Value, context};

use crate::error::contained;
use crate::{Error, Message, Result};

const NAME: &str = "chat_template";
const WITH_TOOLS: &str = "chat_template with tools";

/// Most steps (instructions of minijinja) that a template may take to render one conversation.
///
/// The templates of published models take 20 to 200 steps for a message, so this is enough for a hundred thousand
/// messages; a template that loops over all messages for each of them reaches it at about a thousand. An endless one
/// ends after some seconds.
const MAX_STEPS: u64 = 20_000_000;

/// A compiled chat template with the special tokens that it may print.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Origin of the template, for messages.
    origin: String,
    special_tokens: BTreeMap<String, Value>,
    /// Whether there is another template for conversations with tools.
    has_tools_template: bool,
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
        let special_tokens = special_tokens.into_iter().map(|(name, token)| (name, Value::from(token))).collect();
        let (environment, origin) = (environment(), origin.into());
        let mut template = Self { environment, origin, special_tokens, has_tools_template: false };
        template.add(NAME, source)?;
        Ok(template)
    }

    /// Adds the template that renders conversations with tools.
    ///
    /// # Errors
    ///
    /// Returns an error with the line if it is not valid Jinja2.
    pub(crate) fn with_tools(mut self, source: &str) -> Result<Self> {
        self.add(WITH_TOOLS, source)?;
        self.has_tools_template = true;
        Ok(self)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<()> {
        let source = source::rewritten(source);
        of_engine(|| self.environment.add_template_owned(name, source)).map_err(|error| {
            Error::InvalidData(format!("{}: not a valid chat template: {}", self.origin, describe(&error)))
        })
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
            messages => from_serialize(messages),
            tools => tools.map_or_else(|| Value::from(()), values::from_json),
            documents => Value::from(()),
            add_generation_prompt,
            ..special_tokens
        };
        self.render_with(if self.has_tools_template && tools.is_some() { WITH_TOOLS } else { NAME }, variables)
    }

    /// Renders with the variables in a JSON object.
    #[cfg(test)]
    fn render_json(&self, variables: &serde_json::Value) -> std::result::Result<String, String> {
        self.render_with(NAME, values::from_json(variables))
    }

    fn render_with(&self, name: &str, variables: Value) -> std::result::Result<String, String> {
        let rendered = of_engine(|| self.environment.get_template(name)?.render(variables));
        rendered.map_err(|error| match raised(&error) {
            Some(message) => format!("the chat template ({}) refuses this conversation: {message}", self.origin),
            None if is_out_of_fuel(&error) => format!(
                "the chat template ({}) takes more than {MAX_STEPS} steps on this conversation: it does not seem to end",
                self.origin
            ),
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
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(format_like_python);
    filters::add(&mut environment);
    // Where minijinja's tests differ from Python's: None is not iterable, strings and mappings are sequences, booleans
    // are numbers.
    environment.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
    });
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_test("lower", |value: &Value| python::has_case(&values::text(value), false));
    environment.add_test("upper", |value: &Value| python::has_case(&values::text(value), true));
    for name in ["startingwith", "endingwith", "safe"] {
        environment.remove_test(name);
    }
    environment.add_filter("tojson", json::tojson);
    environment.remove_global("debug");
    environment.add_function("range", values::range);
    environment.add_function("dict", |options: Kwargs| -> std::result::Result<Value, minijinja::Error> {
        let entries = options.args().map(|name| Ok((Value::from(name), options.get::<Value>(name)?)));
        Ok(values::dict(entries.collect::<std::result::Result<Vec<_>, minijinja::Error>>()?))
    });
    let items = |value: Value| Ok::<_, minijinja::Error>(value.try_iter()?.collect());
    environment.add_function(source::LIST, move |value: Value| items(value).map(values::list));
    environment.add_function(source::TUPLE, move |value: Value| items(value).map(values::tuple));
    environment.add_filter(source::SLICED, values::sliced);
    environment.add_function(source::DICT, |value: Value| values::entries(&value).map(values::dict));
    environment.add_function("strftime_now", strftime::strftime_now);
    environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment
}

/// Converts what a template gets to values that print as in Python.
fn from_serialize(value: &(impl serde::Serialize + ?Sized)) -> Value {
    match serde_json::to_value(value) {
        Ok(json) => values::from_json(&json),
        Err(error) => Value::from(minijinja::Error::new(ErrorKind::BadSerialization, error.to_string())),
    }
}

/// Prints a value as Jinja2 does.
fn format_like_python(out: &mut Output, _state: &State, value: &Value) -> std::result::Result<(), minijinja::Error> {
    match values::unprintable(value) {
        Some(problem) => Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem)),
        None => match value.as_str() {
            Some(text) => Ok(out.write_str(text)?),
            None => Ok(out.write_str(&values::text(value))?),
        },
    }
}

fn is_out_of_fuel(error: &minijinja::Error) -> bool {
    let mut source = Some(error as &(dyn std::error::Error + 'static));
    while let Some(error) = source {
        if error.downcast_ref::<minijinja::Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return true;
        }
        source = error.source();
    }
    false
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
