//! Generates `plugin/include/lambda_dpo.h` from `plugin/abi`, so that the two cannot drift apart.
//!
//! cbindgen runs once for DLPack's and Arrow's structs, which the header leaves out if their own headers were included
//! before, and once for the ABI itself, whose Rust names gain the prefixes `LambdaDpo` and `LAMBDA_DPO_`. The handles
//! come from a macro, which cbindgen does not expand, so they are read from its text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cbindgen::{Builder, Config, ItemType, Language, Style};

const INTRODUCTION: &str = "\
/*
 * lambda_dpo.h: the C interface of liblambda_dpo, the lambda-DPO plugin.
 *
 * Generated from plugin/abi by `make generate`. Do not edit.
 *
 * Ask for the function table once, then call through it:
 *
 *     const LambdaDpoApi *api = NULL;
 *     LambdaDpoStatus status = lambda_dpo_get_api(LAMBDA_DPO_ABI_MAJOR, LAMBDA_DPO_ABI_MINOR, &api, NULL);
 *
 * Tensors cross as DLPack, tables as Arrow C streams. This header declares DLPack's structs itself unless a dlpack.h
 * (1.0 or newer) was included before it; if both are needed, include dlpack.h first. Arrow's structs are in Arrow's own
 * guards, so Arrow's headers may come before or after this one.
 *
 * Ownership, threads and errors: see LambdaDpoApi. Valid C11 and C++17.
 */";

/// Flags that Arrow's own header defines. Included after this one, it finds its guard defined and skips them.
const ARROW_FLAGS: &str = "\
#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4
";

const ENTRY_POINT: &str = "\
/**
 * Name of the one exported symbol, for dlsym.
 */
#define LAMBDA_DPO_ENTRY_POINT \"lambda_dpo_get_api\"

/**
 * The library's one exported symbol; see LambdaDpoGetApi.
 */
LambdaDpoStatus lambda_dpo_get_api(uint32_t major,
                                   uint32_t minor,
                                   const LambdaDpoApi **api,
                                   LambdaDpoError *error);
";

/// Writes the header.
///
/// # Errors
///
/// Returns an error if a source cannot be read or the header cannot be written.
pub fn write(root: &Path) -> Result<()> {
    let path = header_path(root);
    std::fs::write(&path, generate(root)?).with_context(|| format!("could not write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

/// Checks that the committed header is what [`write()`] would write.
///
/// # Errors
///
/// Returns an error if it is not, or if a file cannot be read.
pub fn check(root: &Path) -> Result<()> {
    let path = header_path(root);
    let committed = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    if committed != generate(root)? {
        bail!("{} does not match plugin/abi: run `make generate` and commit the result", path.display());
    }
    Ok(())
}

fn header_path(root: &Path) -> PathBuf {
    root.join("plugin/include/lambda_dpo.h")
}

/// Returns the text of the header.
///
/// # Errors
///
/// Returns an error if a source cannot be read or parsed.
pub fn generate(root: &Path) -> Result<String> {
    let folder = root.join("plugin/abi/src");
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    };
    let dlpack_source = read("dlpack.rs")?;
    let arrow = arrow_block(&read("arrow.rs")?, &folder.join("arrow.rs"))?;
    let files = ["values.rs", "options.rs", "table.rs"];
    let sources: Vec<String> = files.into_iter().map(read).collect::<Result<_>>()?;
    let handles = read_handles(&sources[2])?;

    let names = Names::collect(&dlpack_source, &sources, &handles);
    let dlpack_file = [folder.join("dlpack.rs")];
    let dlpack = bindings(config(&names, &[&dlpack_source], vec![ItemType::Structs]), &dlpack_file)?;
    let dlpack_constants = bindings(config(&names, &[""], vec![ItemType::Constants]), &dlpack_file)?;
    let abi = bindings(config(&names, &sources, Vec::new()), &files.map(|name| folder.join(name)))?;

    let forward: String = handles
        .iter()
        .map(|handle| format!("/**\n{}\n */\ntypedef struct LambdaDpo{1} LambdaDpo{1};\n\n", handle.doc, handle.name))
        .collect();
    let text = format!(
        "{INTRODUCTION}\n\n#ifndef LAMBDA_DPO_H\n#define LAMBDA_DPO_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n\
         #ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n#ifndef DLPACK_DLPACK_H_\n\n{}\n\n#endif /* DLPACK_DLPACK_H_ */\n\n\
         {}\n\n{arrow}\n\n{forward}{}\n\n{ENTRY_POINT}\n#ifdef __cplusplus\n}} /* extern \"C\" */\n#endif\n\n#endif /* LAMBDA_DPO_H */\n",
        dlpack.trim(),
        dlpack_constants.trim(),
        abi.trim(),
    );
    Ok(names.translate_docs(&text))
}

/// Returns Arrow's structs: those of the data interface and those of the stream interface, each in the guard that Arrow
/// prescribes.
fn arrow_block(source: &str, file: &Path) -> Result<String> {
    let structs = public_items(source, &["struct"]);
    let part = |wanted: &[&str]| {
        let unwanted = || structs.iter().filter(|name| !wanted.contains(name)).map(|name| (*name).to_owned());
        // A struct that this part leaves out is declared in the other part's guard, as a tag.
        let renamed = unwanted().map(|name| (name.clone(), format!("struct {name}"))).collect();
        let mut config = config(&Names { renamed }, &[source], vec![ItemType::Structs]);
        config.style = Style::Tag;
        config.export.exclude.extend(unwanted());
        bindings(config, &[file.to_owned()])
    };
    Ok(format!(
        "#ifndef ARROW_C_DATA_INTERFACE\n#define ARROW_C_DATA_INTERFACE\n\n{ARROW_FLAGS}\n{}\n\n\
         #endif /* ARROW_C_DATA_INTERFACE */\n\n\
         #ifndef ARROW_C_STREAM_INTERFACE\n#define ARROW_C_STREAM_INTERFACE\n\n{}\n\n\
         #endif /* ARROW_C_STREAM_INTERFACE */",
        part(&["ArrowSchema", "ArrowArray"])?.trim(),
        part(&["ArrowArrayStream"])?.trim()
    ))
}

/// An opaque handle declared by the `handles!` macro in `table.rs`.
struct Handle {
    name: String,
    doc: String,
}

/// Reads the `/// text` and `Name,` lines of the macro's only invocation.
fn read_handles(table: &str) -> Result<Vec<Handle>> {
    let block = table.split_once("\nhandles! {").and_then(|(_, rest)| rest.split_once("\n}"));
    let (block, _) = block.context("plugin/abi/src/table.rs has no `handles! { … }` block")?;
    let mut handles = Vec::new();
    let mut doc = Vec::new();
    for line in block.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(format!(" *{text}"));
        } else {
            handles.push(Handle { name: line.trim_end_matches(',').to_owned(), doc: doc.join("\n") });
            doc.clear();
        }
    }
    Ok(handles)
}

/// Names in the header by Rust name.
struct Names {
    renamed: HashMap<String, String>,
}

impl Names {
    fn collect(dlpack: &str, abi: &[String], handles: &[Handle]) -> Self {
        let mut renamed = HashMap::new();
        for constant in public_items(dlpack, &["const"]) {
            renamed.insert(constant.to_owned(), format!("LAMBDA_DPO_{constant}"));
        }
        for source in abi {
            for constant in public_items(source, &["const"]) {
                renamed.insert(constant.to_owned(), format!("LAMBDA_DPO_{constant}"));
            }
            for item in public_items(source, &["struct", "type"]) {
                renamed.insert(item.to_owned(), format!("LambdaDpo{item}"));
            }
        }
        // Arrow's headers declare only tags.
        renamed.insert("ArrowArrayStream".to_owned(), "struct ArrowArrayStream".to_owned());
        for handle in handles {
            renamed.insert(handle.name.clone(), format!("LambdaDpo{}", handle.name));
        }
        Self { renamed }
    }

    /// Replaces rustdoc's links in comments (`` [`Name`] ``, `` [`Name`](path) ``, `` `NAME_*` ``) by the header's
    /// names.
    fn translate_docs(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("[`") {
            out.push_str(before);
            let Some((name, mut tail)) = after.split_once("`]") else {
                out.push_str("[`");
                rest = after;
                continue;
            };
            if let Some((_, past)) = tail.strip_prefix('(').and_then(|path| path.split_once(')')) {
                tail = past;
            }
            out.push_str(self.renamed.get(name).map_or(name, String::as_str));
            rest = tail;
        }
        out.push_str(rest);
        for family in ["STATUS_", "FORMAT_", "LAYOUT_", "SCHEDULE_", "OBJECTIVE_", "REDUCTION_", "WANTS_", "DL_"] {
            out = out.replace(&format!("`{family}*`"), &format!("LAMBDA_DPO_{family}*"));
        }
        out
    }
}

/// Returns the names after `pub const`, `pub struct` and so on at the start of a line. A macro's placeholder is not a
/// name.
fn public_items<'a>(source: &'a str, kinds: &[&str]) -> Vec<&'a str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    source
        .lines()
        .filter_map(|line| kinds.iter().find_map(|kind| line.strip_prefix(&format!("pub {kind} "))))
        .map(|rest| rest.split(|c| !is_name(c)).next().unwrap_or(rest))
        .collect()
}

/// Configures cbindgen to write the types of `sources`, which it would leave out because no exported function uses
/// them.
fn config(names: &Names, sources: &[impl AsRef<str>], item_types: Vec<ItemType>) -> Config {
    let mut config = Config { language: Language::C, style: Style::Both, no_includes: true, ..Config::default() };
    config.sort_by = cbindgen::SortKey::None;
    config.usize_is_size_t = true;
    config.line_length = 110;
    config.tab_width = 4;
    config.export.item_types = item_types;
    config.export.include = sources
        .iter()
        .flat_map(|source| public_items(source.as_ref(), &["struct", "type"]))
        .map(str::to_owned)
        .collect();
    config.export.rename = names.renamed.clone();
    // There is no form of a constant of struct type that is valid in both C11 and C++17.
    config.export.exclude = vec!["DLPACK_VERSION".to_owned()];
    config
}

fn bindings(config: Config, sources: &[PathBuf]) -> Result<String> {
    let builder = sources.iter().fold(Builder::new().with_config(config), Builder::with_src);
    let mut bytes = Vec::new();
    builder.generate().context("cbindgen could not read plugin/abi")?.write(&mut bytes);
    String::from_utf8(bytes).context("cbindgen's output is not UTF-8")
}
