//! The `configs` of a dataset card: which files of the repository belong to which configuration and split.
//!
//! A card is a README.md that starts with YAML. Of YAML, this reads what cards are written in: indented maps and lists,
//! plain and quoted text, and `[a, b]`. Anything else in `configs` is an error, never a guess.

/// A configuration of a card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CardConfig {
    pub(super) name: String,
    pub(super) is_default: bool,
    /// Folder that patterns are relative to.
    pub(super) data_dir: Option<String>,
    /// Splits with their patterns; empty if the card leaves the splits to the names of the files.
    pub(super) splits: Vec<(String, Vec<String>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Yaml {
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

/// Returns the configurations of a card; none if it names none.
///
/// # Errors
///
/// Returns the problem as a clause if `configs` is not understood.
pub(super) fn configs(card: &str) -> Result<Vec<CardConfig>, String> {
    let mut lines = card.trim_start_matches('\u{feff}').lines().map(str::trim_end);
    if lines.next() != Some("---") {
        return Ok(Vec::new());
    }
    let head: Vec<&str> = lines.take_while(|line| *line != "---").collect();
    let Some(start) = head.iter().position(|line| line.starts_with("configs:")) else { return Ok(Vec::new()) };
    let is_inside = |line: &&&str| line.is_empty() || line.starts_with([' ', '-', '#']);
    let end = start + 1 + head[start + 1..].iter().take_while(is_inside).count();
    let mut lines = Vec::new();
    for line in &head[start..end] {
        let text = line.trim_start();
        if text.contains('\t') {
            return Err(format!("the line {text:?} has a tab"));
        }
        if !text.is_empty() && !text.starts_with('#') {
            lines.push((line.len() - text.len(), text.to_owned()));
        }
    }
    let mut parser = Parser { lines, at: 0 };
    let Yaml::Map(mut top) = parser.block(0)? else { return Err("`configs` is no list".into()) };
    match top.pop() {
        Some((_, Yaml::List(configs))) => configs.into_iter().map(config).collect(),
        _ => Err("`configs` is no list".into()),
    }
}

fn config(yaml: Yaml) -> Result<CardConfig, String> {
    let Yaml::Map(entries) = yaml else { return Err("an entry of `configs` is no map".into()) };
    let mut config = CardConfig::default();
    for (key, value) in entries {
        match (key.as_str(), value) {
            ("config_name", Yaml::Text(name)) => config.name = name,
            ("default", Yaml::Text(value)) => config.is_default = value == "true",
            ("data_dir", Yaml::Text(folder)) => config.data_dir = Some(folder),
            ("data_files", value) => config.splits = data_files(value)?,
            _ => {}
        }
    }
    if config.name.is_empty() {
        "default".clone_into(&mut config.name);
    }
    Ok(config)
}

/// Reads the forms of `data_files`: patterns of `train`, a map of splits, or a list of {split, path}.
fn data_files(yaml: Yaml) -> Result<Vec<(String, Vec<String>)>, String> {
    let misshapen = || "`data_files` is neither patterns nor splits with patterns".to_owned();
    let patterns = |yaml: Yaml| match yaml {
        Yaml::Text(pattern) => Ok(vec![pattern]),
        Yaml::List(items) => items
            .into_iter()
            .map(|item| match item {
                Yaml::Text(pattern) => Ok(pattern),
                _ => Err(misshapen()),
            })
            .collect(),
        Yaml::Map(_) => Err(misshapen()),
    };
    match yaml {
        Yaml::Map(splits) => splits.into_iter().map(|(split, yaml)| Ok((split, patterns(yaml)?))).collect(),
        Yaml::List(items) if items.iter().any(|item| matches!(item, Yaml::Map(_))) => items
            .into_iter()
            .map(|item| {
                let Yaml::Map(entries) = item else { return Err(misshapen()) };
                let (mut split, mut path) = (None, None);
                for (key, value) in entries {
                    match (key.as_str(), value) {
                        ("split", Yaml::Text(name)) => split = Some(name),
                        ("path", value) => path = Some(patterns(value)?),
                        _ => return Err(misshapen()),
                    }
                }
                split.zip(path).ok_or_else(misshapen)
            })
            .collect(),
        other => Ok(vec![("train".to_owned(), patterns(other)?)]),
    }
}

/// Lines with their indentation, without blank ones and comments.
struct Parser {
    lines: Vec<(usize, String)>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<(usize, &str)> {
        self.lines.get(self.at).map(|(indent, text)| (*indent, text.as_str()))
    }

    /// Parses the list or map whose lines have this indentation.
    fn block(&mut self, indent: usize) -> Result<Yaml, String> {
        match self.peek() {
            Some((_, text)) if is_item(text) => self.list(indent),
            Some((_, text)) if key_of(text).is_none() => {
                let text = text.to_owned();
                self.at += 1;
                scalar(&text)
            }
            _ => self.map(indent),
        }
    }

    fn list(&mut self, indent: usize) -> Result<Yaml, String> {
        let mut items = Vec::new();
        while let Some((at, text)) = self.peek() {
            if at != indent || !is_item(text) {
                break;
            }
            let rest = text[1..].trim_start();
            let inner = indent + text.len() - rest.len();
            if rest.is_empty() {
                self.at += 1;
                items.push(self.below(indent, false)?);
            } else {
                self.lines[self.at] = (inner, rest.to_owned());
                items.push(self.block(inner)?);
            }
        }
        self.check_end(indent)?;
        Ok(Yaml::List(items))
    }

    fn map(&mut self, indent: usize) -> Result<Yaml, String> {
        let mut entries = Vec::new();
        while let Some((at, text)) = self.peek() {
            if at != indent || is_item(text) {
                break;
            }
            let Some((key, value)) = key_of(text) else { return Err(format!("the line {text:?} is no `key: value`")) };
            let (key, value) = (key.to_owned(), value.to_owned());
            self.at += 1;
            let value = if value.is_empty() { self.below(indent, true)? } else { scalar(&value)? };
            entries.push((key, value));
        }
        self.check_end(indent)?;
        Ok(Yaml::Map(entries))
    }

    /// Parses the value on the lines below; a list in a map may have the indentation of its key.
    fn below(&mut self, indent: usize, in_map: bool) -> Result<Yaml, String> {
        match self.peek() {
            Some((inner, _)) if inner > indent => self.block(inner),
            Some((inner, text)) if in_map && inner == indent && is_item(text) => self.list(inner),
            _ => Ok(Yaml::Text(String::new())),
        }
    }

    fn check_end(&self, indent: usize) -> Result<(), String> {
        match self.peek() {
            Some((at, text)) if at > indent => Err(format!("the line {text:?} is indented in a way that is not read")),
            _ => Ok(()),
        }
    }
}

fn is_item(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}

fn key_of(text: &str) -> Option<(&str, &str)> {
    let (key, value) = match text.strip_suffix(':') {
        Some(key) if !key.contains(": ") => (key, ""),
        _ => text.split_once(": ")?,
    };
    Some((key.trim().trim_matches(['"', '\'']), value.trim()))
}

fn scalar(text: &str) -> Result<Yaml, String> {
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            let Some((inner, after)) = rest.split_once(quote) else { return Err(format!("{text} lacks a quote")) };
            if inner.contains('\\') || !(after.is_empty() || after.trim_start().starts_with('#')) {
                return Err(format!("{text} is written in a way that is not read"));
            }
            return Ok(Yaml::Text(inner.to_owned()));
        }
    }
    let text = text.split(" #").next().unwrap_or(text).trim_end();
    if let Some(inner) = text.strip_prefix('[') {
        let Some(items) = inner.strip_suffix(']') else { return Err(format!("{text} does not end on its line")) };
        if items.contains(['[', '{', '"']) && items.contains(['[', '{']) {
            return Err(format!("{text} is written in a way that is not read"));
        }
        let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
        return Ok(Yaml::List(items.map(scalar).collect::<Result<_, _>>()?));
    }
    if text.starts_with(['{', '|', '>', '&', '!', '%', '@', '`']) || text.starts_with('*') && !text.contains(['.', '/'])
    {
        return Err(format!("{text} is written in a way that is not read"));
    }
    Ok(Yaml::Text(text.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn splits(of: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        let owned = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        of.iter().map(|(split, patterns)| ((*split).to_owned(), owned(patterns))).collect()
    }

    #[test]
    fn a_card_names_the_files_of_each_split() {
        let card = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n  - split: test\n    path:\n    - \"a.jsonl\"  # held out\n    - b.jsonl\ntags:\n- x\n---\n# Title\n";
        let config = CardConfig {
            name: "default".into(),
            splits: splits(&[("train", &["data/train-*"]), ("test", &["a.jsonl", "b.jsonl"])]),
            ..CardConfig::default()
        };
        assert_eq!(configs(card).unwrap(), [config]);
    }

    #[test]
    fn every_form_of_data_files_is_read() {
        let card = "---\nconfigs:\n  - config_name: a\n    default: true\n    data_files: \"*.json\"\n  - config_name: b\n    data_dir: sub\n  - config_name: c\n    data_files:\n      train: [x.json, 'y.json']\n      test: z.json\n  -\n    config_name: d\n    data_files:\n    - 1.json\n    - 2.json\n---\n";
        let found = configs(card).unwrap();
        assert_eq!(found[0].splits, splits(&[("train", &["*.json"])]));
        assert!(found[0].is_default && !found[1].is_default);
        assert_eq!((found[1].data_dir.as_deref(), found[1].splits.len()), (Some("sub"), 0));
        assert_eq!(found[2].splits, splits(&[("train", &["x.json", "y.json"]), ("test", &["z.json"])]));
        assert_eq!(found[3].splits, splits(&[("train", &["1.json", "2.json"])]));
    }

    #[test]
    fn what_is_not_understood_is_no_guess() {
        for text in ["# no card", "---\nlicense: mit\n---\n", ""] {
            assert_eq!(configs(text).unwrap(), []);
        }
        for text in ["configs: &x\n- a: 1", "configs:\n- config_name: a\n  data_files: {train: x}", "configs:\n- a\n"] {
            configs(&format!("---\n{text}\n---\n")).unwrap_err();
        }
    }
}
