//! Policies for other programs: a folder each, that appears whole or not at all.
//!
//! | module | what |
//! |---|---|
//! | [`onnx`] | the decoder as an ONNX graph |
//! | [`torchscript`] | the decoder as a TorchScript module |
//!
//! Hugging Face's layout is [`Model::save`]'s.

pub mod onnx;
pub mod torchscript;

mod error;

use std::path::Path;

use tch::Kind;

use crate::files::atomic;
use crate::model::{self, Model};

pub use error::ExportError;

/// The folder to be written.
#[derive(Debug)]
pub struct Destination {
    parts: atomic::Folder,
}

impl Destination {
    /// Begins the folder `out`; nothing that stands there is ever replaced.
    ///
    /// # Errors
    ///
    /// [`ExportError::Exists`] when there is something, [`ExportError::Write`] when the disk refuses.
    pub fn begin(out: &Path) -> Result<Self, ExportError> {
        if out.exists() {
            return Err(ExportError::Exists { path: out.to_path_buf() });
        }
        Ok(Self { parts: atomic::Folder::create(out)? })
    }

    /// Where to write until it is finished.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.parts.path()
    }

    /// Puts the folder in its place, with `chat_template` instead of the tokenizer's own.
    ///
    /// # Errors
    ///
    /// [`ExportError`] when the template cannot be read or the disk refuses; there is no folder then.
    pub fn finish(self, chat_template: Option<&Path>) -> Result<(), ExportError> {
        if let Some(template) = chat_template {
            model::write_chat_template(template, self.path())?;
        }
        Ok(self.parts.commit()?)
    }
}

/// Finds values that a narrow dtype could not hold.
///
/// # Errors
///
/// [`ExportError::Range`] names the first tensor that has one.
pub fn check_range(model: &Model) -> Result<(), ExportError> {
    if model.kind() != Kind::Half {
        return Ok(());
    }
    for (name, parameter) in model.named_parameters() {
        if parameter.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(ExportError::Range { tensor: name.clone() });
        }
    }
    Ok(())
}
