//! Generation: caching, batching and padding do not change the text; λ on the command line and in a chat.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::ops::ControlFlow;
use std::process::Stdio;

use lambda_dpo_host::generate::engine::Engine;
use lambda_dpo_host::generate::request::{Ending, Event, Request, RowId};
use lambda_dpo_host::generate::text::TextStream;
use lambda_dpo_host::generate::{GenerateOptions, Generated, generate, generate_all};
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{Model, ModelInputs};
use lambda_dpo_host::plugin::Plugin;
use lambda_dpo_tests::batches::Rng;
use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::{fixture, plugin_library, program};
use tch::{Device, Kind, Tensor};

const EOS: i64 = 3;

fn options(temperature: f64, top_p: f64) -> GenerateOptions {
    GenerateOptions { max_new_tokens: 24, temperature, top_p, seed: 7, eos_token_ids: vec![EOS] }
}

/// Prompts of 1 to 17 tokens from the demo's vocabulary.
fn prompts() -> Vec<Vec<i64>> {
    (0..9_i64).map(|index| (0..2 * index + 1).map(|at| 5 + (31 * index + 17 * at) % 300).collect()).collect()
}

fn single(model: &Model, prompt: &[i64], options: &GenerateOptions) -> Generated {
    generate(model, prompt, options, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Greedy decoding that recomputes the whole text for each token.
fn without_cache(model: &Model, prompt: &[i64], options: &GenerateOptions) -> Generated {
    let mut ids = prompt.to_vec();
    loop {
        let input_ids = Tensor::from_slice(&ids).unsqueeze(0);
        let position_ids = Tensor::arange(ids.len() as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        let zeros = input_ids.zeros_like();
        let inputs = ModelInputs {
            input_ids: &input_ids,
            position_ids: &position_ids,
            prompt_ids: &zeros,
            sequence_ids: &zeros,
            lambda: None,
        };
        let hidden = model.hidden(&inputs).unwrap().select(1, ids.len() as i64 - 1);
        let logits = tch::no_grad(|| hidden.linear(model.lm_head(), None::<Tensor>));
        let next = logits.argmax(-1, false).int64_value(&[0]);
        if next == EOS {
            return Generated { tokens: ids.split_off(prompt.len()), end_token: Some(EOS) };
        }
        ids.push(next);
        if ids.len() == prompt.len() + options.max_new_tokens {
            return Generated { tokens: ids.split_off(prompt.len()), end_token: None };
        }
    }
}

#[test]
fn caching_batching_and_padding_do_not_change_the_text() {
    let demo = Model::load(&fixture("demo/sft-model"), Libtorch::cpu(), Kind::Float).unwrap();
    // Mistral has sliding windows, Qwen3 normed queries.
    let golden =
        |family: &str| Model::random(&fixture("golden/models").join(family), Libtorch::cpu(), Kind::Float, 3).unwrap();
    for (name, model) in [("demo", demo), ("mistral", golden("mistral")), ("qwen3", golden("qwen3"))] {
        let mut prompts = prompts();
        prompts.iter_mut().flatten().for_each(|id| *id %= model.config().vocab_size);
        let greedy = options(0.0, 1.0);
        let expected: Vec<Generated> = prompts.iter().map(|prompt| without_cache(&model, prompt, &greedy)).collect();
        for (prompt, expected) in prompts.iter().zip(&expected) {
            assert_eq!(single(&model, prompt, &greedy), *expected, "{name}: cached");
        }
        for batch_size in [1, 4, 9] {
            let mut done = Vec::new();
            let texts = generate_all(&model, &prompts, &greedy, batch_size, &mut |texts| done.push(texts)).unwrap();
            assert_eq!(texts, expected, "{name}: {batch_size} at once");
            assert!(done.is_sorted() && done.last() == Some(&9), "{done:?}");
        }
        assert!(name != "demo" || expected.iter().any(|text| text.has_ended()), "{name}: no text ends early");
    }
}

#[test]
fn sampling_repeats_and_does_not_depend_on_the_batch() {
    let model = Model::load(&fixture("demo/sft-model"), Libtorch::cpu(), Kind::Float).unwrap();
    let prompts = prompts();
    for top_p in [1.0, 0.8] {
        let options = options(0.9, top_p);
        let all = |batch_size, options: &GenerateOptions| {
            generate_all(&model, &prompts, options, batch_size, &mut |_| {}).unwrap()
        };
        let texts = all(9, &options);
        assert_eq!(all(1, &options), texts);
        assert_eq!(all(4, &options), texts);
        assert_ne!(all(9, &GenerateOptions { seed: 8, ..options.clone() }), texts);
        assert_eq!(single(&model, &prompts[0], &options), texts[0], "the first prompt draws from the first stream");
    }
}

/// A text in an engine: its tokens and how it ended.
type Text = (Vec<i64>, Option<Ending>);

/// Runs the engine until it is idle and returns the texts in the order of `rows`.
fn run(engine: &mut Engine, rows: &[RowId], events: Vec<(RowId, Event)>) -> Vec<Text> {
    let mut texts: Vec<Text> = vec![(Vec::new(), None); rows.len()];
    let mut take = |(row, event): (RowId, Event)| {
        let text = &mut texts[rows.iter().position(|other| *other == row).unwrap()];
        match event {
            Event::Token(token) => text.0.push(token.id),
            Event::End(ending) => text.1 = Some(ending),
            Event::Prompt(_) => {}
        }
    };
    events.into_iter().for_each(&mut take);
    while !engine.is_idle() {
        engine.step().unwrap().into_iter().for_each(&mut take);
    }
    texts
}

fn request(prompt: &[i64], options: &GenerateOptions) -> Request {
    Request {
        prompt: prompt.to_vec(),
        lambda: None,
        options: options.clone(),
        stream: 0,
        top_log_probs: None,
        prompt_log_probs: false,
    }
}

#[test]
fn texts_that_join_and_leave_do_not_change_the_others() {
    let model = Model::load(&fixture("demo/sft-model"), Libtorch::cpu(), Kind::Float).unwrap();
    let prompts = prompts();
    let options = |index: usize| GenerateOptions {
        max_new_tokens: 3 + 40 * (index % 3),
        seed: index as u64,
        ..options(if index.is_multiple_of(2) { 0.0 } else { 0.8 }, 0.95)
    };
    let requests: Vec<Request> =
        prompts.iter().enumerate().map(|(index, prompt)| request(prompt, &options(index))).collect();
    let alone: Vec<Text> = requests
        .iter()
        .map(|request| {
            let mut engine = Engine::new(&model, 1);
            let row = engine.add(request.clone()).unwrap();
            run(&mut engine, &[row], Vec::new()).remove(0)
        })
        .collect();
    let mut engine = Engine::new(&model, 4);
    let (mut rows, mut events) = (Vec::new(), Vec::new());
    let dropped = engine.add(request(&prompts[8], &options(1))).unwrap();
    for request in &requests {
        rows.push(engine.add(request.clone()).unwrap());
        events.extend(engine.step().unwrap());
    }
    engine.remove(dropped).unwrap();
    events.retain(|(row, _)| *row != dropped);
    assert!(engine.num_running() <= 4 && engine.num_waiting() > 0);
    assert_eq!(run(&mut engine, &rows, events), alone);
    assert_eq!(engine.num_cache_bytes(), 0, "texts that have ended take no memory");
}

#[test]
fn equal_prompts_are_computed_once_and_go_their_own_ways() {
    let model = Model::load(&fixture("demo/sft-model"), Libtorch::cpu(), Kind::Float).unwrap();
    let prompt = prompts().remove(6);
    let options = options(1.0, 1.0);
    let texts = generate_all(&model, &vec![prompt.clone(); 5], &options, 5, &mut |_| {}).unwrap();
    assert_eq!(single(&model, &prompt, &options), texts[0]);
    assert!(texts[1..].iter().any(|text| *text != texts[0]), "each has its own random numbers");
}

#[test]
fn log_probs_are_those_of_the_whole_text() {
    let folder = tempfile::tempdir().unwrap();
    let demo = fixture("demo/sft-model");
    std::fs::copy(demo.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(demo.join("config.json")).unwrap();
    let config = config.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 2048");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let model = Model::load(folder.path(), Libtorch::cpu(), Kind::Float).unwrap();
    // Longer than one pass, so that the prompt is computed in parts.
    let long: Vec<i64> = (0..1500).map(|at| 5 + (at * at) % 300).collect();
    for prompt in [prompts().remove(7), long] {
        let mut engine = Engine::new(&model, 2);
        let options = GenerateOptions { max_new_tokens: 5, eos_token_ids: Vec::new(), ..options(0.7, 0.9) };
        engine.add(request(&prompt[..3], &options)).unwrap();
        let row = engine
            .add(Request { top_log_probs: Some(4), prompt_log_probs: true, ..request(&prompt, &options) })
            .unwrap();
        let (mut ids, mut found) = (prompt.clone(), Vec::new());
        while !engine.is_idle() {
            for (_, event) in engine.step().unwrap().into_iter().filter(|(other, _)| *other == row) {
                match event {
                    Event::Prompt(prompt) => found = prompt,
                    Event::Token(token) => {
                        ids.push(token.id);
                        found.push(token.log_probs);
                    }
                    Event::End(ending) => assert_eq!(ending, Ending::Length),
                }
            }
        }
        assert_eq!((found.len(), ids.len()), (prompt.len() + 5, prompt.len() + 5));
        assert_eq!(found[0], None, "nothing predicts the first token");
        let input_ids = Tensor::from_slice(&ids).unsqueeze(0);
        let zeros = input_ids.zeros_like();
        let inputs = ModelInputs {
            input_ids: &input_ids,
            position_ids: &Tensor::arange(ids.len() as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0),
            prompt_ids: &zeros,
            sequence_ids: &zeros,
            lambda: None,
        };
        let logits = tch::no_grad(|| model.hidden(&inputs).unwrap().linear(model.lm_head(), None::<Tensor>));
        let expected = logits.squeeze_dim(0).log_softmax(-1, Kind::Double);
        for (position, found) in found.iter().enumerate().skip(1) {
            let found = found.as_ref().unwrap();
            let expected = expected.get(position as i64 - 1);
            // Other shapes round otherwise in float32.
            assert!((found.log_prob - expected.double_value(&[ids[position]])).abs() < 1e-4, "{position}");
            assert_eq!(found.top.len(), 4);
            assert!(found.top.is_sorted_by(|left, right| left.1 >= right.1));
            let largest = expected.max().double_value(&[]);
            assert!((found.top[0].1 - largest).abs() < 1e-4);
            for (id, log_prob) in &found.top {
                assert!((log_prob - expected.double_value(&[*id])).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn rows_have_their_own_lambda() {
    let policy = Policy::with_lambda_adapter();
    let mut model = Model::load(policy.text("model").as_ref(), Libtorch::cpu(), Kind::Float).unwrap();
    model.load_adapter(policy.text("adapter").as_ref()).unwrap();
    let prompt = vec![5, 6, 7, 8];
    let greedy = options(0.0, 1.0);
    let one_hot = |dimension: usize| -> Vec<f64> { (0..4).map(|k| f64::from(u8::from(k == dimension))).collect() };
    let missing = Engine::new(&model, 4).add(request(&prompt, &greedy)).unwrap_err().to_string();
    assert!(missing.starts_with("the adapter depends on λ over "), "{missing}");
    let alone: Vec<Text> = (0..4)
        .map(|dimension| {
            model.fix_lambda(&one_hot(dimension)).unwrap();
            let mut engine = Engine::new(&model, 1);
            let row = engine.add(request(&prompt, &greedy)).unwrap();
            run(&mut engine, &[row], Vec::new()).remove(0)
        })
        .collect();
    assert!((1..4).any(|dimension| alone[dimension] != alone[0]), "the texts differ");
    // Theirs, not the one that the model is fixed to.
    let mut engine = Engine::new(&model, 4);
    let rows: Vec<RowId> = (0..4)
        .map(|dimension| engine.add(Request { lambda: Some(one_hot(dimension)), ..request(&prompt, &greedy) }).unwrap())
        .collect();
    assert_eq!(run(&mut engine, &rows, Vec::new()), alone);
    let refused = engine.add(Request { lambda: Some(vec![1.0]), ..request(&prompt, &greedy) }).unwrap_err().to_string();
    assert!(refused.starts_with("λ has 1 weights, but the adapter has 4 dimensions"), "{refused}");
}

#[test]
fn pieces_of_text_join_to_the_whole() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    for folder in ["demo/sft-model", "chat_templates/tokenizer", "words"] {
        let tokenizer = plugin.tokenizer(&fixture(folder), None).unwrap();
        let vocab_size = tokenizer.info().unwrap().vocab_size;
        let mut rng = Rng(7);
        let mut stream = TextStream::new(&tokenizer);
        for length in 0..60 {
            let ids: Vec<i64> = (0..length).map(|_| rng.between(0, vocab_size - 1) as i64).collect();
            let mut joined: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            joined += &stream.finish().unwrap();
            assert_eq!(joined, tokenizer.decode(&ids, true).unwrap(), "{folder}: {ids:?}");
        }
    }
}

#[test]
fn a_character_is_streamed_whole() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let tokenizer = plugin.tokenizer(&fixture("chat_templates/tokenizer"), None).unwrap();
    let ids = tokenizer.encode("🙂 ok").unwrap();
    let mut stream = TextStream::new(&tokenizer);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!((pieces[0].as_str(), pieces.concat().as_str()), ("", "🙂 ok"), "the bytes of 🙂 are in several tokens");
    assert_eq!(stream.push(ids[0]).unwrap() + &stream.finish().unwrap(), "\u{fffd}");
}

#[test]
fn prompts_without_a_token_are_refused() {
    let model = Model::load(&fixture("demo/sft-model"), Libtorch::cpu(), Kind::Float).unwrap();
    let prompts = [vec![5], vec![]];
    let message = generate_all(&model, &prompts, &options(0.0, 1.0), 2, &mut |_| {}).unwrap_err().to_string();
    assert!(message.starts_with("prompt 1: there is no token to continue from"), "{message}");
}

#[test]
fn a_text_ends_where_the_context_ends() {
    let model = Model::load(&fixture("demo/sft-model"), Libtorch::cpu(), Kind::Float).unwrap();
    let context = model.config().max_position_embeddings as usize;
    let prompt = |len: usize| -> Vec<i64> { (0..len as i64).map(|at| 5 + 17 * at % 300).collect() };
    let forever = GenerateOptions { max_new_tokens: 2 * context, eos_token_ids: vec![], ..options(1.0, 1.0) };
    let text = single(&model, &prompt(context - 5), &forever);
    assert_eq!((text.tokens.len(), text.has_ended()), (5, false));
    let prompts = [prompt(3), prompt(context)];
    let message = generate_all(&model, &prompts, &forever, 2, &mut |_| {}).unwrap_err().to_string();
    assert_eq!(
        message,
        "prompt 1: the prompt has 512 tokens, but prompt and answer have at most 512 together, which config.json has as \
         max_position_embeddings: shorten the prompt"
    );

    let policy = Policy::with_lambda_adapter();
    let long = policy.path("long.jsonl");
    std::fs::write(&long, format!("{{\"prompt\": \"Why?\"}}\n{{\"prompt\": \"{}\"}}\n", "x ".repeat(70_000))).unwrap();
    let arguments = ["generate", "--model", &policy.text("model"), "--prompts", long.to_str().unwrap()];
    let refused = policy.refuse(&[&arguments[..], &["--out", &policy.text("answers.jsonl")]].concat());
    assert!(
        refused.starts_with("error: no answers to ") && refused.contains("long.jsonl: prompt 1: the prompt has"),
        "{refused}"
    );
    assert!(!policy.path("answers.jsonl").exists());
}

#[test]
fn lambda_is_chosen_on_the_command_line() {
    let policy = Policy::with_lambda_adapter();
    let (model, adapter) = (policy.text("model"), policy.text("adapter"));
    let own = ["--model", &model, "--adapter", &adapter, "--lambda"];
    let score = |lambda: &str| policy.score(&[&own[..], &[lambda]].concat());
    assert_ne!(score("honesty=1"), score("helpfulness=1"));
    let uniform = "honesty=0.25,helpfulness=0.25,truthfulness=0.25,instruction_following=0.25";
    assert_eq!(score(uniform), policy.score(&own[..4]), "the default weights are equal");
    let refused = |lambda: &str| policy.refuse(&[&["generate"], &own[..], &[lambda, "What?"]].concat());
    assert_eq!(
        refused("honest=1"),
        "error: --lambda: λ names the dimension `honest`, but the adapter has helpfulness, honesty, \
         instruction_following, truthfulness"
    );
    assert_eq!(
        refused("honesty=0.7,helpfulness=0.5"),
        "error: --lambda: the weights of λ sum to 1.2: they must sum to 1 within 0.001"
    );
    let plain = Policy::with_adapter();
    let (model, adapter) = (plain.text("model"), plain.text("adapter"));
    let refused = plain.refuse(&["generate", "--model", &model, "--adapter", &adapter, "--lambda", "a=1", "What?"]);
    assert!(refused.starts_with("error: --lambda needs an adapter of kind \"lambda_lora\", but "), "{refused}");
}

#[test]
fn a_chat_changes_lambda_between_its_turns() {
    let policy = Policy::with_lambda_adapter();
    let chat = |lines: &str| {
        let mut child = program(&policy.path("cache"))
            .args(["generate", "--device", "cpu", "--max-new-tokens", "8"])
            .args(["--model", &policy.text("model"), "--adapter", &policy.text("adapter")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let ask = "Describe the toad.\n";
    let alone = |lambda: &str| chat(&format!("{lambda}\n{ask}")).0;
    let (uniform, corner) = (alone("/lambda"), alone("/lambda honesty=1"));
    assert_ne!(uniform, corner, "the answers do not depend on λ");

    // Decoding is greedy, so an answer depends only on the conversation and λ; a refused λ changes nothing.
    let turns = format!("/lambda\n{ask}/new\n/lambda honesty=1\n{ask}/new\n/lambda honest=1\n/help\n{ask}/quit\n{ask}");
    let (answers, said) = chat(&turns);
    assert_eq!(answers, [uniform, corner.clone(), corner.clone()].concat());
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said[0], "λ: helpfulness=0.25,honesty=0.25,instruction_following=0.25,truthfulness=0.25");
    assert_eq!(said[1], "λ: helpfulness=0,honesty=1,instruction_following=0,truthfulness=0");
    assert!(said[2].starts_with("error: λ names the dimension `honest`"), "{said:?}");
    assert!(said[3].starts_with("/lambda name=w,… sets λ"), "{said:?}");

    // A message that does not fit leaves the conversation as it was.
    let (answers, said) = chat(&format!("/lambda honesty=1\n{}\n{ask}", "x ".repeat(700)));
    assert_eq!(answers, corner);
    assert!(said.contains("max_position_embeddings: shorten the prompt; /new starts a new conversation"), "{said}");
}

#[test]
fn files_of_prompts_are_answered_as_one_by_one() {
    let policy = Policy::with_lambda_adapter();
    let (model, adapter) = (policy.text("model"), policy.text("adapter"));
    let own = ["generate", "--max-new-tokens", "8", "--model", &model, "--adapter", &adapter, "--lambda", "honesty=1"];
    let said = |arguments: &[&str]| -> String {
        let text = String::from_utf8(policy.run(&[&own[..], arguments].concat()).stdout).unwrap();
        text.strip_suffix('\n').unwrap_or_default().to_owned()
    };
    let ask = ["Describe the toad.", "Describe the badger. Use at most 15 words.", "Why?"];
    let prompts = policy.path("prompts.jsonl");
    let lines = ask.map(|text| format!("{{\"prompt\": \"{text}\", \"uid\": \"{}\"}}\n", text.len()));
    std::fs::write(&prompts, lines.concat()).unwrap();
    let out = policy.path("answers.jsonl");
    let (prompts, out) = (prompts.to_str().unwrap(), out.to_str().unwrap());
    said(&["--prompts", prompts, "--out", out]);
    let text = std::fs::read_to_string(out).unwrap();
    let answers: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (text, answer) in ask.iter().zip(&answers) {
        assert_eq!(answer["response"], said(&[text]), "{text}");
        assert_eq!(answer["prompt"], *text);
    }
    let name = "adapter@helpfulness=0,honesty=1,instruction_following=0,truthfulness=0";
    assert_eq!((answers.len(), &answers[0]["model"], &answers[0]["uid"]), (3, &name.into(), &"18".into()));

    // Each turn continues the conversation, as in a chat.
    std::fs::write(prompts, format!("[{{\"question_id\": 7, \"turns\": [\"{}\", \"{}\"]}}]", ask[0], ask[2])).unwrap();
    said(&["--prompts", prompts, "--out", out, "--format", "mt_bench", "--name", "m"]);
    let found: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(out).unwrap()).unwrap();
    assert_eq!((&found["question_id"], &found["model_id"]), (&7.into(), &"m".into()));
    let turns = &found["choices"][0]["turns"];
    assert_eq!(turns[0], answers[0]["response"]);
    let conversation = serde_json::json!([{"messages": [
        {"role": "user", "content": ask[0]}, {"role": "assistant", "content": turns[0]}, {"role": "user", "content": ask[2]}]}]);
    std::fs::write(prompts, conversation.to_string()).unwrap();
    said(&["--prompts", prompts, "--out", out]);
    let found: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(out).unwrap()).unwrap();
    assert_eq!(found["response"], turns[1]);

    let refused = policy.refuse(&[&own[..], &["--prompts", prompts, "--out", out, "--format", "arena_hard"]].concat());
    assert_eq!(refused, "error: prompt 0 has no `uid`, which arena_hard needs");
}
