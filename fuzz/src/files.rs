//! Files that calls of the table may open.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::handles::Choice;

/// The files, made when they are first needed.
pub static FILES: LazyLock<Files> = LazyLock::new(Files::make);

/// Records, a tokenizer, and a folder that calls may write to.
pub struct Files {
    /// Two files of records, the tokenizer and the folder.
    paths: [String; 4],
    cache: String,
    /// Exists as long as this.
    _folder: TempDir,
}

impl Files {
    #[expect(clippy::expect_used, reason = "a target cannot go on without its files")]
    fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fixtures = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures"));
        let records = std::fs::read_to_string(fixtures.join("demo/records.jsonl")).expect("the demo's records");
        let few: Vec<&str> = records.lines().take(3).collect();
        let path = folder.path().join("few.jsonl");
        std::fs::write(&path, few.join("\n")).expect("a temporary file");
        let utf8 = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let paths =
            [path.as_path(), &fixtures.join("tables/few.parquet"), &fixtures.join("words"), folder.path()].map(utf8);
        Self { paths, cache: utf8(&folder.path().join("cache")), _folder: folder }
    }

    /// A file or folder, whatever it holds.
    #[must_use]
    pub fn any(&self, choice: Choice) -> &str {
        &self.paths[usize::from(choice) % self.paths.len()]
    }

    /// A file of records.
    #[must_use]
    pub fn records(&self, choice: Choice) -> &str {
        self.any(choice % 2)
    }

    /// The folder of a tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &str {
        self.any(2)
    }

    /// The folder of the caches of datasets.
    #[must_use]
    pub fn cache(&self) -> &str {
        &self.cache
    }
}
