//! Exports policies for other programs, each as a folder that is written atomically.
//!
//! | module | contents |
//! |---|---|
//! | [`loras`] | a λ-adapter as ordinary LoRAs |
//! | [`onnx`] | the decoder as an ONNX graph |
//! | [`torchscript`] | the decoder as a TorchScript module |
//!
//! Folders in Hugging Face's format are written by [`Model::save`](crate::model::Model::save).

pub mod loras;
pub mod onnx;
pub mod torchscript;

mod error;

use std::path::Path;

use tch::{Kind, Tensor};

use crate::files::atomic;
use crate::model;

pub use error::ExportError;

/// A folder that is being written.
#[derive(Debug)]
pub struct Destination {
    parts: atomic::Folder,
}

impl Destination {
    /// Begins the folder `out`, which must not exist.
    ///
    /// # Errors
    ///
    /// Returns [`ExportError::Exists`] if it does, [`ExportError::Write`] if writing fails.
    pub fn begin(out: &Path) -> Result<Self, ExportError> {
        if out.exists() {
            // A process that was killed after it was done may have left its lock.
            atomic::tidy(out);
            return Err(ExportError::Exists { path: out.to_path_buf() });
        }
        Ok(Self { parts: atomic::Folder::create(out)? })
    }

    /// Returns the folder to write to until [`finish`](Self::finish).
    #[must_use]
    pub fn path(&self) -> &Path {
        self.parts.path()
    }

    /// Moves the folder to its destination, with `chat_template` instead of the tokenizer's own.
    ///
    /// # Errors
    ///
    /// Returns an [`ExportError`] if the template cannot be read or writing fails; nothing is left at the destination.
    pub fn finish(self, chat_template: Option<&Path>) -> Result<(), ExportError> {
        if let Some(template) = chat_template {
            model::write_chat_template(template, self.path())?;
        }
        Ok(self.parts.commit()?)
    }
}

/// Checks that all parameters are finite numbers, also after a conversion to float16.
///
/// # Errors
///
/// Returns [`ExportError::Range`] or [`ExportError::NotFinite`] with the first tensor that has another value.
pub fn check_finite<'t>(parameters: impl IntoIterator<Item = (&'t String, &'t Tensor)>) -> Result<(), ExportError> {
    for (name, parameter) in parameters {
        if parameter.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            let tensor = name.clone();
            let is_half = parameter.f_kind()? == Kind::Half;
            return Err(if is_half { ExportError::Range { tensor } } else { ExportError::NotFinite { tensor } });
        }
    }
    Ok(())
}
