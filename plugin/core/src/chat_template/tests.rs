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

/// Equal or refused: what differs from Jinja2 must not do so silently.
#[test]
fn templates_print_what_jinja2_prints() {
    let table: Value =
        serde_json::from_str(&std::fs::read_to_string(fixtures().join("expressions.json")).unwrap()).unwrap();
    let (mut equal, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for case in table["templates"].as_array().unwrap() {
        let source = case[0].as_str().unwrap();
        let template = ChatTemplate::new(source, "x.jinja", []).map_err(|error| error.to_string());
        let rendered = template.and_then(|template| template.render_json(&table["variables"]));
        match (rendered, case[1].as_str()) {
            (Ok(text), Some(expected)) if text == expected => equal += 1,
            (Ok(text), Some(expected)) => wrong.push(format!("{source}\n  {expected:?}\n  {text:?}")),
            (Err(_), Some(_)) => refused.push(source),
            // Jinja2 has no text to compare with.
            (_, None) => {}
        }
    }
    assert!(wrong.is_empty(), "{} templates render differently:\n{}", wrong.len(), wrong.join("\n"));
    assert!(equal > 1800, "only {equal} templates render");
    assert!(refused.len() < 70, "{} templates are refused that Jinja2 renders: {refused:#?}", refused.len());
}

#[test]
fn all_line_ends_of_a_template_are_line_feeds() {
    let source = "{% for m in messages %}\n<{{ m.role }}>\n{{ m.content }}\n{% endfor %}\nend\n";
    let conversation = user("a\r\nb");
    let expected = template(source).render(&conversation, false).unwrap();
    assert_eq!(expected, "<user>\na\r\nb\nend");
    for ending in ["\r\n", "\r"] {
        let template = template(&source.replace('\n', ending));
        assert_eq!(template.render(&conversation, false).unwrap(), expected, "{ending:?}");
    }
}

#[test]
fn a_template_that_does_not_end_is_an_error_that_names_it() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let problem = template(endless).render(&user("x"), false).unwrap_err();
    assert_eq!(
        problem,
        "the chat template (template.jinja) takes more than 20000000 steps on this conversation: it does not seem to end"
    );
    // Nor is it one of the methods that loop.
    assert_eq!(template("{{ 'ab'.count('') }}").render(&user("x"), false).unwrap(), "3");
}

#[test]
fn long_conversations_take_few_of_the_steps() {
    let turns = ["user", "assistant"].map(|role| Message::new(role, "Some words, and more."));
    let conversation: Vec<_> = turns.iter().cycle().take(2000).cloned().collect();
    for name in ["llama3", "mistral", "qwen3"] {
        let source = std::fs::read_to_string(fixtures().join(format!("templates/{name}.jinja"))).unwrap();
        let special = ["bos_token", "eos_token"].map(|name| (name.to_owned(), "</s>".to_owned()));
        let mut template = ChatTemplate::new(&source, "x.jinja", special).unwrap();
        template.environment.set_fuel(Some(MAX_STEPS / 20));
        assert_eq!(template.render(&conversation, true).map(|text| text.len() > 40_000), Ok(true), "{name}");
    }
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
        source::rewritten(source),
        "{%- if true -%} a {%- endif %}{% set generation = 'b' %}{{ generation }}{% raw %}{%"
    );
    // The signs that open and close a tag must not overlap.
    assert_eq!(source::rewritten("{%}{% generation %}"), "{%}{% generation %}");
    assert_eq!(source::rewritten("{%%}{% generation %}"), "{%%}{% if true %}");
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
