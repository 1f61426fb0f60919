//! Weights that bitsandbytes quantised to NF4, in checkpoints as Transformers writes them.
//!
//! Beside a `weight` of codes, [⌈out · in / 2⌉, 1] uint8, such a file has tensors whose names begin with the weight's:
//!
//! | tensor | contents |
//! |---|---|
//! | `.absmax` | the scales of its blocks: float32, or uint8 if they are quantised too |
//! | `.quant_map` | [16] float32: what the codes stand for |
//! | `.nested_absmax`, `.nested_quant_map` | the scales of the scales' blocks, and [256] what their codes stand for |
//! | `.quant_state.bitsandbytes__nf4` | the bytes of a JSON object: sizes of blocks, shape, dtype, mean of the scales |

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use lambda_dpo_kernels::{dynamic, nf4};
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::files::safetensors::SafetensorsFile;
use crate::libtorch::nf4::{Nf4, Scales};
use crate::model::ModelError;
use crate::model::config::{FP4_WAY_OUT, INT8_WAY_OUT, ModelConfig};

const ABSMAX: &str = "absmax";
const QUANT_MAP: &str = "quant_map";
const NESTED_ABSMAX: &str = "nested_absmax";
const NESTED_QUANT_MAP: &str = "nested_quant_map";
const QUANT_STATE: &str = "quant_state.bitsandbytes__nf4";
const FP4_STATE: &str = ".quant_state.bitsandbytes__fp4";
const PARTS: [&str; 5] = [ABSMAX, QUANT_MAP, NESTED_ABSMAX, NESTED_QUANT_MAP, QUANT_STATE];
/// Ends of names of what an 8-bit weight has beside it.
const INT8_PARTS: [&str; 2] = [".SCB", ".weight_format"];

/// Sizes of blocks that bitsandbytes has.
const BLOCK_SIZES: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

const COPY: &str = "copy or download the file again, or save the model again with `save_pretrained`";
const STORE_BYTES: &str = "quantise it with bnb_4bit_quant_storage = torch.uint8";

/// The parts of the weights in 4 bits of a checkpoint, in whichever of its files each of them is.
#[derive(Debug)]
pub(super) struct QuantizedWeights<'f> {
    /// By parameter, then by name of the part, with its name in its file.
    weights: IndexMap<String, IndexMap<&'static str, (&'f SafetensorsFile, String)>>,
    /// The names of all parts in their files, because [`Self::is_part`] is asked of every tensor.
    names: HashSet<String>,
}

/// Finds the parts of weights in 4 bits; `parameter_of` returns the parameter that a tensor of the checkpoint is.
pub(super) fn find(
    files: &[SafetensorsFile],
    parameter_of: impl Fn(&str) -> Option<String>,
) -> Result<QuantizedWeights<'_>, ModelError> {
    let mut weights: IndexMap<String, IndexMap<_, _>> = IndexMap::new();
    for file in files {
        for name in file.names() {
            if let Some(weight) = name.strip_suffix(FP4_STATE) {
                let feature = format!("the weight `{weight}` in fp4 of bitsandbytes");
                return Err(ModelError::Unsupported { path: path(file), feature, way_out: FP4_WAY_OUT.into() });
            }
            if let Some(layer) = INT8_PARTS.iter().find_map(|part| name.strip_suffix(part)) {
                let feature = format!("the weight `{layer}.weight` in 8 bits of bitsandbytes (LLM.int8)");
                return Err(ModelError::Unsupported { path: path(file), feature, way_out: INT8_WAY_OUT.into() });
            }
            if let Some((weight, part)) = split(&name)
                && let Some(parameter) = parameter_of(weight)
            {
                weights.entry(parameter).or_default().insert(part, (file, name));
            }
        }
    }
    let names = weights.values().flat_map(IndexMap::values).map(|(_, name)| name.clone()).collect();
    Ok(QuantizedWeights { weights, names })
}

/// Splits the name of a part into that of its weight and its own.
fn split(name: &str) -> Option<(&str, &'static str)> {
    PARTS.into_iter().find_map(|part| Some((name.strip_suffix(part)?.strip_suffix('.')?, part)))
}

/// Checks that a weight in 4 bits is one that may be.
pub(super) fn check_place(file: &SafetensorsFile, name: &str, is_linear: bool) -> Result<(), ModelError> {
    if is_linear {
        return Ok(());
    }
    Err(ModelError::Unsupported {
        path: path(file),
        feature: format!("the 4-bit weight `{name}`, which is not of a linear layer of the decoder,"),
        way_out: "quantise the model with the default of `llm_int8_skip_modules`, which leaves out the LM head".into(),
    })
}

/// Refuses a weight of integers, which is not a number for each value, and whose parts are missing.
pub(super) fn refuse_codes(file: &SafetensorsFile, name: &str) -> Result<(), ModelError> {
    match file.kind(name) {
        Some(kind @ (Kind::Uint8 | Kind::Int8)) => {
            let problem =
                format!("it holds codes ({kind:?}) without `{name}.{QUANT_STATE}`, which says what they stand for");
            Err(unreadable(file, name, problem, COPY))
        }
        _ => Ok(()),
    }
}

/// The JSON of `quant_state`.
#[derive(Debug, Deserialize)]
struct QuantState {
    blocksize: usize,
    dtype: String,
    shape: Vec<i64>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

impl QuantizedWeights<'_> {
    pub(super) fn contains(&self, parameter: &str) -> bool {
        self.weights.contains_key(parameter)
    }

    /// Whether a tensor of a file is a part of a weight.
    pub(super) fn is_part(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Checks that there are weights in 4 bits if config.json says so; `listing` names the weights.
    pub(super) fn check_all(&self, config: &ModelConfig, listing: &Path) -> Result<(), ModelError> {
        if self.weights.is_empty() && config.is_nf4 {
            return Err(ModelError::Json {
                path: listing.with_file_name("config.json"),
                message: format!(
                    "`quantization_config` says that weights are in 4 bits (nf4), but {} has none that are; remove it, and \
                     quantise them on loading (model.quantize or --quantize)",
                    listing.display()
                ),
            });
        }
        Ok(())
    }

    /// Reads the weight of a parameter, whose codes are the tensor `name` of `file`.
    pub(super) fn read(
        &self,
        parameter: &str,
        file: &SafetensorsFile,
        name: &str,
        shape: &[i64],
    ) -> Result<Nf4, ModelError> {
        let parts = self.weights.get(parameter);
        let has = |part: &str| parts.is_some_and(|parts| parts.contains_key(part));
        let unreadable = |problem: String| unreadable(file, name, problem, COPY);
        let read = |part: &str, kind: Kind, len: usize| -> Result<Tensor, ModelError> {
            let found = parts.and_then(|parts| parts.get(part));
            let (file, stored) =
                found.ok_or_else(|| unreadable(format!("there is no tensor `{name}.{part}` beside it")))?;
            check_tensor(file, stored, kind, len).map_err(&unreadable)?;
            let tensor = file.read(stored)?.f_view([-1])?;
            let is_finite = kind != Kind::Float || tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 1;
            if is_finite { Ok(tensor) } else { Err(unreadable(format!("`{stored}` has values that are not finite"))) }
        };

        let state = self.state(parameter, file, name)?;
        if state.shape != shape {
            let found = &state.shape;
            return Err(unreadable(format!("it is of shape {found:?}, but config.json calls for {shape:?}")));
        }
        if !BLOCK_SIZES.contains(&state.blocksize) {
            return Err(unreadable(format!(
                "its blocks have {} values, which bitsandbytes does not have",
                state.blocksize
            )));
        }
        let kind = match state.dtype.as_str() {
            "float32" => Kind::Float,
            "bfloat16" => Kind::BFloat16,
            "float16" => Kind::Half,
            other => {
                return Err(unreadable(format!("its values are of dtype {other}, not float32, bfloat16 or float16")));
            }
        };
        let num_values = shape.iter().product::<i64>() as usize;
        if let Some(kind) = file.kind(name).filter(|kind| *kind != Kind::Uint8) {
            let problem = format!("its codes are stored as {kind:?}, not as Uint8");
            return Err(self::unreadable(file, name, problem, STORE_BYTES));
        }
        check_tensor(file, name, Kind::Uint8, num_values.div_ceil(2)).map_err(&unreadable)?;
        let map = Vec::<f32>::try_from(read(QUANT_MAP, Kind::Float, nf4::VALUES.len())?)?;
        if map != nf4::VALUES {
            return Err(unreadable(format!("`{name}.{QUANT_MAP}` is not the map of nf4")));
        }
        let num_blocks = num_values.div_ceil(state.blocksize);
        let scales = match (state.nested_blocksize, state.nested_offset) {
            (Some(block_size), Some(offset)) if block_size > 0 && (offset as f32).is_finite() => Scales::Quantized {
                codes: read(ABSMAX, Kind::Uint8, num_blocks)?,
                values: read(NESTED_QUANT_MAP, Kind::Float, dynamic::NUM_CODES)?,
                absmax: read(NESTED_ABSMAX, Kind::Float, num_blocks.div_ceil(block_size))?,
                block_size,
                offset: offset as f32,
            },
            (None, None) if !has(NESTED_ABSMAX) => Scales::Plain(read(ABSMAX, Kind::Float, num_blocks)?),
            _ => return Err(unreadable("its quant_state does not say how its scales were quantised".into())),
        };
        let codes = file.read(name)?.f_view([-1])?;
        Ok(Nf4 { shape: [shape[0], shape[1]], codes, block_size: state.blocksize, scales, kind })
    }

    fn state(&self, parameter: &str, file: &SafetensorsFile, name: &str) -> Result<QuantState, ModelError> {
        let stored = self.weights.get(parameter).and_then(|parts| parts.get(QUANT_STATE));
        let unreadable = |problem: String| unreadable(file, name, problem, COPY);
        let (of, stored) =
            stored.ok_or_else(|| unreadable(format!("there is no tensor `{name}.{QUANT_STATE}` beside it")))?;
        let bytes = of.read(stored)?.f_view([-1])?;
        let bytes = if bytes.f_kind()? == Kind::Uint8 { Vec::<u8>::try_from(bytes)? } else { Vec::new() };
        serde_json::from_slice(&bytes)
            .map_err(|error| unreadable(format!("`{stored}` is not the JSON that bitsandbytes writes ({error})")))
    }
}

/// Checks dtype and number of values of a tensor before it is read.
fn check_tensor(file: &SafetensorsFile, name: &str, kind: Kind, len: usize) -> Result<(), String> {
    let found = file.shape(name).unwrap_or_default().iter().product::<i64>() as usize;
    match file.kind(name) {
        Some(found_kind) if found_kind == kind && found == len => Ok(()),
        found_kind => {
            let found_kind = found_kind.map_or("another dtype".to_owned(), |kind| format!("{kind:?}"));
            Err(format!("`{name}` has {found} values of {found_kind} instead of {len} of {kind:?}"))
        }
    }
}

fn unreadable(file: &SafetensorsFile, name: &str, problem: String, way_out: &'static str) -> ModelError {
    ModelError::QuantizedTensor { file: path(file), tensor: name.to_owned(), problem, way_out }
}

fn path(file: &SafetensorsFile) -> PathBuf {
    file.path().to_path_buf()
}
