#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use super::*;
use crate::{ErrorKind, Format, Layout};

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tokenizer(template: &str) -> Tokenizer {
    let folder = workspace().join("fixtures/chat_templates");
    Tokenizer::open(&folder.join("tokenizer"), Some(&folder.join(format!("templates/{template}.jinja")))).unwrap()
}

fn open(path: &Path, tokenizer: &Tokenizer, format: Format, cutoff_len: Option<usize>) -> Result<Dataset> {
    let options = TokenizeOptions { cutoff_len, keep_all: false };
    let mut go_on = |_, _| ControlFlow::Continue(());
    Dataset::open(&[path.to_owned()], tokenizer, &ConvertOptions::new(format), &options, &mut go_on)
}

fn write(lines: &[String]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    (folder, path)
}

fn pair(prompt: &str) -> String {
    format!(r#"{{"prompt":"{prompt}","chosen":"yes","rejected":"no"}}"#)
}

#[test]
fn samples_keep_the_order_of_the_inputs() {
    let lines: Vec<String> = (0..600).map(|i| pair(&format!("question {i}"))).collect();
    let (_folder, path) = write(&lines);
    let tokenizer = tokenizer("chatml");
    let mut calls = Vec::new();
    let mut progress = |done, total| {
        calls.push((done, total));
        ControlFlow::Continue(())
    };
    let (convert, tokenize) = (ConvertOptions::new(Format::Pairs), TokenizeOptions::default());
    let dataset = Dataset::open(&[path], &tokenizer, &convert, &tokenize, &mut progress).unwrap();
    assert_eq!(calls, [(256, 0), (512, 0), (600, 0)]);
    assert_eq!((dataset.len(), dataset.is_empty(), dataset.report().num_samples), (600, false, 600));
    assert_eq!(dataset.dimensions(), ["preference"]);
    for (i, info) in dataset.samples().into_iter().enumerate() {
        let sample = dataset.sample(i).unwrap();
        assert!(tokenizer.decode(&sample.prompt, true).unwrap().contains(&format!("question {i}\n")));
        assert_eq!((info.record_index, info.num_responses, info.num_tokens), (i as u64, 2, sample.num_tokens()));
    }
    assert_eq!(dataset.sample(600).unwrap_err().to_string(), "index 600 is out of range: the dataset has 600 samples");
}

#[test]
fn batches_are_collated() {
    let (_folder, path) = write(&[pair("a"), pair("b b b")]);
    let dataset = open(&path, &tokenizer("chatml"), Format::Pairs, None).unwrap();
    let options = CollateOptions { layout: Layout::Rows, max_tokens: None, pad_to_multiple_of: 8, pad_token_id: 2 };
    let batch = dataset.batch(&[1, 0], &[1.0, 1.0], &options).unwrap();
    assert_eq!(batch.input_ids.size()[0], 4);
    let error = dataset.batch(&[2], &[1.0], &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn an_empty_dataset_is_one() {
    let (_folder, path) = write(&[]);
    assert!(open(&path, &tokenizer("chatml"), Format::UltraFeedback, None).unwrap().is_empty());
}

#[test]
fn a_template_that_refuses_a_record_is_told_with_its_line() {
    let turns = |roles: &[&str]| {
        let turns: Vec<String> = roles.iter().map(|role| format!(r#"{{"role":"{role}","content":"x"}}"#)).collect();
        format!(r#"{{"messages":[{}]}}"#, turns.join(","))
    };
    let (_folder, path) = write(&[turns(&["user", "assistant"]), String::new(), turns(&["user", "user", "assistant"])]);
    let error = open(&path, &tokenizer("mistral"), Format::Chat, None).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}, line 3: the chat template (", path.display())), "{error}");
    assert!(error.ends_with(") refuses this conversation: Turns of user and assistant must alternate"), "{error}");
}

#[test]
fn the_caller_can_stop() {
    let (_folder, path) = write(&[pair("a")]);
    let (convert, tokenize) = (ConvertOptions::new(Format::Pairs), TokenizeOptions::default());
    let mut stop = |_, _| ControlFlow::Break(());
    let error = Dataset::open(&[path], &tokenizer("chatml"), &convert, &tokenize, &mut stop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn real_data_is_tokenised() {
    let data = workspace().join("../shared/data");
    if !data.exists() {
        return;
    }
    let qwen = Tokenizer::open(&data.join("qwen2_tokenizer"), None).unwrap();
    let stories = Tokenizer::open(&data.join("stories260k"), None).unwrap();
    assert_eq!((stories.info().vocab_size, stories.info().bos_token_id), (512, Some(1)));
    for tokenizer in [&qwen, &stories] {
        let pairs = open(&data.join("ultrafeedback_pairs.jsonl"), tokenizer, Format::Pairs, Some(512)).unwrap();
        assert_eq!(pairs.len(), 500);
        assert!(pairs.report().num_truncated > 0);
        assert!(
            pairs
                .samples
                .iter()
                .all(|s| s.prompt.len() + s.responses.iter().map(|r| r.ids.len()).max().unwrap() <= 512)
        );

        let chats = open(&data.join("ultrachat_sample.jsonl"), tokenizer, Format::Chat, None).unwrap();
        assert_eq!((chats.len(), chats.report().num_records), (20, 20));
        let rated = open(&data.join("topical_chat.jsonl"), tokenizer, Format::UltraFeedback, Some(512)).unwrap();
        assert_eq!(rated.dimensions().len(), 5);
        assert!(rated.samples.iter().all(|s| s.pi_target.dim() == (5, 6)));
    }
}
