//! The splits of a dataset repository, found as `datasets` finds them, and the choice of one.

use std::collections::BTreeMap;

use super::card;
use crate::files::paths::{is_pattern, matches};

/// Extensions of record files, compressed ones included.
const EXTENSIONS: &[&str] = &["jsonl", "json", "ndjson", "parquet"];
const COMPRESSED: &[&str] = &["gz", "zst"];
/// Files that describe a dataset.
const DESCRIPTIONS: &[&str] = &["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"];
/// Words in names of files and folders that name a split.
const TRAIN_WORDS: &[&str] = &["train", "training"];
const VALIDATION_WORDS: &[&str] = &["validation", "valid", "dev", "val"];
const TEST_WORDS: &[&str] = &["test", "testing", "eval", "evaluation"];
const SEPARATORS: &[char] = &['-', '.', '_', ' ', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'];

/// What the records are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Training, or a command for all records: `train`, if no split is named.
    Train,
    /// Measuring: the only split, if none is named.
    Evaluate,
}

/// One part of a dataset under its own name; most have one.
#[derive(Debug)]
struct Config {
    name: String,
    is_default: bool,
    /// Splits with the names of their record files, sorted.
    splits: Vec<(String, Vec<String>)>,
}

/// Returns the record files that a selector names or, without one, those of the split that is meant.
///
/// # Errors
///
/// Returns the problem as a clause, with the selectors to choose from.
pub(super) fn choose(
    name: &str,
    files: &[String],
    readme: Option<&str>,
    selector: Option<&str>,
    purpose: Use,
) -> Result<Vec<String>, String> {
    let mut records: Vec<String> = files.iter().filter(|file| is_record_file(file)).cloned().collect();
    records.sort();
    if let Some(pattern) = selector.filter(|selector| is_pattern(selector) || selector.contains(['/', '.'])) {
        let found: Vec<String> = records.iter().filter(|file| matches(pattern, file)).cloned().collect();
        return if found.is_empty() {
            Err(format!("no record file matches `{pattern}`; it has {}", list(&records)))
        } else {
            Ok(found)
        };
    }
    if records.is_empty() {
        return Ok(records);
    }
    let configs = configs(&records, readme)?;
    let (config, split) = choose_config(name, &configs, selector)?;
    // A name that needs its configuration is shown with it.
    let prefix = if config.is_default { name.to_owned() } else { format!("{name}:{}", config.name) };
    let splits: Vec<&str> = config.splits.iter().map(|(split, _)| split.as_str()).collect();
    let split = match split {
        Some(split) if splits.contains(&split) => split,
        Some(split) => return Err(format!("it has no split `{split}`; it has {}", list(&splits))),
        None => default_split(&splits, purpose).ok_or_else(|| {
            let trained = splits.iter().find(|split| !is_held_out(split));
            match trained.or(splits.first()) {
                Some(example) => {
                    let splits = list(&splits);
                    format!("it has the splits {splits}: name the one that is meant, as {prefix}:{example}")
                }
                None => format!("its card names no record files; name those that are meant, as {name}:**/*.jsonl"),
            }
        })?,
    };
    let chosen = config.splits.iter().find(|(known, _)| known == split).map(|(_, files)| files.clone());
    let chosen = chosen.unwrap_or_default();
    let mut kinds: Vec<&str> = chosen.iter().filter_map(|file| kind(file)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if let [first, _, ..] = kinds[..] {
        return Err(format!(
            "its split {split} has files in several formats, which may hold the same records: {}; name those that are \
             meant, as {name}:**/*.{first}",
            list(&chosen)
        ));
    }
    Ok(chosen)
}

/// Returns the configuration that a selector names, and the split that it names.
fn choose_config<'a, 's>(
    name: &str,
    configs: &'a [Config],
    selector: Option<&'s str>,
) -> Result<(&'a Config, Option<&'s str>), String> {
    let named = |name: &str| configs.iter().find(|config| config.name == name);
    let default = configs.iter().find(|config| config.is_default);
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    let has = |config: &Config, split: &str| config.splits.iter().any(|(known, _)| known == split);
    match selector.map(|selector| selector.split_once(':').ok_or(selector)) {
        Some(Ok((config, split))) => match named(config) {
            Some(config) => Ok((config, Some(split))),
            None => Err(format!("it has no configuration `{config}`; it has {}", list(&names))),
        },
        Some(Err(one)) => match (default.filter(|default| has(default, one)), named(one), default) {
            (Some(default), _, _) => Ok((default, Some(one))),
            (None, Some(config), _) => Ok((config, None)),
            (None, None, Some(default)) => Ok((default, Some(one))),
            (None, None, None) => Err(format!(
                "it has no configuration `{one}`; it has {}: name one of its splits as {name}:CONFIGURATION:SPLIT",
                list(&names)
            )),
        },
        None => match default {
            Some(default) => Ok((default, None)),
            None => Err(format!(
                "it has the configurations {}: name the one that is meant, as {name}:{}",
                list(&names),
                names.first().copied().unwrap_or("CONFIGURATION")
            )),
        },
    }
}

/// Returns the split that is meant if none is named; None if it cannot be known.
fn default_split<'a>(splits: &[&'a str], purpose: Use) -> Option<&'a str> {
    match (purpose, splits) {
        (Use::Evaluate, [only]) => Some(only),
        (Use::Evaluate, _) => None,
        (Use::Train, _) if splits.contains(&"train") => Some("train"),
        (Use::Train, [only]) if !is_held_out(only) => Some(only),
        (Use::Train, _) => None,
    }
}

/// Whether a split's name says that it is for validation or tests.
fn is_held_out(split: &str) -> bool {
    VALIDATION_WORDS.iter().chain(TEST_WORDS).any(|word| split.split(SEPARATORS).any(|part| part == *word))
}

fn configs(records: &[String], readme: Option<&str>) -> Result<Vec<Config>, String> {
    let described = readme.map(card::configs).transpose().map_err(|problem| {
        format!("the card (README.md) cannot be read: {problem}; name the files that are meant, as NAME:**/*.jsonl")
    })?;
    let described = described.unwrap_or_default();
    if described.is_empty() {
        return Ok(vec![Config { name: "default".into(), is_default: true, splits: splits_by_name(records) }]);
    }
    let is_only = described.len() == 1;
    let read = |config: card::CardConfig| {
        let folder = config.data_dir.as_deref().map(|folder| folder.trim_matches('/').trim_start_matches("./"));
        let below = |file: &String| match folder.filter(|folder| !folder.is_empty()) {
            Some(folder) => file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
            None => true,
        };
        let inside: Vec<String> = records.iter().filter(|file| below(file)).cloned().collect();
        let splits = if config.splits.is_empty() {
            splits_by_name(&inside)
        } else {
            let files = |patterns: &[String]| {
                let full = patterns.iter().map(|pattern| match folder {
                    Some(folder) => format!("{folder}/{pattern}"),
                    None => pattern.clone(),
                });
                let full: Vec<String> = full.collect();
                let matching = inside.iter().filter(|file| full.iter().any(|pattern| matches(pattern, file)));
                matching.cloned().collect::<Vec<_>>()
            };
            let splits = config.splits.iter().map(|(split, patterns)| (split.clone(), files(patterns)));
            splits.filter(|(_, files)| !files.is_empty()).collect()
        };
        let is_default = is_only || config.is_default || config.name == "default";
        Config { name: config.name, is_default, splits }
    };
    Ok(described.into_iter().map(read).collect())
}

/// Finds splits by the names of files and folders: `data/SPLIT-00000-of-00001.*`, else folders, else files named for
/// one. If nothing is named for a split, everything is `train`.
fn splits_by_name(records: &[String]) -> Vec<(String, Vec<String>)> {
    let mut sharded: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in records {
        if let Some(split) = shard_of(file) {
            sharded.entry(split).or_default().push(file.clone());
        }
    }
    if !sharded.is_empty() {
        return in_order(sharded);
    }
    let folders = |file: &str, words: &[&str]| {
        file.rsplit_once('/').is_some_and(|(folders, _)| folders.split('/').any(|folder| has_word(folder, words, true)))
    };
    let names = |file: &str, words: &[&str]| has_word(file.rsplit('/').next().unwrap_or(file), words, false);
    let by_words = |is_named: &dyn Fn(&str, &[&str]) -> bool| {
        let mut splits: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (split, words) in [("train", TRAIN_WORDS), ("validation", VALIDATION_WORDS), ("test", TEST_WORDS)] {
            let files: Vec<String> = records.iter().filter(|file| is_named(file, words)).cloned().collect();
            if !files.is_empty() {
                splits.insert(split, files);
            }
        }
        splits
    };
    for splits in [by_words(&folders), by_words(&names)] {
        if !splits.is_empty() {
            return in_order(splits);
        }
    }
    if records.is_empty() { Vec::new() } else { vec![("train".to_owned(), records.to_vec())] }
}

/// Sorts splits, with the usual three first.
fn in_order(splits: BTreeMap<&str, Vec<String>>) -> Vec<(String, Vec<String>)> {
    let rank = |split: &str| ["train", "validation", "test"].iter().position(|usual| *usual == split).unwrap_or(3);
    let mut splits: Vec<_> = splits.into_iter().map(|(split, files)| (split.to_owned(), files)).collect();
    splits.sort_by_key(|(split, _)| rank(split));
    splits
}

/// Returns the problem with files of which some parts (`…-00000-of-00003.…`) are missing.
pub(super) fn missing_shards(files: &[String]) -> Option<String> {
    let mut found: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for file in files {
        let Some((before, after)) = file.rsplit_once("-of-") else { continue };
        let number = |text: &str| text.len() == 5 && text.bytes().all(|digit| digit.is_ascii_digit());
        let (Some((stem, index)), Some(total)) = (before.rsplit_once('-'), after.get(..5)) else { continue };
        if number(index) && number(total) {
            // A hash may follow the total.
            let kind = after.rsplit_once('.').map_or("", |(_, kind)| kind);
            let entry = found.entry((stem, kind)).or_insert((0, total.parse().unwrap_or(0)));
            entry.0 += 1;
        }
    }
    let ((stem, kind), (present, total)) = found.into_iter().find(|(_, (present, total))| present < total)?;
    Some(format!("the cache has {present} of the {total} files {stem}-…-of-{total:05}.{kind}: download the rest"))
}

/// Returns `train` of `data/train-00000-of-00001.parquet` (or `…-of-00001-0123abcd.parquet`).
fn shard_of(file: &str) -> Option<&str> {
    let (stem, _) = file.strip_prefix("data/").filter(|name| !name.contains('/'))?.split_once('.')?;
    let (before, of) = stem.rsplit_once("-of-")?;
    let (split, index) = before.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|digit| digit.is_ascii_digit());
    (!split.is_empty() && is_number(index) && is_number(of.get(..5)?)).then_some(split)
}

/// Whether a name has one of the words between separators; a folder's may also end with it.
fn has_word(name: &str, words: &[&str], is_folder: bool) -> bool {
    words.iter().any(|word| {
        name.match_indices(word).any(|(at, _)| {
            let starts = at == 0 || name[..at].ends_with(SEPARATORS);
            let rest = &name[at + word.len()..];
            starts && (rest.starts_with(SEPARATORS) || is_folder && rest.is_empty())
        })
    })
}

/// Returns the format of a record file by its extension.
fn kind(file: &str) -> Option<&'static str> {
    let extension = |file: &str| file.rsplit_once('.').map(|(stem, extension)| (stem.to_owned(), extension.to_owned()));
    let (stem, last) = extension(file)?;
    let last = if COMPRESSED.contains(&last.as_str()) { extension(&stem)?.1 } else { last };
    match EXTENSIONS.iter().find(|known| **known == last)? {
        &"parquet" => Some("parquet"),
        _ => Some("json*"),
    }
}

fn is_record_file(file: &str) -> bool {
    let is_hidden = file.split('/').any(|part| part.starts_with('.') || part.starts_with("__"));
    let name = file.rsplit('/').next().unwrap_or(file);
    !is_hidden && !DESCRIPTIONS.contains(&name) && kind(file).is_some()
}

/// Lists names, the first ones if there are many.
fn list<T: AsRef<str>>(names: &[T]) -> String {
    const MOST: usize = 12;
    if names.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<&str> = names.iter().take(MOST).map(AsRef::as_ref).collect();
    let more = if names.len() > MOST { format!(", … ({} in all)", names.len()) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn split(names: &[&str]) -> Vec<(String, Vec<String>)> {
        splits_by_name(&files(names))
    }

    fn chosen(names: &[&str], readme: Option<&str>, selector: Option<&str>) -> Result<Vec<String>, String> {
        choose("o/n", &files(names), readme, selector, Use::Train)
    }

    const BINARIZED: &[&str] = &[
        "README.md",
        "data/test_prefs-00000-of-00001.parquet",
        "data/train_gen-00000-of-00001-6a1b.parquet",
        "data/train_prefs-00000-of-00002.parquet",
        "data/train_prefs-00001-of-00002.parquet",
        "data/train_sft-00000-of-00001.parquet",
    ];

    #[test]
    fn splits_are_found_as_datasets_finds_them() {
        // Checked with get_data_patterns and DataFilesDict of datasets 5.2.0.
        type Splits<'a> = &'a [(&'a str, &'a [&'a str])];
        let cases: &[(&[&str], Splits)] = &[
            (&["a.jsonl", "b.jsonl"], &[("train", &["a.jsonl", "b.jsonl"])]),
            (&["train.jsonl", "test.jsonl", "x.jsonl"], &[("train", &["train.jsonl"]), ("test", &["test.jsonl"])]),
            (&["eval.json", "other.json"], &[("test", &["eval.json"])]),
            (&["my_dev-1.json"], &[("validation", &["my_dev-1.json"])]),
            (&["train/a.json", "valid/b.json"], &[("train", &["train/a.json"]), ("validation", &["valid/b.json"])]),
            (&["training2/a.json"], &[("train", &["training2/a.json"])]),
            (&["trained.json", "contest.json"], &[("train", &["trained.json", "contest.json"])]),
        ];
        for (names, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(split, names)| ((*split).to_owned(), files(names))).collect();
            assert_eq!(split(names), expected, "{names:?}");
        }
        let names: Vec<String> = split(&BINARIZED[1..]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["test_prefs", "train_gen", "train_prefs", "train_sft"]);
    }

    #[test]
    fn several_splits_like_train_are_asked_for() {
        assert_eq!(
            chosen(BINARIZED, None, None).unwrap_err(),
            "it has the splits test_prefs, train_gen, train_prefs, train_sft: name the one that is meant, as o/n:train_gen"
        );
        assert_eq!(chosen(BINARIZED, None, Some("train_prefs")).unwrap(), files(&BINARIZED[3..5]));
        assert_eq!(
            chosen(BINARIZED, None, Some("train")).unwrap_err(),
            "it has no split `train`; it has test_prefs, train_gen, train_prefs, train_sft"
        );
        assert_eq!(chosen(BINARIZED, None, Some("data/train_s*")).unwrap(), files(&BINARIZED[5..]));
    }

    #[test]
    fn held_out_files_are_not_trained_on_by_default() {
        for names in [&["eval.jsonl", "x.jsonl"], &["validation.jsonl", "y.jsonl"], &["test.jsonl", "z.jsonl"]] {
            let problem = chosen(names, None, None).unwrap_err();
            assert!(problem.starts_with("it has the splits "), "{problem}");
        }
        assert_eq!(chosen(&["train.jsonl", "eval.jsonl"], None, None).unwrap(), ["train.jsonl"]);
    }

    #[test]
    fn the_split_to_measure_on_is_the_only_one_or_asked_for() {
        let measured = |names: &[&str]| choose("o/n", &files(names), None, None, Use::Evaluate);
        assert_eq!(measured(&["test.jsonl"]).unwrap(), ["test.jsonl"]);
        measured(&["train.jsonl", "test.jsonl"]).unwrap_err();
    }

    #[test]
    fn the_cards_configurations_decide() {
        let card = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/*.parquet\n  - split: test\n    path: held/*\n- config_name: other\n  data_dir: other\n---\n";
        let names = ["main/a.parquet", "held/b.parquet", "other/train.jsonl", "other/x.csv"];
        let choose = |selector| chosen(&names, Some(card), selector);
        assert_eq!(
            choose(None).unwrap_err(),
            "it has the configurations main, other: name the one that is meant, as o/n:main"
        );
        assert_eq!(choose(Some("main")).unwrap(), ["main/a.parquet"]);
        assert_eq!(choose(Some("main:test")).unwrap(), ["held/b.parquet"]);
        assert_eq!(choose(Some("other")).unwrap(), ["other/train.jsonl"]);
        assert_eq!(choose(Some("main:dev")).unwrap_err(), "it has no split `dev`; it has train, test");
        assert_eq!(choose(Some("no:test")).unwrap_err(), "it has no configuration `no`; it has main, other");
    }

    #[test]
    fn the_same_records_in_two_formats_are_not_read_twice() {
        let problem = chosen(&["train.jsonl", "train.parquet"], None, None).unwrap_err();
        assert!(problem.contains("several formats") && problem.ends_with("as o/n:**/*.json*"), "{problem}");
    }
}
