//! The settings of Hugging Face's libraries in the environment, as these libraries read them.

use std::path::{Path, PathBuf};

/// What the variables say.
pub(super) struct Settings {
    /// The folder of repositories.
    pub(super) cache: PathBuf,
    /// Address of the hub; None means Hugging Face's.
    pub(super) endpoint: Option<String>,
    pub(super) token: Option<String>,
    /// Whether only the cache is used.
    pub(super) offline: bool,
}

/// Reads the variables; `get` returns the value of one.
pub(super) fn read(get: impl Fn(&str) -> Option<String>) -> Settings {
    let variable = |name: &str| get(name).filter(|value| !value.is_empty());
    let path = |name: &str| variable(name).map(|value| expand(&value, &variable));
    let is_on = |name: &str| {
        variable(name).is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
    };
    let home = path("HF_HOME").unwrap_or_else(|| {
        let user_cache = || PathBuf::from(variable("HOME").unwrap_or_default()).join(".cache");
        variable("XDG_CACHE_HOME").map_or_else(user_cache, PathBuf::from).join("huggingface")
    });
    let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
    let explicit = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
    let stored = || if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { read_token(&token_file) };
    Settings {
        cache: path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub")),
        endpoint: variable("HF_ENDPOINT").map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
        token: explicit.or_else(stored).map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
        offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
    }
}

fn read_token(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok()
}

/// Replaces a leading `~`, and `$NAME` and `${NAME}`, by their values; a variable that is not set stays as it is.
fn expand(value: &str, variable: &impl Fn(&str) -> Option<String>) -> PathBuf {
    let home = variable("HOME").unwrap_or_default();
    let mut rest = match value.strip_prefix('~') {
        Some(below) if below.is_empty() || below.starts_with('/') => format!("{home}{below}"),
        _ => value.to_owned(),
    };
    let mut expanded = String::new();
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, end) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                let end = after.find(|letter| !is_name(letter)).unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match variable(name) {
            Some(value) => expanded.push_str(&value),
            None => expanded.push_str(&rest[at..at + 1 + end]),
        }
        rest = after[end..].to_owned();
    }
    expanded.push_str(&rest);
    PathBuf::from(expanded)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn with(variables: &[(&str, &str)]) -> Settings {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        read(get)
    }

    #[test]
    fn the_cache_is_where_hugging_faces_libraries_keep_it() {
        let cases: [(&[(&str, &str)], &str); 7] = [
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "~/hf")], "/h/hf/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "$HOME/${A}/$B"), ("A", "1")], "/h/1/$B/hub"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], "/new"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "")], "/hf/hub"),
        ];
        for (variables, cache) in cases {
            assert_eq!(with(variables).cache, Path::new(cache), "{variables:?}");
        }
    }

    #[test]
    fn tokens_and_switches_have_their_old_names_too() {
        assert_eq!(with(&[("HUGGING_FACE_HUB_TOKEN", "old ")]).token.as_deref(), Some("old"));
        assert_eq!(with(&[("HUGGING_FACE_HUB_TOKEN", "old"), ("HF_TOKEN", "new")]).token.as_deref(), Some("new"));
        assert!(with(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert_eq!(with(&[("HF_ENDPOINT", "https://mirror/")]).endpoint.as_deref(), Some("https://mirror"));
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "stored\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(with(&[("HF_HOME", home)]).token.as_deref(), Some("stored"));
        assert_eq!(with(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
    }
}
