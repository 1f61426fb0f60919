//! A policy that is an ONNX graph, run by the CPU provider of ONNX Runtime.

use std::cell::RefCell;
use std::path::Path;

use ort::environment::Environment;
use ort::session::{Session, SessionOutputs};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};
use tch::{Device, Kind, Tensor};

use super::PolicyError;
use super::onnx_file::OnnxFile;
use super::runtime::{self, first_line};
use super::scorer::{LogitsPolicy, probe};
use crate::files::onnx_proto::{ELEMENT_BFLOAT16, ELEMENT_FLOAT16};
use crate::libtorch::{self, Libtorch};

const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "position_ids"];
const OUTPUT: &str = "logits";

/// An ONNX graph with its session.
#[derive(Debug)]
pub struct OnnxPolicy {
    file: OnnxFile,
    /// In a cell, since running a session needs `&mut`.
    session: RefCell<Session>,
    vocab_size: i64,
}

impl OnnxPolicy {
    /// Opens a file, or the `model.onnx` of a folder, and runs it once on a few tokens.
    ///
    /// `runtime` is the library to load if the process has not loaded one yet. The graph runs on the CPU; its inputs and
    /// outputs are tensors of libtorch, which must be prepared.
    ///
    /// # Errors
    ///
    /// Returns a [`PolicyError`] if the runtime is missing, or the file is damaged, has other inputs or outputs, or
    /// does not run.
    pub fn open(path: &Path, runtime: Option<&Path>, _: Libtorch) -> Result<Self, PolicyError> {
        let environment = runtime::load(runtime)?;
        let file = OnnxFile::open(path)?;
        let session = session(&environment, &file.path).map_err(|reason| PolicyError::File {
            path: file.path.clone(),
            problem: format!(
                "ONNX Runtime rejects it ({reason}); its opset is {}, its IR version {}; export it again, or use a \
                 newer runtime",
                file.opset, file.ir_version
            ),
        })?;
        check_signature(&session).map_err(|problem| PolicyError::File { path: file.path.clone(), problem })?;
        let mut policy = Self { file, session: RefCell::new(session), vocab_size: 0 };
        policy.vocab_size = probe(&policy)?;
        Ok(policy)
    }

    /// Returns the file's metadata.
    #[must_use]
    pub fn file(&self) -> &OnnxFile {
        &self.file
    }
}

impl LogitsPolicy for OnnxPolicy {
    fn path(&self) -> &Path {
        &self.file.path
    }

    fn vocab_size(&self) -> i64 {
        self.vocab_size
    }

    fn kind(&self) -> Kind {
        match self.file.element {
            ELEMENT_FLOAT16 => Kind::Half,
            ELEMENT_BFLOAT16 => Kind::BFloat16,
            _ => Kind::Float,
        }
    }

    fn content_hash(&self) -> Result<blake3::Hash, PolicyError> {
        // Results of different runtimes differ in the last bits.
        let parts = [self.file.hash()?, blake3::hash(ort::info().as_bytes())];
        Ok(blake3::hash(&parts.map(|part| *part.as_bytes()).concat()))
    }

    fn logits(&self, inputs: [&Tensor; 3]) -> Result<Tensor, PolicyError> {
        let shape = inputs[0].size();
        let failed = |reason: String| PolicyError::Run {
            path: self.file.path.clone(),
            rows: shape.first().copied().unwrap_or(0),
            tokens: shape.last().copied().unwrap_or(0),
            reason,
        };
        let values = inputs.map(|tensor| -> Result<Vec<i64>, tch::TchError> {
            Vec::try_from(tensor.f_to_device(Device::Cpu)?.f_reshape([-1])?)
        });
        let mut session = self.session.borrow_mut();
        let mut named = Vec::new();
        let mut flat = Vec::new();
        for tensor in values {
            flat.push(tensor?);
        }
        for (name, values) in INPUTS.iter().zip(&flat) {
            let tensor = TensorRef::from_array_view((shape.clone(), values.as_slice()));
            named.push((*name, tensor.map_err(|error| failed(first_line(&error)))?));
        }
        let outputs = session.run(named).map_err(|error| failed(first_line(&error)))?;
        to_torch(&outputs).map_err(failed)
    }
}

fn session(environment: &Environment, path: &Path) -> Result<Session, String> {
    let threads = usize::try_from(libtorch::num_threads()).unwrap_or(1);
    let builder = Session::builder(environment).map_err(|error| first_line(&error))?;
    let mut builder = builder.with_intra_threads(threads).map_err(|error| first_line(&error))?;
    builder.commit_from_file(path).map_err(|error| first_line(&error))
}

fn check_signature(session: &Session) -> Result<(), String> {
    let names = |outlets: &[Outlet]| outlets.iter().map(|outlet| outlet.name().to_owned()).collect::<Vec<_>>();
    let mut found = names(session.inputs());
    found.sort();
    let mut expected = INPUTS;
    expected.sort_unstable();
    if found != expected {
        return Err(format!(
            "its inputs are {}, but a policy has exactly {}; export it without a key-value cache",
            listed(&names(session.inputs())),
            listed(&INPUTS)
        ));
    }
    let fits = |outlet: &Outlet, rank: usize, elements: &[TensorElementType]| match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => elements.contains(ty) && shape.len() == rank,
        _ => false,
    };
    if let Some(input) = session.inputs().iter().find(|input| !fits(input, 2, &[TensorElementType::Int64])) {
        return Err(format!(
            "its input `{}` is {}, but must be int64 of [rows, tokens]; export it again",
            input.name(),
            input.dtype()
        ));
    }
    let floats = [TensorElementType::Float32, TensorElementType::Float16];
    match session.outputs().iter().find(|output| output.name() == OUTPUT) {
        Some(output) if fits(output, 3, &floats) => Ok(()),
        Some(output) => Err(format!(
            "its output `{OUTPUT}` is {}, but must be float32 or float16 of [rows, tokens, vocabulary]; export it again",
            output.dtype()
        )),
        None => Err(format!(
            "its outputs are {}, but a policy has `{OUTPUT}`; export it with its LM head",
            listed(&names(session.outputs()))
        )),
    }
}

fn listed(names: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    quoted.join(", ")
}

/// Copies the logits into a libtorch tensor.
fn to_torch(outputs: &SessionOutputs) -> Result<Tensor, String> {
    let value = outputs.get(OUTPUT).ok_or("it returned no logits")?;
    let text = |error: &dyn std::fmt::Display| first_line(&error);
    if let Ok((shape, values)) = value.try_extract_tensor::<f32>() {
        return Tensor::f_from_slice(values).and_then(|flat| flat.f_view(&**shape)).map_err(|error| text(&error));
    }
    let (shape, values) = value.try_extract_tensor::<half::f16>().map_err(|error| text(&error))?;
    Tensor::f_from_slice(values).and_then(|flat| flat.f_view(&**shape)).map_err(|error| text(&error))
}
