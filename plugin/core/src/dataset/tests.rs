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
    let options = DatasetOptions {
        tokenize: TokenizeOptions { cutoff_len, keep_all: false },
        ..options(format, TokenFolder::Scratch(std::env::temp_dir()))
    };
    let mut go_on = |_, _| ControlFlow::Continue(());
    Dataset::open(&[path.to_owned()], tokenizer, &options, &mut go_on)
}

fn options(format: Format, tokens: TokenFolder) -> DatasetOptions {
    DatasetOptions { convert: ConvertOptions::new(format), tokenize: TokenizeOptions::default(), tokens }
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
    let options = options(Format::Pairs, TokenFolder::Scratch(std::env::temp_dir()));
    let dataset = Dataset::open(&[path], &tokenizer, &options, &mut progress).unwrap();
    assert_eq!(calls, [(256, 0), (512, 0), (600, 0)]);
    assert_eq!((dataset.len(), dataset.is_empty(), dataset.report().num_samples), (600, false, 600));
    assert_eq!(dataset.dimensions(), ["preference"]);
    for (i, info) in dataset.samples().enumerate() {
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
fn a_dataset_may_be_empty() {
    let (_folder, path) = write(&[]);
    assert!(open(&path, &tokenizer("chatml"), Format::UltraFeedback, None).unwrap().is_empty());
}

#[test]
fn a_record_that_the_template_rejects_is_named_with_its_line() {
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
    let options = options(Format::Pairs, TokenFolder::Scratch(std::env::temp_dir()));
    let mut stop = |_, _| ControlFlow::Break(());
    let error = Dataset::open(&[path], &tokenizer("chatml"), &options, &mut stop).unwrap_err();
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
        let longest = |s: TokenizedSample| s.prompt.len() + s.responses.iter().map(|r| r.ids.len()).max().unwrap();
        assert!((0..pairs.len()).all(|i| longest(pairs.sample(i).unwrap()) <= 512));

        let chats = open(&data.join("ultrachat_sample.jsonl"), tokenizer, Format::Chat, None).unwrap();
        assert_eq!((chats.len(), chats.report().num_records), (20, 20));
        let rated = open(&data.join("topical_chat.jsonl"), tokenizer, Format::UltraFeedback, Some(512)).unwrap();
        assert_eq!(rated.dimensions().len(), 5);
        assert!((0..rated.len()).all(|i| rated.sample(i).unwrap().pi_target.dim() == (5, 6)));
    }
}

/// A folder with a record file, a tokenizer, and a cache.
struct Cached {
    folder: tempfile::TempDir,
    options: DatasetOptions,
    template: &'static str,
}

impl Cached {
    fn new(lines: &[String]) -> Self {
        let (folder, _) = write(lines);
        let cache = folder.path().join("cache");
        Self { folder, options: options(Format::Pairs, TokenFolder::Cache(cache)), template: "chatml" }
    }

    fn try_open(&self) -> Result<Dataset> {
        let mut go_on = |_, _| ControlFlow::Continue(());
        Dataset::open(&[self.folder.path().join("x.jsonl")], &tokenizer(self.template), &self.options, &mut go_on)
    }

    /// Opens the dataset and checks its samples against those of an opening without a cache.
    fn open(&self) -> Dataset {
        let dataset = self.try_open().unwrap();
        let uncached = Self {
            folder: tempfile::tempdir().unwrap(),
            options: DatasetOptions { tokens: TokenFolder::Scratch(std::env::temp_dir()), ..self.options.clone() },
            template: self.template,
        };
        fs::copy(self.folder.path().join("x.jsonl"), uncached.folder.path().join("x.jsonl")).unwrap();
        let expected = uncached.try_open().unwrap();
        assert_eq!(dataset.samples().collect::<Vec<_>>(), expected.samples().collect::<Vec<_>>());
        assert_eq!((dataset.report(), dataset.dimensions()), (expected.report(), expected.dimensions()));
        assert_eq!((dataset.hash(), expected.cache()), (expected.hash(), None));
        for i in 0..dataset.len() {
            assert_eq!(format!("{:?}", dataset.sample(i).unwrap()), format!("{:?}", expected.sample(i).unwrap()));
        }
        dataset
    }

    fn was_read(&self) -> bool {
        self.open().cache().unwrap().was_read
    }

    /// Everything in the cache but its lock.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("cache")).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| !path.ends_with(".lock"));
        files.sort();
        files
    }
}

#[test]
fn a_cache_serves_only_the_same_records_and_options() {
    let mut cached = Cached::new(&[pair("a"), pair("b b b"), r#"{"prompt":"c","chosen":"","rejected":"no"}"#.into()]);
    assert!(!cached.was_read());
    assert!(cached.was_read());
    // Names and times are not part of the key.
    let path = cached.folder.path().join("x.jsonl");
    let text = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, &text).unwrap();
    assert!(cached.was_read());
    assert_eq!(cached.files().len(), 1);

    fs::write(&path, [&text[..], b"\n"].concat()).unwrap();
    assert!(!cached.was_read());
    fs::write(&path, &text).unwrap();
    assert!(cached.was_read());

    cached.template = "mistral";
    assert!(!cached.was_read());
    cached.template = "chatml";
    let changes: [fn(&mut DatasetOptions); 6] = [
        |options| options.tokenize.cutoff_len = Some(12),
        |options| options.tokenize.cutoff_len = Some(13),
        |options| options.tokenize.keep_all = true,
        |options| options.convert.keep_all = true,
        |options| options.convert.max_samples = Some(2),
        |options| options.convert.temperature = 2.0,
    ];
    let original = cached.options.clone();
    for (i, change) in changes.into_iter().enumerate() {
        change(&mut cached.options);
        assert!(!cached.was_read(), "change {i}");
        assert!(cached.was_read(), "change {i}");
        cached.options = original.clone();
    }
    assert!(cached.was_read());
}

#[test]
fn the_places_of_responses_are_kept_in_a_cache() {
    let record = |ranks: &str| {
        format!(r#"{{"prompt":"q","responses":["a","b","c"],"rankings":{{"h":{ranks},"i":[null,1,2]}}}}"#)
    };
    let mut cached = Cached::new(&[record("[2,1,2]"), record("[1,2,3]"), record("null")]);
    cached.options.convert = ConvertOptions::new(Format::Rankings);
    assert!(!cached.was_read());
    let dataset = cached.open();
    assert!(dataset.cache().unwrap().was_read);
    let ranks = |index| dataset.sample(index).unwrap().ranks.into_raw_vec_and_offset().0;
    assert_eq!([ranks(0), ranks(1), ranks(2)], [[2, 1, 2, 0, 1, 2], [1, 2, 3, 0, 1, 2], [0, 0, 0, 0, 1, 2]]);
}

#[test]
fn the_content_hash_is_that_of_the_tokens() {
    let hashes = |lines: &[String], cutoff_len| {
        let (_folder, path) = write(lines);
        let dataset = open(&path, &tokenizer("chatml"), Format::Pairs, cutoff_len).unwrap();
        dataset.samples().map(|info| info.content_hash).collect::<Vec<_>>()
    };
    let all = hashes(&[pair("a"), pair("b"), pair("a")], None);
    assert!(all[0] == all[2] && all[0] != all[1]);
    assert_eq!(hashes(&[pair("b"), pair("a")], Some(1000)), [all[1], all[0]]);
    let reordered = r#"{"chosen":"no","rejected":"yes","prompt":"a"}"#;
    assert_ne!(hashes(&[reordered.into()], None)[0], all[0]);
}

#[test]
fn a_damaged_file_is_replaced() {
    let cached = Cached::new(&[pair("a"), pair("b b b")]);
    cached.open();
    let [path] = &cached.files()[..] else { panic!("{:?}", cached.files()) };
    let whole = fs::read(path).unwrap();
    for (at, expected) in
        [(0, "checksum"), (30, "checksum"), (whole.len() - 50, "checksum"), (whole.len() - 1, "checksum")]
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
        let damage = cached.open().cache().unwrap().damage.clone().unwrap();
        assert_eq!(damage, format!("its {expected} is wrong"));
        assert!(fs::read(path).unwrap() == whole);
    }
    for len in [0, 10, whole.len() - 1] {
        fs::write(path, &whole[..len]).unwrap();
        assert!(cached.open().cache().unwrap().damage.is_some());
        assert!(fs::read(path).unwrap() == whole);
    }
    // A file of other records under the name of this one.
    let other = Cached::new(&[pair("c")]);
    other.open();
    fs::copy(&other.files()[0], path).unwrap();
    let damage = cached.open().cache().unwrap().damage.clone().unwrap();
    assert_eq!(damage, "it belongs to other records or options than its name says");
    assert!(cached.was_read());
}

#[test]
fn nothing_is_left_half_written() {
    let cached = Cached::new(&[pair("a"), "not JSON".into()]);
    assert_eq!(cached.try_open().unwrap_err().kind(), ErrorKind::InvalidData);
    assert!(cached.files().is_empty(), "{:?}", cached.files());
    // The file of a killed process is removed; that of a running one is not.
    let cache = cached.folder.path().join("cache");
    fs::write(cache.join(".partial-dead"), "x").unwrap();
    let living = fs::File::create(cache.join(".partial-living")).unwrap();
    living.lock().unwrap();
    cached.try_open().unwrap_err();
    assert_eq!(cached.files(), [cache.join(".partial-living")]);
    // Neither of them when the samples are there already, because another process wrote them.
    let cached = Cached::new(&[pair("a")]);
    cached.open();
    let cache = cached.folder.path().join("cache");
    fs::write(cache.join(".partial-dead"), "x").unwrap();
    let living = fs::File::create(cache.join(".partial-living")).unwrap();
    living.lock().unwrap();
    assert!(cached.was_read());
    let left = cached.files();
    assert!(left.len() == 2 && !left.contains(&cache.join(".partial-dead")), "{left:?}");

    let folder = fs::create_dir(cached.folder.path().join("x")).map(|()| cached.folder.path().join("x")).unwrap();
    let mut go_on = |_, _| ControlFlow::Continue(());
    let error = Dataset::open(&[folder], &tokenizer("chatml"), &cached.options, &mut go_on).unwrap_err().to_string();
    assert!(error.ends_with(": this is a folder; name the record files in it"), "{error}");

    let mut cached = Cached::new(&[pair("a")]);
    let file = cached.folder.path().join("file");
    fs::write(&file, "").unwrap();
    cached.options.tokens = TokenFolder::Cache(file.clone());
    let error = cached.try_open().unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot be written: ", file.display())), "{error}");
    assert!(error.ends_with("; make room there, or choose another cache folder"), "{error}");
}

#[test]
fn concurrent_openings_share_a_cache() {
    let cached = Cached::new(&(0..300).map(|i| pair(&format!("q{i}"))).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        let openings: Vec<_> = (0..4).map(|_| scope.spawn(|| cached.try_open().map(|dataset| dataset.len()))).collect();
        for opening in openings {
            assert_eq!(opening.join().unwrap().unwrap(), 300);
        }
    });
    assert!(cached.was_read());
    assert_eq!(cached.files().len(), 1);
}

#[test]
fn prefetched_batches_are_the_same() {
    let (_folder, path) = write(&(0..200).map(|i| pair(&"a ".repeat(i + 1))).collect::<Vec<_>>());
    let dataset = open(&path, &tokenizer("chatml"), Format::Pairs, None).unwrap();
    let options = CollateOptions { layout: Layout::Packed, max_tokens: None, pad_to_multiple_of: 8, pad_token_id: 2 };
    let expected: Vec<Batch> = (0..100).map(|i| dataset.batch(&[i, 2 * i], &[1.0; 2], &options).unwrap()).collect();
    // More batches than are held, some twice, and an invalid one.
    for i in (0..100).chain(90..100) {
        dataset.prefetch(&[i, 2 * i], &[1.0; 2], &options).unwrap();
    }
    dataset.prefetch(&[1000], &[1.0], &options).unwrap();
    for (i, expected) in expected.iter().enumerate() {
        let batch = dataset.batch(&[i, 2 * i], &[1.0; 2], &options).unwrap();
        assert_eq!((&batch.input_ids, &batch.lambda), (&expected.input_ids, &expected.lambda));
        assert_eq!((&batch.target_ids, &batch.record_indices), (&expected.target_ids, &expected.record_indices));
    }
    let error = dataset.batch(&[1000], &[1.0], &options).unwrap_err().to_string();
    assert_eq!(error, "index 1000 is out of range: the dataset has 200 samples");
    // Another λ or layout means another batch.
    dataset.prefetch(&[0], &[1.0], &options).unwrap();
    assert_eq!(dataset.batch(&[0], &[0.5], &options).unwrap().input_ids.size()[0], 1);
    let rows = CollateOptions { layout: Layout::Rows, ..options };
    assert_eq!(dataset.batch(&[0], &[1.0], &rows).unwrap().input_ids.size()[0], 2);
    // Unused batches do not outlive the dataset.
    for i in 0..60 {
        dataset.prefetch(&[i], &[1.0], &options).unwrap();
    }
    let samples = Arc::downgrade(&dataset.samples);
    drop(dataset);
    assert!(samples.upgrade().is_none(), "the thread that collates has ended with the dataset");
}
