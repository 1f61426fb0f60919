#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use serde_json::Value;

use super::*;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/chat_templates")
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "template.jinja", [("bos_token".to_owned(), "<s>".to_owned())]).unwrap()
}

fn user(text: &str) -> Vec<Message> {
    vec![Message::new("user", text)]
}

#[test]
fn renders_what_transformers_renders() {
    let goldens: Value =
        serde_json::from_str(&std::fs::read_to_string(fixtures().join("goldens.json")).unwrap()).unwrap();
    let special: BTreeMap<String, String> = serde_json::from_value(goldens["special_tokens"].clone()).unwrap();
    let mut compared = 0;
    for golden in goldens["renders"].as_array().unwrap() {
        let name = golden["template"].as_str().unwrap();
        let source = std::fs::read_to_string(fixtures().join(format!("templates/{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source, "x.jinja", special.clone()).unwrap();
        let messages: Vec<Message> = serde_json::from_value(golden["messages"].clone()).unwrap();
        for (key, header) in [("with_header", true), ("without_header", false)] {
            let place = format!("{name}, {}, {key}", golden["conversation"]);
            let expected = &golden[key];
            match (template.render(&messages, header), expected["text"].as_str()) {
                (Ok(text), Some(expected)) => assert_eq!(text, expected, "{place}"),
                (Err(problem), None) => {
                    let raised = expected["error"].as_str().unwrap();
                    let sentence = format!("the chat template (x.jinja) refuses this conversation: {raised}");
                    assert_eq!(problem, sentence, "{place}");
                }
                (rendered, _) => panic!("{place}: {rendered:?} for {expected}"),
            }
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} cases");
}

#[test]
fn a_template_that_does_not_parse_is_named_with_its_line() {
    let error = ChatTemplate::new("{% for m in messages %}\n{{ m.content }}", "template.jinja", []).unwrap_err();
    let expected =
        "template.jinja: not a valid chat template: syntax error: unexpected end of input, expected end of block";
    assert_eq!(error.to_string(), format!("{expected} (line 2)"));
}

#[test]
fn a_template_that_fails_is_named_with_its_line() {
    let problem = template("\n{{ messages[7].content.strip() }}").render(&user("x"), false).unwrap_err();
    let expected = "the chat template (template.jinja) fails on this conversation: undefined value (line 2)";
    assert_eq!(problem, expected);
}

#[test]
fn the_date_is_the_same_every_day() {
    let template = template("{{ strftime_now('%d %b %Y, %A %-d/%-m %H:%M %j %%') }}");
    assert_eq!(template.render(&user("x"), false).unwrap(), "26 Jul 2024, Friday 26/7 00:00 208 %");
}

#[test]
fn generation_tags_render_their_content() {
    let source = "{%- generation -%} a {%- endgeneration %}{% set generation = 'b' %}{{ generation }}{% raw %}{%";
    assert_eq!(
        without_generation_tags(source),
        "{%- if true -%} a {%- endif %}{% set generation = 'b' %}{{ generation }}{% raw %}{%"
    );
    // The signs that open and close a tag must not overlap.
    assert_eq!(without_generation_tags("{%}{% generation %}"), "{%}{% generation %}");
    assert_eq!(without_generation_tags("{%%}{% generation %}"), "{%%}{% if true %}");
}

#[test]
fn prints_constants_as_python_does() {
    assert_eq!(
        template("{{ true }}{{ none }}{{ bos_token }}{{ 1.0 }}").render(&user("x"), true).unwrap(),
        "TrueNone<s>1.0"
    );
}

/// Reversing an empty list by slicing works in Python, but panics in minijinja.
#[test]
fn a_panic_of_the_engine_is_an_error_of_the_template() {
    let source = "{% for message in messages[::-1] %}{{ message.content }}{% endfor %}";
    let template = template(source);
    let problem = template.render(&[], false).unwrap_err();
    let expected = "the chat template (template.jinja) fails on this conversation: invalid operation: the template engine \
                    cannot do this: index out of bounds: the len is 0 but the index is 0";
    assert_eq!(problem, expected);
    assert_eq!(template.render(&user("again"), false).unwrap(), "again");
}
