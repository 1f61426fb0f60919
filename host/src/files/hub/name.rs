//! Names of repositories on the hub: `owner/name`, with a revision (`@main`) and a choice of files (`:train`).

/// Extensions of files that a path, not a name, ends with.
const EXTENSIONS: &[&str] =
    &[".jsonl", ".json", ".ndjson", ".parquet", ".gz", ".zst", ".csv", ".txt", ".arrow", ".toml"];

/// The revision of a name that has none.
pub(super) const MAIN: &str = "main";

/// A repository, with what of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`.
    pub repository: String,
    /// Branch, tag, commit or `refs/…` after `@`.
    pub revision: Option<String>,
    /// What follows `:`: a split, a configuration, `configuration:split`, or a pattern of files.
    pub selector: Option<String>,
}

impl HubName {
    /// Parses `owner/name[@revision][:selector]`; None if the text is not of this form.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(['@', ':']).unwrap_or(text.len());
        let (repository, rest) = text.split_at(end);
        let (owner, name) = repository.split_once('/')?;
        if !is_part(owner) || !is_part(name) || rest.is_empty() && EXTENSIONS.iter().any(|end| name.ends_with(end)) {
            return None;
        }
        let (revision, selector) = match (rest.strip_prefix('@'), rest.strip_prefix(':')) {
            (Some(rest), _) => match rest.split_once(':') {
                Some((revision, selector)) => (Some(revision), Some(selector)),
                None => (Some(rest), None),
            },
            (None, Some(rest)) => match rest.rsplit_once('@') {
                Some((selector, revision)) => (Some(revision), Some(selector)),
                None => (None, Some(rest)),
            },
            (None, None) => (None, None),
        };
        if !revision.is_none_or(is_revision) || selector.is_some_and(str::is_empty) {
            return None;
        }
        Some(Self {
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
            selector: selector.map(str::to_owned),
        })
    }

    /// Returns the revision, by default `main`.
    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }
}

/// Returns true if the text can be the name of a repository: `owner/name`, perhaps with `@revision` and `:split`.
pub fn is_repository_name(text: &str) -> bool {
    HubName::parse(text).is_some()
}

fn is_part(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_alphanumeric())
        && part.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.'))
}

/// Whether a text can be a branch, a tag or a commit. It becomes a path in the cache, so it may not lead out of it.
fn is_revision(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | '+'))
    };
    text.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn names_and_paths_are_distinguished() {
        for name in ["meta-llama/Llama-3.1-8B", "openbmb/UltraFeedback"] {
            assert!(is_repository_name(name), "{name}");
        }
        for path in ["model", "a/b/c", "./a/b", "../b", "/a/b", "data/train.jsonl", "data/x.parquet"] {
            assert!(!is_repository_name(path), "{path}");
        }
    }

    #[test]
    fn a_name_may_have_a_revision_and_a_selector() {
        let parts = |text: &str| {
            let HubName { repository, revision, selector } = HubName::parse(text).unwrap();
            (repository, revision.unwrap_or_default(), selector.unwrap_or_default())
        };
        let of = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(parts("o/n"), of("o/n", "", ""));
        assert_eq!(parts("o/n.v1@refs/pr/3"), of("o/n.v1", "refs/pr/3", ""));
        assert_eq!(parts("o/n:train_prefs"), of("o/n", "", "train_prefs"));
        assert_eq!(parts("o/n@v1.0:main:test"), of("o/n", "v1.0", "main:test"));
        assert_eq!(parts("o/n:data/*.jsonl@0a1b"), of("o/n", "0a1b", "data/*.jsonl"));
    }

    #[test]
    fn what_leads_out_of_the_cache_is_no_name() {
        for text in ["o/n@../../x", "o/n@/etc", "o/n@a//b", "o/n@", "o/n:", "../n", "o/..", "o/n@.", "a/b/c", "C:/x/y"]
        {
            assert_eq!(HubName::parse(text), None, "{text}");
        }
    }
}
