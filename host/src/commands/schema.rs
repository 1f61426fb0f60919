//! `lambda-dpo schema`: prints the JSON Schemas in `schemas/`.
//!
//! The schemas are generated from types. Records and samples are types of the plugin, which this program reaches only
//! through the ABI, so it embeds the files; a test checks that they match the types.

use std::io::{Write, stdout};

use anyhow::{Context, Result};

use crate::cli::{SchemaArgs, SchemaName};

pub(super) fn run(args: &SchemaArgs) -> Result<()> {
    let text = match args.name {
        SchemaName::Record => include_str!("../../../schemas/record.schema.json"),
        SchemaName::Sample => include_str!("../../../schemas/sample.schema.json"),
        SchemaName::Config => include_str!("../../../schemas/config.schema.json"),
        SchemaName::Evaluation => include_str!("../../../schemas/evaluation.schema.json"),
        SchemaName::Report => include_str!("../../../schemas/report.schema.json"),
    };
    stdout().write_all(text.as_bytes()).context("the schema cannot be written to standard output")
}
