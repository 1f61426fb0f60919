//! Completions: text and token ids, lists of them, echo, and the log-probs that lm-eval reads.

use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::server::Server;
use serde_json::{Value, json};

use super::alone::{Alone, GREEDY, field, lambda};

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn prompts_are_continued_one_or_many() {
    let policy = Policy::with_lambda_adapter();
    let (alone, server) = (Alone::new(&policy), Server::with_lambda(&policy, &[]));
    let prompts = ["The toad", "What is", "Otters"];
    let ids: Vec<Vec<i64>> = prompts.iter().map(|prompt| alone.text_ids(prompt)).collect();
    let body = |prompt: Value| json!({ "model": "m", "prompt": prompt, "temperature": 0, "lambda": field(lambda(1)) });
    // 16 tokens, if a request does not say.
    let expected: Vec<_> = ids.iter().map(|ids| alone.answer(ids, lambda(1), GREEDY, 16, &[])).collect();
    for (prompt, answer) in [(json!(prompts), "list of texts"), (json!(ids), "list of token ids")] {
        let found = server.ask(COMPLETIONS, &body(prompt));
        assert_eq!(found["object"], "text_completion", "{answer}");
        for (index, expected) in expected.iter().enumerate() {
            let choice = &found["choices"][index];
            assert_eq!((&choice["index"], &choice["text"]), (&json!(index), &json!(expected.text)), "{answer}");
            assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!(expected.finish_reason), &Value::Null));
        }
        let num_prompt: usize = ids.iter().map(Vec::len).sum();
        let num_answer: usize = expected.iter().map(|expected| expected.num_tokens).sum();
        assert_eq!(
            (&found["usage"]["prompt_tokens"], &found["usage"]["completion_tokens"]),
            (&json!(num_prompt), &json!(num_answer))
        );
    }
    for prompt in [json!(prompts[0]), json!(ids[0])] {
        assert_eq!(server.ask(COMPLETIONS, &body(prompt))["choices"][0]["text"], expected[0].text);
    }
    // The command line continues the same tokens.
    let (model, adapter) = (policy.text("model"), policy.text("adapter"));
    let text = policy.run(&[
        "generate",
        "--raw",
        "--device",
        "cpu",
        "--model",
        &model,
        "--adapter",
        &adapter,
        "--max-new-tokens",
        "16",
        "The toad",
    ]);
    let answer = server.ask(COMPLETIONS, &json!({ "prompt": "The toad", "temperature": 0 }));
    assert_eq!(String::from_utf8(text.stdout).unwrap().strip_suffix('\n'), answer["choices"][0]["text"].as_str());

    // Choices of a prompt follow each other, and a prompt in a list is answered as it is alone.
    let sampled =
        |prompt: Value| server.ask(COMPLETIONS, &json!({ "prompt": prompt, "n": 2, "seed": 5, "temperature": 1 }));
    let all = sampled(json!(prompts));
    for (index, prompt) in prompts.iter().enumerate() {
        let one = sampled(json!(prompt));
        for choice in 0..2 {
            assert_eq!(all["choices"][2 * index + choice]["text"], one["choices"][choice]["text"]);
        }
    }
    // Streamed, each part is a choice of its own; the parts of a text join to it.
    let streamed = json!({ "prompt": prompts, "n": 2, "seed": 5, "temperature": 1, "stream": true });
    let mut texts = vec![String::new(); 6];
    for event in server.post(COMPLETIONS, &streamed).events() {
        let choice = &event["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    let whole: Vec<&str> =
        all["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, whole);
}

#[test]
fn echo_gives_the_prompts_own_log_probs_as_lm_eval_reads_them() {
    let policy = Policy::with_lambda_adapter();
    let (alone, server) = (Alone::new(&policy), Server::with_lambda(&policy, &[]));
    // The second prompt's most probable continuation is the end token, which must be listed like any other.
    let ended = alone.chat_ids("Describe the toad.");
    let whole = alone.answer(&ended, lambda(3), GREEDY, 32, &[]);
    assert_eq!(whole.finish_reason, "stop", "choose a λ at which the model ends its text: {whole:?}");
    let ended: Vec<i64> = ended.into_iter().chain(alone.tokenizer.encode(&whole.text).unwrap()).collect();
    let prompts = [alone.text_ids("The toad is a small animal"), ended];
    // What lm-eval 0.4.13 sends for a log-likelihood.
    let body = json!({
        "model": "m", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true,
        "lambda": field(lambda(3)),
    });
    let answer = server.ask(COMPLETIONS, &body);
    for (index, ids) in prompts.iter().enumerate() {
        let choice = &answer["choices"][index];
        let listed = |name: &str| choice["logprobs"][name].as_array().unwrap().clone();
        let (scores, top, tokens, offsets) =
            (listed("token_logprobs"), listed("top_logprobs"), listed("tokens"), listed("text_offset"));
        let num_tokens = ids.len() + 1;
        assert_eq!(
            [scores.len(), top.len(), tokens.len(), offsets.len()],
            [num_tokens; 4],
            "lm-eval drops exactly one token"
        );
        assert_eq!((&scores[0], &top[0]), (&Value::Null, &Value::Null));
        let log_probs = alone.log_probs(ids, lambda(3));
        for at in 1..=ids.len() {
            let row = log_probs.get(at as i64 - 1);
            let best = row.argmax(0, false).int64_value(&[]);
            let id = ids.get(at).copied().unwrap_or(best);
            let score = scores[at].as_f64().unwrap();
            assert!((score - row.double_value(&[id])).abs() < 1e-4, "{index}, {at}: {score}");
            // lm-eval takes a token for greedy if its log-prob is the largest that is listed.
            let largest = top[at].as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
            assert_eq!(score == largest, id == best, "{index}, {at}: {score} of {}", top[at]);
        }
        let text = choice["text"].as_str().unwrap();
        let prompt = alone.tokenizer.decode(ids, true).unwrap();
        assert!(text.starts_with(&prompt), "{text}");
        // Offsets count characters, rise, and point at the tokens.
        let offsets: Vec<usize> = offsets.iter().map(|offset| offset.as_u64().unwrap() as usize).collect();
        assert!(offsets.is_sorted());
        for (offset, token) in
            offsets.iter().zip(&tokens).filter(|(_, token)| !token.as_str().unwrap().starts_with("<|"))
        {
            let rest: String = text.chars().skip(*offset).collect();
            let token = token.as_str().unwrap();
            assert!(
                rest.starts_with(token.trim_start()) || rest.starts_with(token),
                "{token:?} at {offset} of {text:?}"
            );
        }
    }
    // The prompt alone, with its log-probs and without; streamed, the prompt is a part of the first event.
    let only =
        json!({ "prompt": prompts[0], "max_tokens": 0, "logprobs": 0, "echo": true, "lambda": field(lambda(3)) });
    let alone_scores = server.ask(COMPLETIONS, &only);
    let choice = &alone_scores["choices"][0];
    let scores = choice["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!((scores.len(), &choice["finish_reason"]), (prompts[0].len(), &json!("length")));
    for (short, long) in
        scores.iter().zip(answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap()).skip(1)
    {
        assert!((short.as_f64().unwrap() - long.as_f64().unwrap()).abs() < 1e-4);
    }
    let echoed =
        server.ask(COMPLETIONS, &json!({ "prompt": "The toad", "max_tokens": 4, "echo": true, "temperature": 0 }));
    let plain = server.ask(COMPLETIONS, &json!({ "prompt": "The toad", "max_tokens": 4, "temperature": 0 }));
    let text = format!("The toad{}", plain["choices"][0]["text"].as_str().unwrap());
    assert_eq!(echoed["choices"][0]["text"], text);
    let streamed = json!({ "prompt": "The toad", "max_tokens": 4, "echo": true, "temperature": 0, "stream": true });
    let events = server.post(COMPLETIONS, &streamed).events();
    let parts: Vec<&str> = events.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert!(parts.len() > 1 && parts[0].starts_with("The toad"), "{parts:?}");
    assert_eq!(parts.concat(), text);
}
