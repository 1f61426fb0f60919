//! `lambda-dpo schema`: the JSON Schemas that the types give, as committed in `schemas/`.
//!
//! Records and samples are the plugin's types, which this program knows through the ABI alone; so their schemas are taken
//! from the files. A test holds the files to the types.

use std::io::{Write, stdout};

use anyhow::{Context, Result};

use crate::cli::{SchemaArgs, SchemaName};

pub(super) fn run(args: &SchemaArgs) -> Result<()> {
    let text = match args.name {
        SchemaName::Record => include_str!("../../../schemas/record.schema.json"),
        SchemaName::Sample => include_str!("../../../schemas/sample.schema.json"),
        SchemaName::Config => include_str!("../../../schemas/config.schema.json"),
    };
    stdout().write_all(text.as_bytes()).context("the schema cannot be written to standard output")
}
