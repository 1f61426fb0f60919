//! Paths as people write them: `~` for the home folder, and `*`, `?`, `[…]` and `**` for several files.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Returns the path with a leading `~` replaced by the home folder; one without a home folder stays as it is.
pub fn expand_home(path: &Path) -> PathBuf {
    expand_home_of(path, std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from))
}

fn expand_home_of(path: &Path, home: Option<PathBuf>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) if rest.as_os_str().is_empty() => home,
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_path_buf(),
    }
}

/// Returns a name for the policy in a folder, or on the hub: that of the folder; for the folders `adapter` and `model` of a
/// run, that of the run.
pub fn policy_name(path: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let own = name(path).unwrap_or_else(|| path.display().to_string());
    let run = if own == "adapter" || own == "model" { path.parent().and_then(name) } else { None };
    run.unwrap_or(own)
}

/// Whether the text has a character that stands for several names.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Returns the files whose paths match a pattern, sorted. As in a shell, hidden files match only a pattern that names
/// the dot.
///
/// # Errors
///
/// Returns an error if a folder cannot be listed.
pub fn expand_pattern(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let text = component.as_os_str().to_string_lossy();
        let mut next = Vec::new();
        for folder in found {
            match component {
                Component::Normal(_) if text == "**" => descend(&folder, &mut next)?,
                Component::Normal(_) if is_pattern(&text) => {
                    for name in names(&folder)? {
                        if matches_name(&text, &name) {
                            next.push(folder.join(name));
                        }
                    }
                }
                _ => next.push(folder.join(component)),
            }
        }
        found = next;
    }
    found.retain(|path| path.is_file());
    found.sort();
    found.dedup();
    Ok(found)
}

/// Adds a folder, and all below it with their files; links to folders are not followed.
fn descend(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    found.push(folder.to_path_buf());
    for name in names(folder)?.into_iter().filter(|name| !name.starts_with('.')) {
        let path = folder.join(name);
        if path.is_dir() && !path.is_symlink() {
            descend(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Returns the names in a folder, sorted; none if it is no folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Whether a path, with `/` between its parts, matches a pattern: `**` matches any number of parts.
pub fn matches(pattern: &str, path: &str) -> bool {
    fn from(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => {
                // A last `**` matches files at any depth, but not nothing.
                let least = usize::from(rest.is_empty());
                (least..=path.len()).any(|taken| from(rest, &path[taken..]))
            }
            (Some((part, rest)), Some((name, below))) => matches_name(part, name) && from(rest, below),
            _ => false,
        }
    }
    from(&parts(pattern), &parts(path))
}

fn parts(text: &str) -> Vec<&str> {
    text.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

/// Whether a name matches a pattern without `/`.
fn matches_name(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // The last `*`, and how much of the name it has taken.
    let (mut star, mut taken) = (None, 0);
    let (mut p, mut n) = (0, 0);
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some(p);
            taken = n;
            p += 1;
        } else if let Some(next) = matches_char(&pattern, p, name[n]) {
            p = next;
            n += 1;
        } else if let Some(at) = star {
            taken += 1;
            p = at + 1;
            n = taken;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&rest| rest == '*')
}

/// Returns where the pattern goes on if its element at `at` matches the character.
fn matches_char(pattern: &[char], at: usize, character: char) -> Option<usize> {
    match pattern.get(at)? {
        '?' => Some(at + 1),
        '[' => {
            let negated = matches!(pattern.get(at + 1), Some('!' | '^'));
            let first = at + 1 + usize::from(negated);
            // A `]` at the start is one of the characters.
            let end = (first + 1..pattern.len()).find(|&end| pattern[end] == ']');
            let Some(end) = end else { return (character == '[').then_some(at + 1) };
            let (mut i, mut listed) = (first, false);
            while i < end {
                let is_range = i + 2 < end && pattern[i + 1] == '-';
                let last = if is_range { pattern[i + 2] } else { pattern[i] };
                listed |= (pattern[i]..=last).contains(&character);
                i += if is_range { 3 } else { 1 };
            }
            (listed != negated).then_some(end + 1)
        }
        &literal => (literal == character).then_some(at + 1),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_policy_has_the_name_of_its_folder_or_run() {
        let cases = [
            ("runs/listwise-1/adapter", "listwise-1"),
            ("runs/sft/model/", "sft"),
            ("models/Llama-3.1-8B", "Llama-3.1-8B"),
            ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
            ("adapter", "adapter"),
            ("/", "/"),
        ];
        for (path, name) in cases {
            assert_eq!(policy_name(Path::new(path)), name);
        }
    }

    #[test]
    fn a_tilde_is_the_home_folder() {
        let expand = |path: &str| expand_home_of(Path::new(path), Some(PathBuf::from("/home/me")));
        assert_eq!(expand("~"), Path::new("/home/me"));
        assert_eq!(expand("~/data/a.jsonl"), Path::new("/home/me/data/a.jsonl"));
        assert_eq!(expand("a/~/b"), Path::new("a/~/b"));
        assert_eq!(expand("~other/b"), Path::new("~other/b"));
        assert_eq!(expand_home_of(Path::new("~/a"), None), Path::new("~/a"));
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        let matching = [
            ("data/train-*", "data/train-00000-of-00001.parquet"),
            ("./data/*.jsonl", "data/a.jsonl"),
            ("**", "a/b/c.json"),
            ("**/*.json", "c.json"),
            ("**/*.json", "a/b/c.json"),
            ("a/**", "a/b/c.json"),
            ("x[0-9].json", "x7.json"),
            ("x[!0-9].json", "xa.json"),
            ("x?.json", "xé.json"),
            ("*a*b*", "xaxbxb"),
            ("[", "["),
        ];
        for (pattern, path) in matching {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        let different = [
            ("data/*", "data/a/b"),
            ("*.json", "a/c.json"),
            ("x[0-9].json", "xa.json"),
            ("*", ".hidden"),
            ("a/**", "a"),
            ("*a*b", "xaxbx"),
        ];
        for (pattern, path) in different {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_finds_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("b/c")).unwrap();
        for file in ["z.jsonl", "a.jsonl", ".h.jsonl", "x.txt", "b/1.jsonl", "b/c/2.jsonl"] {
            fs::write(folder.path().join(file), "").unwrap();
        }
        let found = |pattern: &str| {
            let found = expand_pattern(&folder.path().join(pattern)).unwrap();
            let names = found.iter().map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(found("*.jsonl"), ["a.jsonl", "z.jsonl"]);
        assert_eq!(found("**/*.jsonl"), ["a.jsonl", "b/1.jsonl", "b/c/2.jsonl", "z.jsonl"]);
        assert_eq!(found("?/*"), ["b/1.jsonl"]);
        assert!(found("no/*").is_empty());
    }
}
