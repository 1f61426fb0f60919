//! Names of runs and rows: folder names, shortened to what tells them apart.

use std::path::Path;

/// What may stand between the parts of a name.
const SEPARATORS: &[char] = &['-', '_', '.', ' ', '/'];

/// Returns a name for each folder: its path without the folders that all have in common, at the start and at the end.
pub(super) fn of_folders(folders: &[&Path]) -> Vec<String> {
    let parts: Vec<Vec<String>> = folders.iter().map(|folder| parts_of(folder)).collect();
    if let [only] = parts.as_slice() {
        return vec![only.last().cloned().unwrap_or_default()];
    }
    let head = num_common(&parts, |parts, index| parts.get(index));
    let tail = num_common(&parts, |parts, index| parts.len().checked_sub(index + 1).and_then(|place| parts.get(place)));
    let name = |parts: &Vec<String>| {
        // The last folder's name at least, also where one path holds another.
        let from = head.min(parts.len().saturating_sub(1));
        let to = parts.len().saturating_sub(tail).max(from + 1).min(parts.len());
        parts[from..to].join("/")
    };
    parts.iter().map(name).collect()
}

/// Returns the names of the folders on the way to a folder. An evaluation inside of a run has the name of the run.
fn parts_of(folder: &Path) -> Vec<String> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let mut parts: Vec<String> =
        folder.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if parts.len() > 2 && parts.last().is_some_and(|last| last == "evaluation") {
        parts.pop();
    }
    parts
}

/// Returns how many parts all paths share, as `part` counts them.
fn num_common<'a>(paths: &'a [Vec<String>], part: impl Fn(&'a [String], usize) -> Option<&'a String>) -> usize {
    let [first, others @ ..] = paths else { return 0 };
    (0..first.len()).take_while(|&index| others.iter().all(|other| part(other, index) == part(first, index))).count()
}

/// Returns what the names of the runs of a row have in common: `listwise` for `listwise-1` and `listwise-2`.
pub(super) fn common(names: &[&str]) -> String {
    let [first, others @ ..] = names else { return String::new() };
    if others.is_empty() {
        return (*first).to_owned();
    }
    let letters: Vec<Vec<char>> = names.iter().map(|name| name.chars().collect()).collect();
    let shortest = letters.iter().map(Vec::len).min().unwrap_or(0);
    let same = |place: &dyn Fn(&[char]) -> char| letters.iter().all(|other| place(other) == place(&letters[0]));
    let head = (0..shortest).take_while(|&index| same(&|letters| letters[index])).count();
    let tail = (0..shortest - head).take_while(|&index| same(&|letters| letters[letters.len() - 1 - index])).count();
    let start: String = letters[0][..head].iter().collect();
    let end: String = letters[0][letters[0].len() - tail..].iter().collect();
    // Seeds 10 and 11 share a digit, which is no part of the name.
    let start = start.trim_end_matches(|letter: char| {
        letter.is_ascii_digit() && letters.iter().all(|all| all.get(head).is_none_or(char::is_ascii_digit))
    });
    let end = end.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let start = start.trim_end_matches(SEPARATORS);
    let start = start.strip_suffix("seed").unwrap_or(start).trim_end_matches(SEPARATORS);
    let end = end.trim_start_matches(SEPARATORS);
    match (start, end) {
        ("", "") => (*first).to_owned(),
        ("", only) | (only, "") => only.to_owned(),
        (start, end) => format!("{start}/{end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortened(folders: &[&str]) -> Vec<String> {
        of_folders(&folders.iter().map(|folder| Path::new(*folder)).collect::<Vec<_>>())
    }

    #[test]
    fn folders_are_named_by_what_tells_them_apart() {
        assert_eq!(shortened(&["/r/study/a-1", "/r/study/b-1"]), ["a-1", "b-1"]);
        assert_eq!(shortened(&["/r/base/dpo/run", "/r/tuned/dpo/run"]), ["base", "tuned"]);
        assert_eq!(shortened(&["/r/base/dpo", "/r/tuned/ipo"]), ["base/dpo", "tuned/ipo"]);
        assert_eq!(shortened(&["/r/a/evaluation", "/r/b"]), ["a", "b"]);
        // A path that holds another, and one alone.
        assert_eq!(shortened(&["/r/a", "/r/a/b"]), ["a", "b"]);
        assert_eq!(shortened(&["/r/a/b/evaluation"]), ["b"]);
    }

    #[test]
    fn rows_are_named_by_what_their_runs_share() {
        let cases: [(&[&str], &str); 8] = [
            (&["listwise-1", "listwise-2"], "listwise"),
            (&["listwise-10", "listwise-11"], "listwise"),
            (&["sigmoid2-1", "sigmoid2-2"], "sigmoid2"),
            (&["uniform_seed1", "uniform_seed22"], "uniform"),
            (&["seed-1/uniform", "seed-2/uniform"], "uniform"),
            (&["dpo/seed1/base", "dpo/seed2/base"], "dpo/base"),
            (&["1", "2"], "1"),
            (&["alone-7"], "alone-7"),
        ];
        for (names, name) in cases {
            assert_eq!(common(names), name, "{names:?}");
        }
    }
}
