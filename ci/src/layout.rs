//! The layout of the ABI, measured and kept: `schemas/abi-<revision>.json` holds offset, size and type of every field and
//! the value of every constant, `schemas/lambda_dpo-<revision>.h` the header that goes with it.
//!
//! The files of a released revision are frozen: later ones must keep all that is in them and may only add at the ends of
//! structs. A revision is released with the version whose section of CHANGELOG.md names it; until that section loses its
//! "(unreleased)", its files follow the code.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lambda_dpo_abi::{ABI_MAJOR, ABI_MINOR};
use serde_json::{Map, Value, json};

use crate::header;

/// What `build.rs` found in plugin/abi.
mod table {
    #![allow(unused_imports, clippy::cast_lossless, clippy::unnecessary_cast, reason = "generated")]

    use core::ffi::{c_char, c_int, c_void};

    use lambda_dpo_abi::*;

    /// A struct under its name in C.
    pub struct Struct {
        pub name: &'static str,
        pub size: usize,
        pub fields: &'static [Field],
    }

    pub struct Field {
        pub name: &'static str,
        /// As plugin/abi writes it.
        pub r#type: &'static str,
        pub offset: usize,
        pub size: usize,
    }

    pub enum Constant {
        Integer(i64),
        Text(&'static str),
    }

    include!(concat!(env!("OUT_DIR"), "/layout_table.rs"));
}

/// The CHANGELOG's word for a version that is not tagged yet.
const UNRELEASED: &str = "(unreleased)";

/// Writes layout and header of the current revision; refuses to change a frozen one.
pub fn write(root: &Path) -> Result<()> {
    check_rules()?;
    let files = [(layout_path(root, ABI_MINOR), measured()?), (header_copy(root, ABI_MINOR), header::generate(root)?)];
    for (path, text) in files {
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        if committed == text {
            continue;
        }
        ensure!(committed.is_empty() || !is_frozen(root)?, frozen(&path));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Fails if the committed files are not what [`write()`] would write, or if a frozen revision is not kept.
pub fn check(root: &Path) -> Result<()> {
    check_rules()?;
    let read =
        |path: &Path| std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()));
    for minor in std::iter::successors(ABI_MINOR.checked_sub(1), |minor| minor.checked_sub(1)) {
        let path = layout_path(root, minor);
        let old: Value = serde_json::from_str(&read(&path)?).with_context(|| path.display().to_string())?;
        let broken = broken_promises(&old, &layout());
        ensure!(broken.is_empty(), "{} is not kept:\n  {}", path.display(), broken.join("\n  "));
    }
    let files = [(layout_path(root, ABI_MINOR), measured()?), (header_copy(root, ABI_MINOR), header::generate(root)?)];
    for (path, text) in files {
        if read(&path)? != text {
            ensure!(!is_frozen(root)?, frozen(&path));
            bail!("{} is not what plugin/abi gives: run `make generate` and commit the result", path.display());
        }
    }
    Ok(())
}

fn frozen(path: &Path) -> String {
    format!(
        "{} belongs to a released revision, which cannot change: raise ABI_MINOR in plugin/abi/src/values.rs, put what is \
         new at the ends of structs, and run `make generate`",
        path.display()
    )
}

/// Whether the version that brought the current revision is released.
fn is_frozen(root: &Path) -> Result<bool> {
    let path = root.join("CHANGELOG.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    is_released(&text, &format!("revision {ABI_MAJOR}.{ABI_MINOR}"))
}

/// Whether the first section that names the revision (the last in the text) is a released version's.
fn is_released(changelog: &str, revision: &str) -> Result<bool> {
    let section = changelog.split("\n## ").skip(1).filter(|section| section.contains(revision)).last();
    let section = section.with_context(|| format!("CHANGELOG.md does not say which version brings {revision}"))?;
    Ok(!section.lines().next().unwrap_or_default().ends_with(UNRELEASED))
}

fn layout_path(root: &Path, minor: u32) -> PathBuf {
    root.join(format!("schemas/abi-{ABI_MAJOR}.{minor}.json"))
}

fn header_copy(root: &Path, minor: u32) -> PathBuf {
    root.join(format!("schemas/lambda_dpo-{ABI_MAJOR}.{minor}.h"))
}

/// The layout as JSON, one line for each field and constant.
fn measured() -> Result<String> {
    let layout = layout();
    let lines = |value: &Value, indent: &str| -> Result<String> {
        let entries = value.as_object().context("the layout holds objects only")?;
        let line = |(name, value): (&String, &Value)| Ok(format!("{indent}{}: {value}", json!(name)));
        Ok(entries.iter().map(line).collect::<Result<Vec<_>>>()?.join(",\n"))
    };
    let mut structs = Vec::new();
    for (name, item) in layout["structs"].as_object().context("the layout has structs")? {
        let fields = lines(&item["fields"], "        ")?;
        structs.push(format!(
            "    \"{name}\": {{\n      \"size\": {},\n      \"fields\": {{\n{fields}\n      }}\n    }}",
            item["size"]
        ));
    }
    Ok(format!(
        "{{\n  \"revision\": {},\n  \"platform\": {},\n  \"structs\": {{\n{}\n  }},\n  \"constants\": {{\n{}\n  }},\n  \
         \"types\": {{\n{}\n  }}\n}}\n",
        layout["revision"],
        layout["platform"],
        structs.join(",\n"),
        lines(&layout["constants"], "    ")?,
        lines(&layout["types"], "    ")?
    ))
}

fn layout() -> Value {
    let field = |field: &table::Field| {
        (field.name.to_owned(), json!({ "offset": field.offset, "size": field.size, "type": field.r#type }))
    };
    let item = |item: &table::Struct| {
        let fields: Map<String, Value> = item.fields.iter().map(field).collect();
        (item.name.to_owned(), json!({ "size": item.size, "fields": fields }))
    };
    let constant = |(name, value): &(&str, table::Constant)| {
        let value = match value {
            table::Constant::Integer(value) => json!(value),
            table::Constant::Text(value) => json!(value),
        };
        ((*name).to_owned(), value)
    };
    json!({
        "revision": format!("{ABI_MAJOR}.{ABI_MINOR}"),
        "platform": "x86-64, LP64",
        "structs": table::STRUCTS.iter().map(item).collect::<Map<_, _>>(),
        "constants": table::CONSTANTS.iter().map(constant).collect::<Map<_, _>>(),
        "types": table::TYPES.iter().map(|(name, ty)| ((*name).to_owned(), json!(ty))).collect::<Map<_, _>>(),
    })
}

/// What growth needs of every struct that starts with `struct_size`: no padding at its end, which a later field would
/// take and callers of today leave unset.
fn check_rules() -> Result<()> {
    for item in table::STRUCTS {
        let (Some(first), Some(last)) = (item.fields.first(), item.fields.last()) else { continue };
        ensure!(
            first.name != "struct_size" || last.offset + last.size == item.size,
            "{} has {} bytes of padding after its last field `{}`: put a reserved field there",
            item.name,
            item.size - last.offset - last.size,
            last.name
        );
    }
    Ok(())
}

/// Every way in which `new` is not `old` with something added at the ends.
fn broken_promises(old: &Value, new: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let entries = |value: &Value, key: &str| value[key].as_object().cloned().unwrap_or_default();
    for (name, old) in entries(old, "structs") {
        let new = &new["structs"][&name];
        for (field, place) in entries(&old, "fields") {
            if new["fields"][&field] != place {
                broken.push(format!("{name}.{field} was {place} and is {}", new["fields"][&field]));
            }
        }
        for (field, place) in entries(new, "fields") {
            if old["fields"][&field].is_null() && place["offset"].as_u64() < old["size"].as_u64() {
                broken.push(format!("{name}.{field} was added before the struct's end"));
            }
        }
    }
    for key in ["constants", "types"] {
        for (name, value) in entries(old, key) {
            if name != "LAMBDA_DPO_ABI_MINOR" && new[key][&name] != value {
                broken.push(format!("{name} was {value} and is {}", new[key][&name]));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_frozen_with_the_version_that_brings_it() {
        let text = "# Changelog\n\n## 0.2.0 (unreleased)\n\n- revision 1.1\n\n## 0.1.0\n\n- revision 1.0\n";
        let released = |text: &str, revision: &str| is_released(text, revision).ok();
        assert_eq!(released(text, "revision 1.0"), Some(true));
        assert_eq!(released(text, "revision 1.1"), Some(false));
        assert_eq!(released(text, "revision 1.2"), None);
        assert_eq!(released(&text.replace("0.1.0", "0.1.0 (unreleased)"), "revision 1.0"), Some(false));
    }

    #[test]
    fn a_revision_may_add_at_ends_and_nothing_else() {
        let old = layout();
        assert!(broken_promises(&old, &layout()).is_empty());

        let mut grown = layout();
        let size = old["structs"]["LambdaDpoError"]["size"].clone();
        grown["structs"]["LambdaDpoError"]["fields"]["more"] = json!({ "offset": size, "size": 8, "type": "u64" });
        grown["constants"]["LAMBDA_DPO_STATUS_NEW"] = json!(9);
        grown["constants"]["LAMBDA_DPO_ABI_MINOR"] = json!(1);
        assert!(broken_promises(&old, &grown).is_empty());

        let mut moved = layout();
        moved["structs"]["LambdaDpoError"]["fields"]["len"]["offset"] = json!(8);
        moved["structs"]["LambdaDpoError"]["fields"]["between"] = json!({ "offset": 24, "size": 8, "type": "u64" });
        moved["structs"]["LambdaDpoApi"]["fields"]["collate"]["type"] = json!("unsafe extern \"C\" fn() -> Status");
        moved["constants"]["LAMBDA_DPO_STATUS_IO"] = json!(9);
        moved["types"]["Status"] = json!("i64");
        assert_eq!(broken_promises(&old, &moved).len(), 5);
    }
}
