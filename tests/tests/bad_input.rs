//! The exact messages for bad input: one sentence each.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::Path;

use lambda_dpo_tests::skipped;
use lambda_dpo_tests::trainer::{Run, metrics, stderr};
use serde_json::Value;

/// A record of the demo's schema with one dimension; each response comes with the JSON of its rating.
fn record(responses: &[(&str, &str)]) -> String {
    let completions: Vec<String> = responses
        .iter()
        .map(|(text, rating)| format!(r#"{{"response": "{text}", "annotations": {{"honesty": {rating}}}}}"#))
        .collect();
    format!(r#"{{"instruction": "Tell me.", "completions": [{}]}}"#, completions.join(", "))
}

const FOUR: &str = r#"{"Rating": "4"}"#;
const ONE: &str = r#"{"Rating": "1"}"#;

fn with_records(stage: &str, lines: &[String]) -> Run {
    let run = Run::new(stage);
    fs::write(run.path("records.jsonl"), lines.join("\n")).unwrap();
    run
}

/// Trains, which must fail with this message (`{}` is the run's folder) and write no model.
#[track_caller]
fn refuses(run: &Run, overrides: &[&str], message: &str) {
    let output = run.try_train(overrides);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let expected =
        format!("error: {}", message.replace("{}", run.path("").display().to_string().trim_end_matches('/')));
    assert_eq!(text.lines().last().unwrap(), expected);
    assert!(!run.output_dir().join("model").exists());
}

/// Trains a step and returns the line that counts records and samples.
#[track_caller]
fn counts(run: &Run, overrides: &[&str]) -> String {
    let mut all = vec!["train.max_steps=1"];
    all.extend(overrides);
    let output = run.train(&all);
    stderr(&output).lines().find(|line| line.starts_with("data.records: ")).unwrap().to_owned()
}

#[test]
fn files_that_do_not_exist() {
    let output = Run::program(&["train", "no/such/run.toml"]);
    assert_eq!(
        stderr(&output).trim_end(),
        "error: cannot read the run config no/such/run.toml: No such file or directory (os error 2)"
    );
    let run = Run::new("sft");
    let hint = "give a path, or the name of a Hugging Face repository as owner/name";
    refuses(&run, &["data.records=[no/such/file.jsonl]"], &format!("no/such/file.jsonl does not exist: {hint}"));
    refuses(&run, &["model.path=no/such/model"], &format!("no/such/model does not exist: {hint}"));
    fs::remove_file(run.path("records.jsonl")).unwrap();
    refuses(&run, &[], &format!("{{}}/records.jsonl does not exist: {hint}"));
}

#[test]
fn records_that_do_not_parse() {
    let good = record(&[("a", FOUR), ("b", ONE)]);
    let run = with_records("lambda_dpo", &[good.clone(), good.clone(), r#"{"instruction": "#.into(), good.clone()]);
    refuses(
        &run,
        &[],
        "{}/records.jsonl, line 3: not valid JSON: EOF while parsing a value at column 15; in JSON lines each record is \
         on one line",
    );
    let run = with_records("lambda_dpo", &[good, r#"{"instruction": "Tell me."}"#.into()]);
    refuses(
        &run,
        &[],
        "{}/records.jsonl, line 2: `completions` is missing: expected a list of {response, annotations} objects",
    );
}

#[test]
fn missing_ratings_are_counted_by_kind() {
    let kinds = [r#"{"Rating": "N/A"}"#, r#"{"Rating": "nan"}"#, r#"{"Rating": ""}"#, r#"{"Rating": null}"#, "{}"];
    let mut responses = vec![("good", FOUR), ("bad", ONE)];
    responses.extend(kinds.iter().map(|kind| ("unrated", *kind)));
    let run = with_records("lambda_dpo", &[record(&[("a", FOUR), ("b", ONE)]), record(&responses)]);
    assert_eq!(
        counts(&run, &[]),
        "data.records: 2 records; 2 samples; 1 rating missing (N/A, first in record 1); 1 rating missing (absent, first in \
         record 1); 1 rating missing (empty, first in record 1); 1 rating missing (nan, first in record 1); 1 rating \
         missing (null, first in record 1)"
    );
}

#[test]
fn records_with_a_single_response_are_skipped() {
    let single = record(&[("alone", FOUR)]);
    let run = with_records("lambda_dpo", &[single.clone(), record(&[("a", FOUR), ("b", ONE)])]);
    assert_eq!(counts(&run, &[]), "data.records: 2 records; 1 sample; 1 skipped: fewer than two responses");
    let run = with_records("lambda_dpo", &[single]);
    refuses(
        &run,
        &[],
        "no sample is left of data.records (1 record; 0 samples; 1 skipped: fewer than two responses): check data.format, \
         data.dimensions and data.exclude_sources",
    );
}

#[test]
fn an_empty_response_trains() {
    // The response still has its end-of-turn token, and so a log-prob.
    let run = with_records("lambda_dpo", &[record(&[("a", FOUR), ("", ONE)])]);
    assert_eq!(counts(&run, &[]), "data.records: 1 record; 1 sample");
    assert!(metrics(&run.output_dir())[0]["loss"].as_f64().unwrap().is_finite());
}

#[test]
fn long_prompts_are_truncated_and_counted() {
    let long = "word ".repeat(300);
    let text = record(&[("a", FOUR), ("b", ONE)]).replace("Tell me.", long.trim_end());
    let run = with_records("lambda_dpo", &[text, record(&[("a", FOUR), ("b", ONE)])]);
    assert_eq!(counts(&run, &["data.cutoff_len=48"]), "data.records: 2 records; 2 samples; 1 truncated to 48 tokens");
}

#[test]
fn texts_longer_than_the_model_was_made_for_are_reported() {
    let text = record(&[("a", FOUR), (&"word ".repeat(60), ONE)]);
    let run = with_records("lambda_dpo", &[text, record(&[("a", FOUR), ("b", ONE)])]);
    let config = run.path("model/config.json");
    let mut shorter: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    shorter["max_position_embeddings"] = 48.into();
    fs::write(&config, shorter.to_string()).unwrap();
    let notice = "tokens, but the model was made for 48 (max_position_embeddings)";
    let said = stderr(&run.train(&["train.max_steps=1"]));
    assert!(said.contains("data.records: the longest prompt with a response has") && said.contains(notice), "{said}");
    let out = format!("output_dir={}", run.path("cut").display());
    let said = stderr(&run.train(&["train.max_steps=1", "data.cutoff_len=48", &out]));
    assert!(!said.contains("max_position_embeddings"), "{said}");
    let [model, records, out] =
        ["model", "records.jsonl", "scores.jsonl"].map(|name| run.path(name).display().to_string());
    let said = stderr(&Run::program(&["score", "--model", &model, "--records", &records, "--out", &out]));
    assert!(said.contains(notice), "{said}");
}

#[test]
fn unknown_keys_and_bad_weights() {
    let run = Run::new("lambda_dpo");
    refuses(
        &run,
        &["train.learning_rat=1e-3"],
        "override `train.learning_rat=1e-3`: unknown key `train.learning_rat`; did you mean `train.learning_rate`?",
    );
    let fixed = "lambda.schedule=fixed";
    refuses(
        &run,
        &[fixed, "lambda.weights={ honesty = 0.5, helpfulness = 0.4 }"],
        "lambda.weights sum to 0.9, not to 1: change them so that the difference is at most 0.001",
    );
    refuses(
        &run,
        &[fixed, "lambda.weights={ honest = 1.0 }"],
        "lambda.weights names the dimension `honest`, which the records do not have: they have helpfulness, honesty, \
         instruction_following, truthfulness",
    );
}

#[test]
fn models_that_cannot_be_loaded() {
    let run = Run::new("sft");
    let weights = run.path("model/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 100]).unwrap();
    refuses(
        &run,
        &[],
        &format!(
            "{{}}/model/model.safetensors is cut short: it has {} bytes, but its header promises {}; copy or download it \
             again",
            whole.len() - 100,
            whole.len()
        ),
    );

    let run = Run::new("sft");
    fs::remove_file(run.path("model/tokenizer.json")).unwrap();
    refuses(
        &run,
        &[],
        "{}/model: there is no tokenizer.json in this folder; copy the model's, or write one with \
         `AutoTokenizer.from_pretrained(…).save_pretrained(…)`",
    );

    let run = Run::new("sft");
    let config = run.path("model/config.json");
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("LlamaForCausalLM", "GPT2LMHeadModel")
        .replace("\"llama\"", "\"gpt2\"");
    fs::write(&config, text).unwrap();
    refuses(
        &run,
        &[],
        "{}/model/config.json: architecture GPT2LMHeadModel is not supported; supported are LlamaForCausalLM, \
         MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM",
    );
}

#[test]
fn a_generation_config_that_is_damaged() {
    let run = Run::new("sft");
    let (model, file) = (run.path("model"), run.path("model/generation_config.json"));
    let generate = || {
        let model = model.to_str().unwrap();
        let arguments = ["generate", "--device", "cpu", "--raw", "--max-new-tokens", "1", "--model", model, "The"];
        Run::program(&arguments)
    };
    fs::write(&file, "{\"eos_token_id\": [3]}").unwrap();
    assert!(generate().status.success());
    fs::write(&file, "{\"eos_token_id\": [3").unwrap();
    let output = generate();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(
        stderr(&output).lines().last().unwrap(),
        format!(
            "error: {} is not valid JSON: copy or download it again: EOF while parsing a list at line 1 column 19",
            file.display()
        )
    );
}

#[test]
fn a_checkpoint_of_a_number_of_threads_that_cannot_be() {
    let run = Run::new("sft");
    let steps = ["train.max_steps=2", "train.save_steps=1"];
    run.train(&steps);
    for name in ["model", "checkpoint-2"] {
        fs::remove_dir_all(run.output_dir().join(name)).unwrap();
    }
    let state = run.output_dir().join("checkpoint-1/trainer_state.json");
    let text = fs::read_to_string(&state).unwrap();
    let (before, after) = text.split_once("\"num_threads\": ").unwrap();
    let after = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
    for num_threads in ["0", "-1", "2147483647"] {
        fs::write(&state, format!("{before}\"num_threads\": {num_threads}{after}")).unwrap();
        refuses(
            &run,
            &[steps[0], steps[1], "train.resume=auto"],
            &format!(
                "cannot resume from {{}}/run/checkpoint-1: trainer_state.json says that it computed with {num_threads} threads, \
                 so it is damaged; resume from another checkpoint-<step> folder"
            ),
        );
    }
}

#[test]
fn an_adapter_for_another_model() {
    let small = Run::new("sft");
    small.train(&["train.max_steps=1", "adapter.rank=2"]);
    let adapter = small.output_dir().join("adapter");
    let large = lambda_dpo_tests::fixture("golden/models/llama31");
    let other = small.path("other");
    fs::create_dir(&other).unwrap();
    for (from, name) in
        [(&large, "config.json"), (&large, "model.safetensors"), (&small.path("model"), "tokenizer.json")]
    {
        fs::copy(from.join(name), other.join(name)).unwrap();
    }
    let text = |path: &Path| path.display().to_string();
    let output = Run::program(&[
        "generate",
        "--device",
        "cpu",
        "--raw",
        "--model",
        &text(&other),
        "--adapter",
        &text(&adapter),
        "hi",
    ]);
    let message = stderr(&output);
    let expected = format!("error: the adapter {} does not fit the model {}: ", text(&adapter), text(&other));
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn cuda_on_a_machine_without_it() {
    if Path::new("/dev/nvidia0").exists() {
        return skipped("this machine has CUDA");
    }
    let run = Run::new("sft");
    let output = run.try_train(&["model.device=cuda"]);
    let text = stderr(&output);
    assert!(text.starts_with("error: device = \"cuda\" asks for CUDA, but no CUDA device is available ("), "{text}");
    assert!(text.trim_end().ends_with("); use \"cpu\" or \"auto\""), "{text}");
}

#[test]
fn a_loss_that_is_not_a_number() {
    let run = Run::new("lambda_dpo");
    let checkpoint = run.output_dir().join("checkpoint-1");
    let output = run.try_train(&["train.learning_rate=1e30", "train.save_steps=1", "train.max_steps=3"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let message = text.lines().last().unwrap();
    let (start, rest) =
        message.split_once(" is NaN at step 2, so the run stopped before that update; its records were ").unwrap();
    assert!(["error: the loss", "error: the gradient"].contains(&start), "{message}");
    let (records, rest) = rest.split_once("; the last checkpoint is ").unwrap();
    let records: Vec<u64> = records.split(", ").map(|record| record.parse().unwrap()).collect();
    assert_eq!(records.len(), 2, "{message}");
    assert!(records.iter().all(|record| *record < 12), "{message}");
    let way_out = "lower train.learning_rate or check these records";
    assert_eq!(rest, format!("{}; {way_out}", checkpoint.display()));
    assert!(checkpoint.join("trainer_state.json").exists());
    // The failed step has no line.
    assert_eq!(metrics(&run.output_dir()).len(), 1);
}

#[test]
fn a_full_disk_while_saving_leaves_the_last_checkpoint() {
    let run = Run::new("sft");
    run.train(&["train.max_steps=4", "train.save_steps=2"]);
    let dir = run.output_dir();
    for name in ["model", "checkpoint-4"] {
        fs::remove_dir_all(dir.join(name)).unwrap();
    }
    let before = fs::read(dir.join("checkpoint-2/model.safetensors")).unwrap();

    // A limit on file sizes imitates a full disk: both fail in the middle of a write.
    let command = run.command(&["train.max_steps=4", "train.save_steps=2", "train.resume=auto"]);
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let script = format!("trap '' XFSZ; ulimit -f 16; exec {}", words.join(" "));
    let environment = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let output = std::process::Command::new("bash").args(["-c", &script]).envs(environment).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let message = text.lines().last().unwrap();
    assert!(message.starts_with("error: could not write "), "{message}");
    assert!(message.contains("checkpoint-4") && message.contains("the file would exceed the size limit"), "{message}");

    let mut names: Vec<String> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("checkpoint"))
        .collect();
    names.sort();
    assert_eq!(names, ["checkpoint-2"]);
    assert_eq!(fs::read(dir.join("checkpoint-2/model.safetensors")).unwrap(), before);
    // Without the limit the run resumes from it.
    run.train(&["train.max_steps=4", "train.save_steps=2", "train.resume=auto"]);
    assert_eq!(metrics(&dir).len(), 4);
}

/// Runs `convert` on this text. Returns the exit status, the last line of stderr without the folder, and the samples.
fn convert(format: &str, name: &str, contents: &[u8]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let (records, out) = (folder.path().join(name), folder.path().join("out.jsonl"));
    fs::write(&records, contents).unwrap();
    let (records, out) = (records.to_str().unwrap(), out.to_str().unwrap());
    let output = Run::program(&["convert", "--format", format, "--records", records, "--out", out]);
    let text = stderr(&output).replace(&format!("{}/", folder.path().display()), "");
    let last = text.lines().last().unwrap_or_default().to_owned();
    (output.status.code(), last, fs::read_to_string(out).unwrap_or_default())
}

#[test]
fn a_system_column_becomes_a_turn() {
    let record = br#"{"system": "S", "prompt": "Q", "chosen": "a", "rejected": "b"}"#;
    let (code, _, samples) = convert("pairs", "x.jsonl", record);
    assert_eq!(code, Some(0));
    assert!(
        samples.starts_with(r#"{"prompt":[{"role":"system","content":"S"},{"role":"user","content":"Q"}],"#),
        "{samples}"
    );
}

#[test]
fn tools_that_the_template_does_not_print_are_refused() {
    let record = br#"{"conversations":[{"from":"human","value":"Q"}],"chosen":{"from":"gpt","value":"a"},"rejected":{"from":"gpt","value":"b"},"tools":"[{\"name\": \"get\", \"parameters\": {}}]"}"#;
    let (code, _, samples) = convert("pairs", "x.jsonl", record);
    assert_eq!(code, Some(0));
    assert!(samples.contains(r#""tools":[{"name":"get","parameters":{}}]"#), "{samples}");
    let run = with_records("dpo", &[String::from_utf8(record.to_vec()).unwrap()]);
    refuses(
        &run,
        &["data.format=pairs"],
        "{}/records.jsonl, line 1: the chat template does not print `tools`: name one that does as `data.chat_template`, \
         or remove the field",
    );
}

#[test]
fn what_python_writes_is_read_or_named() {
    let record = |rating: &str| record(&[("a", &format!(r#"{{"Rating": {rating}}}"#)), ("b", "2"), ("c", "3")]);
    let (code, last, samples) = convert("ultrafeedback", "x.jsonl", record("NaN").as_bytes());
    assert_eq!((code, samples.lines().count()), (Some(0), 1));
    assert_eq!(last, "out.jsonl: 1 record; 1 sample; 1 rating missing (nan, first in record 0)");
    let (code, last, _) = convert("ultrafeedback", "x.jsonl", record("Infinity").as_bytes());
    assert_eq!(code, Some(1));
    assert!(
        last.starts_with("error: x.jsonl, line 1: `completions[0].annotations.honesty.Rating` is Infinity"),
        "{last}"
    );
    let lone = record("1").replace("Tell", "\\ud83d");
    let (code, last, _) = convert("ultrafeedback", "x.jsonl", lone.as_bytes());
    assert_eq!(code, Some(1));
    assert!(last.starts_with("error: x.jsonl, line 1: not valid JSON: `\\ud83d` is a lone surrogate"), "{last}");
}

#[test]
fn fields_without_effect_are_reported() {
    let record = br#"{"id": 1, "prompt": "Q", "chosen": "a", "rejected": "b", "score": 0.5}"#;
    let (code, last, _) = convert("pairs", "x.jsonl", record);
    assert_eq!((code, last.as_str()), (Some(0), "out.jsonl: 1 record; 1 sample; fields without effect: id, score"));
}

#[test]
fn a_pattern_names_record_files() {
    let run = Run::new("sft");
    let folder = run.path("records.jsonl").parent().unwrap().display().to_string();
    let lines = counts(&run, &[&format!("data.records=[{folder}/rec*.jsonl]")]);
    assert!(lines.starts_with("data.records: "), "{lines}");
    refuses(
        &Run::new("sft"),
        &["data.records=[no/*.jsonl]"],
        "no/*.jsonl matches no file: `*`, `?`, `[…]` and `**` stand for names of files and folders",
    );
}
