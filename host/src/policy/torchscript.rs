//! A policy that is a TorchScript module, run by libtorch and trainable if it has parameters.
//!
//! A module is a program: libtorch runs its code with the rights of this process, so open only those that you trust.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};
use tch::{CModule, Device, Kind, Tensor};

use super::PolicyError;
use super::onnx_file::file_hash;
use super::runtime::first_line;
use super::scorer::{LogitsPolicy, probe};
use crate::files::git_lfs::refuse_pointer;
use crate::files::regular;
use crate::libtorch::script::SCRIPT_FILE;
use crate::libtorch::{Libtorch, upload};

/// A loaded TorchScript module.
#[derive(Debug)]
pub struct TorchScriptPolicy {
    path: PathBuf,
    module: CModule,
    device: Device,
    /// Dtype of the largest parameter; float32 if there are no parameters.
    kind: Kind,
    vocab_size: i64,
}

impl TorchScriptPolicy {
    /// Opens a file, or the `model.pt` of a folder, and runs it once on a few tokens.
    ///
    /// # Errors
    ///
    /// Returns a [`PolicyError`] if the file is missing or is not a TorchScript module, or the module has other inputs
    /// or outputs or does not run.
    pub fn open(path: &Path, libtorch: Libtorch) -> Result<Self, PolicyError> {
        let device = libtorch.device();
        let path = if path.is_dir() { path.join(SCRIPT_FILE) } else { path.to_path_buf() };
        refuse_pointer(&path)?;
        regular::open(&path).map_err(|source| PolicyError::Read { path: path.clone(), source })?;
        // Otherwise libtorch would optimise for the shapes of earlier runs, and equal runs would differ in the last
        // bits.
        tch::jit::f_set_graph_executor_optimize(false)?;
        let mut module = CModule::load_on_device(&path, device).map_err(|error| PolicyError::File {
            path: path.clone(),
            problem: format!("it is not a TorchScript file, or is damaged ({}); export it again", brief(&error)),
        })?;
        module.f_set_eval()?;
        let largest = module.named_parameters()?.into_iter().max_by_key(|(_, parameter)| parameter.numel());
        let kind = largest.map_or(Kind::Float, |(_, parameter)| parameter.kind());
        let mut policy = Self { path, module, device, kind, vocab_size: 0 };
        policy.vocab_size = probe(&policy).map_err(|error| match error {
            PolicyError::Run { path, reason, .. } => PolicyError::File {
                path,
                problem: format!(
                    "its forward does not run on input_ids, attention_mask and position_ids of [2, 3] ({reason}); export a \
                     module that takes these three"
                ),
            },
            other => other,
        })?;
        Ok(policy)
    }

    /// Returns the device it runs on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Makes its parameters trainable.
    ///
    /// # Errors
    ///
    /// Returns [`PolicyError::File`] if it has none.
    pub fn unfreeze(&self) -> Result<(), PolicyError> {
        let parameters = self.named_parameters()?;
        if parameters.is_empty() {
            let problem = "it has no parameters to train; export it with its weights as parameters, not constants";
            return Err(PolicyError::File { path: self.path.clone(), problem: problem.to_owned() });
        }
        for (_, parameter) in parameters {
            let _ = parameter.f_set_requires_grad(true)?;
        }
        Ok(())
    }

    /// Returns its parameters with their names.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn named_parameters(&self) -> Result<Vec<(String, Tensor)>, PolicyError> {
        Ok(self.module.named_parameters()?)
    }

    /// Computes logits [R, T, V], with gradients if grad mode is enabled.
    ///
    /// # Errors
    ///
    /// Returns [`PolicyError::Run`] if the run fails.
    pub fn forward(&self, inputs: [&Tensor; 3]) -> Result<Tensor, PolicyError> {
        let shape = inputs[0].size();
        let run = || -> Result<Tensor, tch::TchError> {
            let mut moved = Vec::new();
            for input in inputs {
                moved.push(upload(input, self.device)?);
            }
            self.module.forward_ts(&moved)
        };
        run().map_err(|error| PolicyError::Run {
            path: self.path.clone(),
            rows: shape.first().copied().unwrap_or(0),
            tokens: shape.last().copied().unwrap_or(0),
            reason: brief(&error),
        })
    }

    /// Writes the module with the current values of its parameters.
    ///
    /// # Errors
    ///
    /// Errors from libtorch, and from writing.
    pub fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        // To memory first: libtorch ends the process when it cannot write to a file. A limit on the size of files (`ulimit
        // -f`) holds for this one, too.
        let memory = File::from(memfd_create(SCRIPT_FILE, MemfdFlags::CLOEXEC)?);
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        self.module.save(&path).map_err(io::Error::other)?;
        io::copy(&mut File::open(&path)?, out).map(drop)
    }
}

impl LogitsPolicy for TorchScriptPolicy {
    fn path(&self) -> &Path {
        &self.path
    }

    fn vocab_size(&self) -> i64 {
        self.vocab_size
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn logits(&self, inputs: [&Tensor; 3]) -> Result<Tensor, PolicyError> {
        tch::no_grad(|| self.forward(inputs))
    }

    fn content_hash(&self) -> Result<blake3::Hash, PolicyError> {
        file_hash(&self.path)
    }
}

/// Returns the line with the reason: an error inside a module begins with a trace of its source.
fn brief(error: &tch::TchError) -> String {
    let text = error.to_string();
    let text = text.trim_start_matches("Internal torch error: ");
    let is_about_place =
        |line: &&str| line.starts_with("The following operation failed") || line.starts_with("Traceback");
    if text.lines().next().as_ref().is_some_and(is_about_place) {
        let reason = text.lines().find(|line| line.contains("Error: "));
        return first_line(&reason.unwrap_or(text));
    }
    first_line(&text)
}
