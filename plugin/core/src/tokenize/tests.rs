#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;

use ndarray::{Array2, array};
use serde_json::{Value, json};

use super::*;
use crate::convert::Skipped;
use crate::record::{Message, Prompt};

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn fixtures() -> PathBuf {
    workspace().join("fixtures/chat_templates")
}

pub(crate) fn tokenizer(template: &str) -> Tokenizer {
    let template = fixtures().join(format!("templates/{template}.jinja"));
    Tokenizer::open(&fixtures().join("tokenizer"), Some(&template)).unwrap()
}

fn sample(prompt: &str, responses: &[&str], pi_target: Array2<f64>) -> Sample {
    Sample {
        tools: None,
        response_extras: Vec::new(),
        record_index: 5,
        prompt: Prompt::Text(prompt.into()),
        responses: responses.iter().map(|&response| response.into()).collect(),
        dimensions: (0..pi_target.nrows()).map(|k| format!("d{k}")).collect(),
        ratings: pi_target.clone(),
        pi_target,
    }
}

fn conversation(turns: &[(&str, &str)]) -> Sample {
    let messages = turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    Sample { prompt: Prompt::Messages(messages), ..sample("", &[], Array2::zeros((0, 0))) }
}

fn one(tokenized: Tokenized) -> TokenizedSample {
    assert_eq!(tokenized.samples.len(), 1, "{tokenized:?}");
    tokenized.samples.into_iter().next().unwrap()
}

/// A conversation's tokens as text, targets in `{}`.
fn marked(tokenizer: &Tokenizer, sample: &TokenizedSample) -> String {
    let decode = |ids: &[i64]| tokenizer.decode(ids, false).unwrap();
    let response = &sample.responses[0];
    let all = vec![true; response.ids.len()];
    let is_target = response.is_target.as_ref().unwrap_or(&all);
    let mut text = decode(&sample.prompt);
    let tokens: Vec<(i64, bool)> = response.ids.iter().copied().zip(is_target.iter().copied()).collect();
    for run in tokens.chunk_by(|a, b| a.1 == b.1) {
        let run_text = decode(&run.iter().map(|token| token.0).collect::<Vec<_>>());
        text += &if run[0].1 { format!("{{{run_text}}}") } else { run_text };
    }
    text
}

#[test]
fn tokens_are_those_of_the_golden_script() {
    let goldens: Value = serde_json::from_str(&fs::read_to_string(fixtures().join("goldens.json")).unwrap()).unwrap();
    for golden in goldens["tokens"].as_array().unwrap() {
        let template = golden["template"].as_str().unwrap();
        let responses: Vec<String> = serde_json::from_value(golden["answers"].clone()).unwrap();
        let pi_target = Array2::from_elem((1, responses.len()), 1.0 / responses.len() as f64);
        let prompt = serde_json::from_value(golden["prompt"].clone()).unwrap();
        let sample = Sample { prompt, responses, ..sample("", &[], pi_target) };
        let tokenized = one(tokenizer(template).tokenize(&sample, &TokenizeOptions::default()).unwrap());
        assert_eq!(json!(tokenized.prompt), golden["prompt_ids"], "{template}");
        let ids: Vec<_> = tokenized.responses.iter().map(|response| &response.ids).collect();
        assert_eq!(json!(ids), golden["response_ids"], "{template}");
    }
}

#[test]
fn a_token_across_the_border_is_split_there() {
    // The answer's leading space would merge with the end of the header; "The" would not.
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("tokenizer/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let template = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %} H{% endif %}{% endfor %}";
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let tokenizer = Tokenizer::open(folder.path(), None).unwrap();
    let whole = tokenizer.encode("x Hello").unwrap();
    let prompt = tokenizer.encode("x H").unwrap();
    assert!(!whole.starts_with(&prompt), "the fixture no longer merges across the border");
    let sample = sample("x", &["ello", "i"], array![[0.5, 0.5]]);
    let tokenized = one(tokenizer.tokenize(&sample, &TokenizeOptions::default()).unwrap());
    assert_eq!(tokenized.prompt, prompt);
    assert_eq!(tokenized.responses[0].ids, tokenizer.encode("ello").unwrap());

    let turns = conversation(&[("user", "x"), ("assistant", "ello"), ("user", "y"), ("assistant", "ello")]);
    let tokenized = one(tokenizer.tokenize(&turns, &TokenizeOptions::default()).unwrap());
    assert_eq!(marked(&tokenizer, &tokenized), "x H{ello}y H{ello}");
}

#[test]
fn the_split_is_llama_factorys() {
    // (prompt, longest response, cutoff) -> (prompt, response), computed with its `infer_seqlen`.
    let cases = [
        ((100, 10, 50), (40, 10)),
        ((10, 100, 50), (10, 40)),
        ((100, 100, 50), (25, 25)),
        ((60, 30, 50), (34, 16)),
        ((25, 26, 50), (26 - 1, 25)),
        ((24, 100, 50), (24, 26)),
        ((100, 24, 50), (26, 24)),
        ((100, 25, 50), (40, 10)),
        ((5, 5, 1), (1, 0)),
        ((0, 10, 5), (0, 5)),
        ((7, 3, 0), (0, 0)),
    ];
    for ((prompt, response, cutoff), expected) in cases {
        assert_eq!(truncate::split(prompt, response, cutoff), expected, "{prompt} {response} {cutoff}");
    }
}

#[test]
fn truncation_keeps_the_prompts_end_and_the_responses_start() {
    let tokenizer = tokenizer("chatml");
    let long = "one two three four five six seven eight nine ten ".repeat(4);
    let sample = sample(&long, &["Blue.", &long], array![[0.25, 0.75]]);
    let whole = one(tokenizer.tokenize(&sample, &TokenizeOptions::default()).unwrap());
    let options = TokenizeOptions { cutoff_len: Some(40), keep_all: false };
    let tokenized = tokenizer.tokenize(&sample, &options).unwrap();
    assert_eq!(tokenized.num_truncated, 1);
    let cut = one(tokenized);
    assert!(whole.prompt.ends_with(&cut.prompt));
    assert!(tokenizer.decode(&cut.prompt, false).unwrap().ends_with("<|im_start|>assistant\n"));
    assert_eq!(cut.responses[0], whole.responses[0]);
    assert!(whole.responses[1].ids.starts_with(&cut.responses[1].ids));
    assert_eq!(cut.prompt.len() + cut.responses[1].ids.len(), 40);
    let fits = TokenizeOptions { cutoff_len: Some(whole.prompt.len() + whole.responses[1].ids.len()), keep_all: false };
    assert_eq!(tokenizer.tokenize(&sample, &fits).unwrap().num_truncated, 0);
}

/// A template that adds nothing after an answer, so that an empty answer has no token.
fn bare() -> (tempfile::TempDir, Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("tokenizer/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let template = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' and m.content %}<|im_end|>{% endif %}{% endfor %}";
    let config =
        json!({"chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": template}]});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path(), None).unwrap();
    (folder, tokenizer)
}

#[test]
fn the_places_of_the_responses_that_are_kept_have_no_gaps() {
    let (_folder, tokenizer) = bare();
    // At temperature 1, the targets of all responses but the best are 0 in float32.
    let ratings = array![[0.0, 1000.0, 500.0, 500.0], [1.0, 2.0, 3.0, f64::NAN]];
    let pi_target = array![[0.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.7, f64::NAN]];
    let sample = Sample { ratings, ..sample("q", &["a", "", "b", "c"], pi_target) };
    let keep = TokenizeOptions { keep_all: true, ..TokenizeOptions::default() };
    assert_eq!(one(tokenizer.tokenize(&sample, &keep).unwrap()).ranks, array![[3, 1, 2, 2], [3, 2, 1, 0]]);
    let all = Sample { pi_target: array![[0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.7, f64::NAN]], ..sample };
    let kept = one(tokenizer.tokenize(&all, &TokenizeOptions::default()).unwrap());
    assert_eq!(kept.ranks, array![[2, 1, 1], [2, 1, 0]]);
}

#[test]
fn ranks_are_written_and_read_with_the_tokens() {
    let (_folder, tokenizer) = bare();
    let ratings = array![[0.0, 1000.0, 500.0], [1.0, 2.0, f64::NAN]];
    let pi_target = array![[0.0, 1.0, 0.0], [0.25, 0.75, f64::NAN]];
    let sample = Sample { ratings, ..sample("q", &["a", "b", "c"], pi_target) };
    let tokenized = one(tokenizer.tokenize(&sample, &TokenizeOptions::default()).unwrap());
    let written = tokenized.to_json().unwrap();
    assert!(written.ends_with(r#","ranks":[[3,1,2],[2,1,0]]}"#), "{written}");
    let read = TokenizedSample::from_json(&written).unwrap();
    assert_eq!((read.to_json().unwrap(), &read.ranks), (written.clone(), &tokenized.ranks));
    // Without them, the order is that of the targets.
    let without = written.replace(r#","ranks":[[3,1,2],[2,1,0]]"#, "");
    assert_eq!(TokenizedSample::from_json(&without).unwrap().ranks, array![[2, 1, 2], [2, 1, 0]]);
    for (ranks, expected) in [
        ("[[3,1,2]]", "`ranks` has 1 rows for 2 dimensions"),
        ("[[3,1],[2,1,0]]", "`ranks[0]` has 2 numbers for 3 responses"),
        ("[[3,1,0],[2,1,0]]", "`ranks[0][2]` is 0, but `pi_target[0][2]` is not null: only what is masked has no rank"),
        ("[[3,1,2],[2,1,3]]", "`ranks[1][2]` is 3, but `pi_target[1][2]` is null: the rank of what is masked is 0"),
        ("[[3,1,4],[2,1,0]]", "`ranks[0]` has no 2: places are numbered from 1 without gaps, and equal ones tie"),
        ("[[3,1,-2],[2,1,0]]", "`ranks[0]` has no 1: places are numbered from 1 without gaps, and equal ones tie"),
    ] {
        let changed = written.replace("[[3,1,2],[2,1,0]]", ranks);
        let error = TokenizedSample::from_json(&changed).unwrap_err().to_string();
        assert_eq!(error, format!("not a valid tokenised sample: record 5: {expected}"), "{ranks}");
    }
}

#[test]
fn responses_without_a_token_are_dropped() {
    let (_folder, tokenizer) = bare();
    let nan = f64::NAN;
    let pi_target = array![[0.25, 0.5, 0.25], [nan, 0.5, 0.5], [0.5, 0.5, nan]];
    let tokenized = tokenizer.tokenize(&sample("q", &["a", "", "b"], pi_target), &TokenizeOptions::default()).unwrap();
    assert_eq!((tokenized.num_dropped_responses, tokenized.skipped.len()), (1, 0));
    let kept = one(tokenized);
    assert_eq!(kept.responses.iter().map(|response| response.response_index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(kept.pi_target.row(0).to_vec(), [0.5, 0.5]);
    assert_eq!(kept.ranks, array![[1, 1], [0, 0], [0, 0]]);
    assert!([1, 2].iter().all(|&k| kept.pi_target.row(k).iter().all(|p| p.is_nan())));

    let skips = |prompt: &str, responses: &[&str], pi_target| {
        let tokenized = tokenizer.tokenize(&sample(prompt, responses, pi_target), &TokenizeOptions::default()).unwrap();
        assert!(tokenized.samples.is_empty());
        tokenized.skipped
    };
    assert_eq!(skips("q", &["a", ""], array![[0.5, 0.5]]), [Skipped::FewerThanTwoResponses]);
    assert_eq!(skips("q", &["a", "", "b"], array![[nan, 0.5, 0.5]]), [Skipped::NoRatedDimension]);
    assert_eq!(skips("", &["a", "b"], array![[0.5, 0.5]]), [Skipped::EmptyPrompt]);

    let keep = TokenizeOptions { keep_all: true, ..TokenizeOptions::default() };
    let all = one(tokenizer.tokenize(&sample("q", &["a", ""], array![[0.5, 0.5]]), &keep).unwrap());
    assert_eq!(all.responses.len(), 2);
    assert_eq!(all.num_tokens(), 3);
}

#[test]
fn every_assistant_turn_is_a_target() {
    let turns = [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", " d\n"),
        ("user", "never answered"),
    ];
    let cases = [
        (
            "chatml",
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n{b<|im_end|>\n}\
             <|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n{ d\n<|im_end|>\n}",
        ),
        ("llama2", "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\na [/INST]{ b </s>}<s>[INST] c [/INST]{ d </s>}"),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nToday is 26 Jul 2024.\n\ns<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{b<|eot_id|>}\
             <|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{d<|eot_id|>}",
        ),
    ];
    for (template, expected) in cases {
        let tokenizer = tokenizer(template);
        let sample = one(tokenizer.tokenize(&conversation(&turns), &TokenizeOptions::default()).unwrap());
        assert_eq!(marked(&tokenizer, &sample), expected);
        assert_eq!(sample.pi_target.dim(), (0, 1));
        let prompt = &expected[..expected.find('{').unwrap()];
        assert_eq!(sample.prompt, tokenizer.encode(prompt).unwrap());
        let whole = [&sample.prompt[..], &sample.responses[0].ids].concat();
        let at_once = tokenizer.encode(&expected.replace(['{', '}'], "")).unwrap();
        // Two line breaks are one token at the end of a text but two before a word: when the model answers, it sees
        // one.
        assert_eq!(whole == at_once, template != "llama3", "{template}");
    }
}

#[test]
fn each_turn_that_the_template_rewrites_has_its_own_sample() {
    let turns = [("user", "a"), ("assistant", "<think>\nx\n</think>\n\nb"), ("user", "c"), ("assistant", "d")];
    let tokenizer = tokenizer("qwen3");
    let tokenized = tokenizer.tokenize(&conversation(&turns), &TokenizeOptions::default()).unwrap();
    let texts: Vec<String> = tokenized.samples.iter().map(|sample| marked(&tokenizer, sample)).collect();
    let (user, assistant) = ("<|im_start|>user\n", "<|im_start|>assistant\n");
    assert_eq!(
        texts,
        [
            format!("{user}a<|im_end|>\n{assistant}{{<think>\nx\n</think>\n\nb<|im_end|>\n}}"),
            format!(
                "{user}a<|im_end|>\n{assistant}b<|im_end|>\n{user}c<|im_end|>\n{assistant}{{<think>\n\n</think>\n\nd<|im_end|>\n}}"
            ),
        ]
    );
    let turns = turns.map(|(role, text)| (role, text.rsplit("</think>").next().unwrap()));
    let one_each =
        tokenizer_with_thinking_header().tokenize(&conversation(&turns), &TokenizeOptions::default()).unwrap();
    assert_eq!(one_each.samples.len(), 2);
}

fn tokenizer_with_thinking_header() -> Tokenizer {
    tokenizer("opens_thinking")
}

#[test]
fn long_conversations_keep_their_start() {
    let tokenizer = tokenizer("chatml");
    let turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
    let whole = one(tokenizer.tokenize(&conversation(&turns), &TokenizeOptions::default()).unwrap());
    let cut = |cutoff_len| {
        let options = TokenizeOptions { cutoff_len: Some(cutoff_len), keep_all: false };
        tokenizer.tokenize(&conversation(&turns), &options).unwrap()
    };
    assert_eq!(cut(whole.num_tokens()).num_truncated, 0);
    let tokenized = cut(whole.num_tokens() - 4);
    assert_eq!(tokenized.num_truncated, 1);
    let shorter = one(tokenized);
    assert!(
        marked(&tokenizer, &shorter).ends_with("<|im_start|>assistant\n{b<|im_end|>\n}"),
        "what follows is of no use"
    );
    assert_eq!(shorter.responses[0].is_target, None);
    let nothing = cut(whole.prompt.len());
    assert_eq!((nothing.samples.len(), nothing.skipped, nothing.num_truncated), (0, vec![Skipped::NoTargetLeft], 1));
    let unanswered = tokenizer.tokenize(&conversation(&turns[..1]), &TokenizeOptions::default()).unwrap();
    assert_eq!(unanswered.skipped, [Skipped::NoAssistantTurn]);
}

/// A tokenizer in the form of SentencePiece's, which puts a space before a text: by a normaliser, or by its
/// pre-tokenizer.
fn sentence_piece(prefix: &str, template: &str) -> (tempfile::TempDir, Tokenizer) {
    let characters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ[]/.,!?\n".chars().map(String::from);
    let merges = ["▁ T", "h e", "▁T he", "▁ d", "o g", "▁d og", "▁ [", "▁ I"];
    let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let merged = merges.iter().map(|merge| merge.replace(' ', ""));
    let vocab: serde_json::Map<String, Value> =
        special.into_iter().chain(characters).chain(merged).enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let (normalizer, pre_tokenizer) = match prefix {
        "Prepend" => (json!({"type": "Sequence", "normalizers": [prepend, replace]}), Value::Null),
        scheme => {
            (Value::Null, json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false}))
        }
    };
    let decoders = json!([{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]);
    let tokenizer = json!({"version": "1.0", "added_tokens": [added(1, "<s>"), added(2, "</s>")],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "vocab": vocab, "merges": merges}});
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let tokenizer = Tokenizer::open(folder.path(), None).unwrap();
    (folder, tokenizer)
}

#[test]
fn a_prompt_that_ends_with_a_space_is_followed_by_the_answer_as_it_is_rendered() {
    let template = "{% for m in messages %}{% if m.role == 'user' %}[I] {{ m.content | trim }} [/I] {% else %}\
                    {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}";
    let answers = ["The dog.", "dog", "a\nb", "I do not", "\nThe", "[I] The"];
    for prefix in ["Prepend", "always", "first"] {
        let (_folder, tokenizer) = sentence_piece(prefix, template);
        let pi_target = Array2::from_elem((1, answers.len()), 1.0 / answers.len() as f64);
        let tokenized =
            one(tokenizer.tokenize(&sample("Hi", &answers, pi_target), &TokenizeOptions::default()).unwrap());
        for (answer, response) in answers.iter().zip(&tokenized.responses) {
            let whole = [&tokenized.prompt[..], &response.ids].concat();
            let expected = format!("[I] Hi [/I] {}</s>", answer.trim());
            assert_eq!(tokenizer.decode(&whole, false).unwrap(), expected, "{prefix}, {answer:?}");
        }
        let turns =
            conversation(&[("user", "Hi"), ("assistant", "The dog."), ("user", "a"), ("assistant", "I do not")]);
        let tokenized = one(tokenizer.tokenize(&turns, &TokenizeOptions::default()).unwrap());
        let whole = [&tokenized.prompt[..], &tokenized.responses[0].ids].concat();
        let rendered = tokenizer.render_text(&turns.prompt.to_messages(), false).unwrap();
        // After a special token, this kind of tokenizer puts a space, wherever the text comes from.
        let expected = tokenizer.decode(&tokenizer.encode(&rendered).unwrap(), false).unwrap();
        assert_eq!(tokenizer.decode(&whole, false).unwrap(), expected, "{prefix}");
    }
}

#[test]
fn answers_that_the_template_does_not_print_whole_are_refused() {
    let (_folder, tokenizer) = sentence_piece(
        "Prepend",
        "{% for m in messages %}{% if m.role == 'user' %}<U>{{ m.content }}{% else %}{% set c = m.content %}\
         {% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}<A>{{ c | trim + eos_token }}{% endif %}\
         {% endfor %}{% if add_generation_prompt %}<A><think>\n{% endif %}",
    );
    let tokenize = |sample: &Sample| tokenizer.tokenize(sample, &TokenizeOptions::default());
    let way_out = "name a template that prints it as `data.chat_template`, or remove that part from the answer";
    let (good, bad) = ("<think>good</think>Yes", "<think>bad</think>Yes");
    let rated = sample("Sure?", &["Yes", good, bad], array![[0.5, 0.25, 0.25]]);
    let dropped = format!("drops a part of `responses[1]`, which starts with \"<think>good</think\": {way_out}");
    assert_eq!(tokenize(&rated).unwrap_err().to_string(), format!("record 5: the chat template {dropped}"));
    let pair = Sample { dimensions: vec!["preference".into()], ..sample("Sure?", &["Yes", bad], array![[1.0, 0.0]]) };
    let message = tokenize(&pair).unwrap_err().to_string();
    assert!(message.contains("drops a part of `rejected`, which starts with \"<think>bad</think\": "), "{message}");
    let turns = conversation(&[("user", "a"), ("assistant", good)]);
    let message = tokenize(&turns).unwrap_err().to_string();
    assert!(message.contains("drops a part of `messages[1].content`, which starts with"), "{message}");
    // White space around an answer is not a part of it, and neither is what an earlier answer loses by design.
    assert!(tokenize(&sample("Sure?", &[" Yes\n", "No, </think"], array![[1.0, 0.0]])).is_ok());
    let earlier =
        Prompt::Messages(vec![Message::new("user", "a"), Message::new("assistant", good), Message::new("user", "b")]);
    assert!(tokenize(&Sample { prompt: earlier, ..sample("", &["Yes", "No"], array![[1.0, 0.0]]) }).is_ok());
    for name in ["qwen3", "llama2", "llama3", "mistral", "chatml"] {
        let (tokenizer, sample) = (self::tokenizer(name), sample("q", &[good, " a b\n"], array![[1.0, 0.0]]));
        assert!(tokenizer.tokenize(&sample, &TokenizeOptions::default()).is_ok(), "{name}");
    }
}

#[test]
fn conversations_with_tools_have_the_template_for_them() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("tokenizer/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let templates =
        json!([{"name": "default", "template": "no tools"}, {"name": "tool_use", "template": "{{ tools }}"}]);
    fs::write(folder.path().join("tokenizer_config.json"), json!({"chat_template": templates}).to_string()).unwrap();
    let tools = json!([{"name": "it's"}]);
    let render = |tools: Option<&Value>| {
        let tokenizer = Tokenizer::open(folder.path(), None).unwrap();
        tokenizer.template.unwrap().render_with_tools(&[Message::new("user", "x")], tools, false).unwrap()
    };
    assert_eq!(render(None), "no tools");
    assert_eq!(render(Some(&tools)), "[{'name': \"it's\"}]");
    // The files in the folder come before those in the configuration.
    fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    fs::write(folder.path().join("additional_chat_templates/tool_use.jinja"), "tools").unwrap();
    let message = Tokenizer::open(folder.path(), None).unwrap_err().to_string();
    assert!(message.ends_with("none of the templates is named default; name the file of one as `data.chat_template`"));
    fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!((render(None), render(Some(&tools))), ("file".to_owned(), "tools".to_owned()));
}

#[test]
fn problems_name_the_record_and_the_way_out() {
    let turns = [("user", "a"), ("user", "b"), ("assistant", "c")];
    let error = tokenizer("mistral").tokenize(&conversation(&turns), &TokenizeOptions::default()).unwrap_err();
    let path = fixtures().join("templates/mistral.jinja");
    let expected = "refuses this conversation: Turns of user and assistant must alternate";
    assert_eq!(error.to_string(), format!("record 5: the chat template ({}) {expected}", path.display()));

    let folder = fixtures().join("tokenizer");
    let plain = Tokenizer::open(&folder, None).unwrap();
    assert!(!plain.info().has_chat_template);
    let error = plain.render(&[Message::new("user", "x")], true).unwrap_err();
    let way_out = "the tokenizer has no chat template; name a file with one as `data.chat_template`";
    assert_eq!(error.to_string(), format!("{}: {way_out}", folder.display()));
}

#[test]
fn folders_without_a_tokenizer_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        Tokenizer::open(folder.path(), None).unwrap_err().to_string().replace(&folder.path().display().to_string(), "F")
    };
    assert_eq!(
        open(),
        "F: there is no tokenizer.json in this folder; copy the model's, or write one with \
         `AutoTokenizer.from_pretrained(…).save_pretrained(…)`"
    );
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert!(open().starts_with("F/tokenizer.json: not a valid tokenizer: "), "{}", open());
    // The tokenizers crate panics if the JSON is broken inside the decoder.
    fs::write(folder.path().join("tokenizer.json"), r#"{"version": "1.0", "decoder": {"type"}}"#).unwrap();
    assert!(open().starts_with("F/tokenizer.json: not a valid tokenizer: Helper: "), "{}", open());
    fs::copy(fixtures().join("tokenizer/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), "[]").unwrap();
    assert_eq!(open(), "F/tokenizer_config.json: expected a JSON object");
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"chat_template": 1}"#).unwrap();
    assert!(open().starts_with("F/tokenizer_config.json: `chat_template` is neither"), "{}", open());
    let missing = Tokenizer::open(&PathBuf::from("no/folder"), None).unwrap_err();
    assert_eq!(missing.to_string(), "no/folder: there is no such model folder");
    let missing = Tokenizer::open(&fixtures().join("tokenizer"), Some(&PathBuf::from("no.jinja"))).unwrap_err();
    assert_eq!(missing.to_string(), "no.jinja: there is no such file");
}

#[test]
fn info_encode_and_decode() {
    let tokenizer = tokenizer("chatml");
    let info = serde_json::to_string(tokenizer.info()).unwrap();
    assert_eq!(
        info,
        r#"{"vocab_size":420,"bos_token_id":0,"eos_token_id":1,"pad_token_id":2,"has_chat_template":true}"#
    );
    let ids = tokenizer.encode("<s>Hello 你好</s>").unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (0, 1));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "Hello 你好");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s>Hello 你好</s>");
    assert_eq!(tokenizer.decode(&[4_000_000], false).unwrap(), "");
    assert_eq!(tokenizer.decode(&[-1], false).unwrap_err().to_string(), "-1 is not a token id");
}

#[test]
fn saved_truncation_and_padding_are_ignored_and_named_tokens_added() {
    let folder = tempfile::tempdir().unwrap();
    let mut saved: Value =
        serde_json::from_str(&fs::read_to_string(fixtures().join("tokenizer/tokenizer.json")).unwrap()).unwrap();
    saved["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    saved["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<s>"});
    fs::write(folder.path().join("tokenizer.json"), saved.to_string()).unwrap();
    let config = json!({"eos_token": {"content": "<end>", "lstrip": false}, "bos_token": null});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("special_tokens_map.json"), r#"{"bos_token": "<s>", "pad_token": "<pad>"}"#).unwrap();
    let tokenizer = Tokenizer::open(folder.path(), None).unwrap();
    let info = tokenizer.info();
    assert_eq!(
        (info.vocab_size, info.bos_token_id, info.eos_token_id, info.pad_token_id),
        // special_tokens_map.json overrides the configuration.
        (421, Some(0), Some(420), Some(2))
    );
    assert_eq!(tokenizer.encode("a b c<end>").unwrap().last(), Some(&420));
    assert!(tokenizer.encode("a b c d e f").unwrap().len() > 2);
    assert_eq!(tokenizer.encode("").unwrap().len(), 0);
}

/// The automaton that finds added tokens took more than ten seconds for one of 70,000 characters.
#[test]
fn added_tokens_that_take_long_to_find_are_refused() {
    let long = "x".repeat(70_000);
    let saved = fs::read_to_string(fixtures().join("tokenizer/tokenizer.json")).unwrap();
    let mut damaged: Value = serde_json::from_str(&saved).unwrap();
    damaged["added_tokens"][0]["content"] = json!(long);
    let files = [
        ("tokenizer.json", damaged),
        ("added_tokens.json", json!({ &*long: 500 })),
        ("tokenizer_config.json", json!({ "eos_token": long })),
    ];
    for (name, content) in files {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), &saved).unwrap();
        fs::write(folder.path().join(name), content.to_string()).unwrap();
        let message = Tokenizer::open(folder.path(), None).unwrap_err().to_string();
        let expected = format!(
            "{}: the added token \"xxxxxxxxxxxxxxxxxxxx\"… has 70000 bytes",
            folder.path().join(name).display()
        );
        assert!(message.starts_with(&expected), "{message}");
    }
}

/// A tokenizer with this template.
fn with_template(source: &str) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jinja");
    fs::write(&path, source).unwrap();
    Tokenizer::open(&fixtures().join("tokenizer"), Some(&path)).unwrap()
}

const PRINTS_ALL: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }} \
    {% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content or '' }}\
    {% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}<|im_end|>{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant {% endif %}";
const PRINTS_CONTENT: &str = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content or '' }}<|im_end|>{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant {% endif %}";

fn chat_of(messages: &Value) -> Sample {
    let prompt = serde_json::from_value(messages.clone()).unwrap();
    Sample { prompt, ..sample("", &[], Array2::zeros((0, 0))) }
}

#[test]
fn tools_and_fields_of_turns_reach_the_template() {
    let tokenizer = with_template(PRINTS_ALL);
    let messages = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": null, "reasoning_content": "why", "tool_calls": [{"function": {"name": "get"}}]},
    ]);
    let chat = Sample { tools: Some(json!([{"name": "get"}])), ..chat_of(&messages) };
    let tokenized = one(tokenizer.tokenize(&chat, &TokenizeOptions::default()).unwrap());
    let expected = "[{\"name\": \"get\"}]<|im_start|>user a<|im_end|><|im_start|>assistant {(why)get<|im_end|>}";
    assert_eq!(marked(&tokenizer, &tokenized), expected);

    let rated = Sample { tools: chat.tools, ..sample("q", &["x", "y"], array![[0.5, 0.5]]) };
    let tokenized = one(tokenizer.tokenize(&rated, &TokenizeOptions::default()).unwrap());
    let text = tokenizer.decode(&tokenized.prompt, false).unwrap();
    assert_eq!(text, "[{\"name\": \"get\"}]<|im_start|>user q<|im_end|><|im_start|>assistant ");
}

#[test]
fn what_the_template_does_not_print_is_refused_by_name() {
    let tokenizer = with_template(PRINTS_CONTENT);
    let problem = |sample: &Sample| tokenizer.tokenize(sample, &TokenizeOptions::default()).unwrap_err().to_string();
    let way_out = "name one that does as `data.chat_template`, or remove the field";
    let tools = Some(json!([{"name": "get"}]));
    for sample in [
        Sample { tools: tools.clone(), ..conversation(&[("user", "a"), ("assistant", "b")]) },
        Sample { tools, ..sample("q", &["x", "y"], array![[0.5, 0.5]]) },
    ] {
        assert_eq!(problem(&sample), format!("record 5: the chat template does not print `tools`: {way_out}"));
    }
    for (field, value) in [
        ("reasoning_content", json!("why")),
        ("thinking", json!("why")),
        ("tool_calls", json!([{"function": {"name": "get"}}])),
        ("function_call", json!({"name": "get", "arguments": "{}"})),
    ] {
        let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "", field: value}]);
        let expected = format!("record 5: the chat template does not print `{field}` of turn 2: {way_out}");
        assert_eq!(problem(&chat_of(&messages)), expected);
    }
    let extras = |value: &Value| value.as_object().unwrap().clone();
    let response_extras = vec![extras(&json!({})), extras(&json!({"reasoning_content": "why"}))];
    let answers = Sample { response_extras, ..sample("q", &["x", "x"], array![[1.0, 0.0]]) };
    let expected = format!("record 5: the chat template does not print `reasoning_content` of response 2: {way_out}");
    assert_eq!(problem(&answers), expected);
    let printing = with_template(PRINTS_ALL);
    let tokenized = one(printing.tokenize(&answers, &TokenizeOptions::default()).unwrap());
    let texts: Vec<_> = tokenized.responses.iter().map(|answer| printing.decode(&answer.ids, false).unwrap()).collect();
    assert_eq!(texts, ["x<|im_end|>", "(why)x<|im_end|>"]);
    // Two names for the same thing: one of them is printed.
    let both = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning": "why", "reasoning_content": "why"},
    ]);
    with_template(PRINTS_ALL).tokenize(&chat_of(&both), &TokenizeOptions::default()).unwrap();
}

#[test]
fn a_turn_with_a_weight_of_0_is_no_target() {
    let tokenizer = tokenizer("chatml");
    let messages = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]);
    let tokenized = one(tokenizer.tokenize(&chat_of(&messages), &TokenizeOptions::default()).unwrap());
    let marked = marked(&tokenizer, &tokenized);
    assert_eq!(marked.matches('{').count(), 1, "{marked}");
    assert!(marked.contains("{d") && !marked.contains("{b"), "{marked}");
    let none = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]);
    let tokenized = tokenizer.tokenize(&chat_of(&none), &TokenizeOptions::default()).unwrap();
    assert_eq!((tokenized.samples.len(), tokenized.skipped), (0, vec![Skipped::NoTargetLeft]));
}

#[test]
fn tools_are_rendered_as_by_transformers() {
    let folder = fixtures().join("tools");
    let goldens: Vec<Value> = serde_json::from_str(&fs::read_to_string(folder.join("goldens.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::open(&fixtures().join("tokenizer"), Some(&folder.join("template.jinja"))).unwrap();
    assert_eq!(goldens.len(), 10);
    for golden in goldens {
        let messages: Vec<Message> = serde_json::from_value(golden["messages"].clone()).unwrap();
        let tools = Some(&golden["tools"]).filter(|tools| !tools.is_null());
        let text = tokenizer.render_with_tools(&messages, tools, golden["header"].as_bool().unwrap()).unwrap();
        assert_eq!(json!(text), golden["text"]);
    }
}
