//! Writes a table of every struct, field and constant of the abi crate. Only the names are read from the sources; sizes
//! and offsets are expressions that the compiler evaluates.

use std::path::{Path, PathBuf};
use std::{env, fs};

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Fields, Item, ItemConst, ItemStruct};

/// The sources whose types cross the boundary.
const SOURCES: [&str; 5] = ["dlpack.rs", "arrow.rs", "values.rs", "options.rs", "table.rs"];

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin/abi/src");
    let (mut structs, mut constants, mut types) = (Vec::new(), Vec::new(), Vec::new());
    for name in SOURCES {
        let path = folder.join(name);
        println!("cargo:rerun-if-changed={}", path.display());
        let source = fs::read_to_string(&path).unwrap_or_else(|error| fail(&path, &error));
        for item in syn::parse_file(&source).unwrap_or_else(|error| fail(&path, &error)).items {
            match item {
                // DLPack's and Arrow's structs have no prefix in C.
                Item::Struct(item) if ["dlpack.rs", "arrow.rs"].contains(&name) => structs.push(measured(&item, "")),
                Item::Struct(item) => structs.push(measured(&item, "LambdaDpo")),
                Item::Type(item) => {
                    let (name, ty) = (item.ident.to_string(), text(&item.ty));
                    types.push(quote! { (#name, #ty) });
                }
                Item::Const(item) => constants.extend(valued(&item)),
                _ => {}
            }
        }
    }
    let table = quote! {
        pub const STRUCTS: &[Struct] = &[#(#structs),*];
        pub const CONSTANTS: &[(&str, Constant)] = &[#(#constants),*];
        pub const TYPES: &[(&str, &str)] = &[#(#types),*];
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("layout_table.rs");
    fs::write(&out, table.to_string()).unwrap_or_else(|error| fail(&out, &error));
}

/// Returns the table's entry of a struct, under its name in C.
fn measured(item: &ItemStruct, prefix: &str) -> TokenStream {
    let (ident, name) = (&item.ident, format!("{prefix}{}", item.ident));
    let Fields::Named(fields) = &item.fields else { return quote! {} };
    let fields = fields.named.iter().map(|field| {
        let (ident_of, ty) = (&field.ident, &field.ty);
        let (field_name, type_text) = (ident_of.to_token_stream().to_string(), text(ty));
        quote! {
            Field {
                name: #field_name,
                r#type: #type_text,
                offset: core::mem::offset_of!(#ident, #ident_of),
                size: size_of::<#ty>(),
            }
        }
    });
    quote! { Struct { name: #name, size: size_of::<#ident>(), fields: &[#(#fields),*] } }
}

/// Returns the table's entry of a constant, if it is an integer or text. The fields of a constant of a struct type are
/// in the table of structs.
fn valued(item: &ItemConst) -> Option<TokenStream> {
    let (ident, name, ty) = (&item.ident, format!("LAMBDA_DPO_{}", item.ident), text(&item.ty));
    let value = match ty.as_str() {
        "&str" => quote! { Constant::Text(#ident) },
        "u8" | "u32" | "u64" | "i32" | "Status" => quote! { Constant::Integer(#ident as i64) },
        _ => return None,
    };
    Some(quote! { (#name, #value) })
}

/// Returns the source text of tokens, without the spaces that quote puts between them.
fn text(tokens: &impl ToTokens) -> String {
    let text = tokens.to_token_stream().to_string();
    let tight = [" < ", " > ", "< ", " >", " ::", ":: ", "& ", "* ", " ,", "( ", " )", " ("];
    let close = ["<", ">", "<", ">", "::", "::", "&", "*", ",", "(", ")", "("];
    tight.iter().zip(close).fold(text, |text, (from, to)| text.replace(from, to)).replace(" :", ":")
}

fn fail(path: &Path, error: &dyn std::fmt::Display) -> ! {
    println!("cargo:warning={}: {error}", path.display());
    std::process::exit(1);
}
