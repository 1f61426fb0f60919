//! Metadata of an ONNX file, read without its weights, to report problems clearly; and the hash of its contents.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;

use super::PolicyError;
use crate::files::beside::beside;
use crate::files::git_lfs::refuse_pointer;
use crate::files::onnx_proto::MODEL_FILE;
use crate::files::onnx_proto::{EXTERNAL, OperatorSetIdProto, StringStringEntryProto};
use crate::files::regular;

/// An ONNX file, with its files of external weights.
#[derive(Debug)]
pub struct OnnxFile {
    /// The graph.
    pub path: PathBuf,
    /// Version of ONNX's standard operators.
    pub opset: i64,
    /// Version of the file format.
    pub ir_version: i64,
    /// Dtype of the largest weight, in ONNX's numbering.
    pub element: i32,
    /// Files of external weights.
    data: Vec<PathBuf>,
}

/// [`ModelProto`](crate::files::onnx_proto::ModelProto) without nodes and values, which decoding skips as unknown
/// fields.
#[derive(Clone, PartialEq, Message)]
struct Outline {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphOutline>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "20")]
    training_info: Vec<TrainingOutline>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<FunctionOutline>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphOutline {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeOutline>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorOutline>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<SparseOutline>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainingOutline {
    #[prost(message, repeated, tag = "1")]
    initialization: Vec<GraphOutline>,
    #[prost(message, repeated, tag = "2")]
    algorithm: Vec<GraphOutline>,
}

#[derive(Clone, PartialEq, Message)]
struct FunctionOutline {
    #[prost(message, repeated, tag = "7")]
    node: Vec<NodeOutline>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeOutline {
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeOutline>,
}

/// The fields of an attribute that may hold tensors.
#[derive(Clone, PartialEq, Message)]
struct AttributeOutline {
    #[prost(message, repeated, tag = "5")]
    t: Vec<TensorOutline>,
    #[prost(message, repeated, tag = "6")]
    g: Vec<GraphOutline>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<TensorOutline>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<GraphOutline>,
    #[prost(message, repeated, tag = "22")]
    sparse_tensor: Vec<SparseOutline>,
    #[prost(message, repeated, tag = "23")]
    sparse_tensors: Vec<SparseOutline>,
}

#[derive(Clone, PartialEq, Message)]
struct SparseOutline {
    #[prost(message, repeated, tag = "1")]
    values: Vec<TensorOutline>,
    #[prost(message, repeated, tag = "2")]
    indices: Vec<TensorOutline>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorOutline {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

impl Outline {
    /// Returns every tensor of the file that may have its values in another file, wherever it is.
    fn tensors(&self) -> Vec<&TensorOutline> {
        let training = self.training_info.iter().flat_map(|info| info.initialization.iter().chain(&info.algorithm));
        let mut graphs: Vec<&GraphOutline> = self.graph.iter().chain(training).collect();
        let mut nodes: Vec<&NodeOutline> = self.functions.iter().flat_map(|function| &function.node).collect();
        let mut tensors = Vec::new();
        fn of_sparse(sparse: &SparseOutline) -> impl Iterator<Item = &TensorOutline> {
            sparse.values.iter().chain(&sparse.indices)
        }
        loop {
            while let Some(graph) = graphs.pop() {
                nodes.extend(&graph.node);
                tensors.extend(&graph.initializer);
                tensors.extend(graph.sparse_initializer.iter().flat_map(of_sparse));
            }
            let Some(node) = nodes.pop() else { return tensors };
            for attribute in &node.attribute {
                graphs.extend(attribute.g.iter().chain(&attribute.graphs));
                tensors.extend(attribute.t.iter().chain(&attribute.tensors));
                let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
                tensors.extend(sparse.flat_map(of_sparse));
            }
        }
    }
}

impl OnnxFile {
    /// Reads the metadata of the file `path`, or of `model.onnx` in the folder `path`.
    ///
    /// # Errors
    ///
    /// Returns a [`PolicyError`] if the file is missing, is not an ONNX file, or refers to weights that are missing,
    /// truncated, or outside of its folder.
    pub fn open(path: &Path) -> Result<Self, PolicyError> {
        let path = if path.is_dir() { path.join(MODEL_FILE) } else { path.to_path_buf() };
        refuse_pointer(&path)?;
        let bytes = regular::read(&path).map_err(|source| PolicyError::Read { path: path.clone(), source })?;
        let invalid = |problem: String| PolicyError::File { path: path.clone(), problem };
        let outline = Outline::decode(bytes.as_slice())
            .map_err(|error| invalid(format!("it is not an ONNX file, or is damaged ({error}); export it again")))?;
        drop(bytes);
        let opset = outline.opset_import.iter().find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
        let (Some(graph), Some(opset)) = (&outline.graph, opset) else {
            return Err(invalid(
                "it is not an ONNX file, since it has no graph or no opset; export it again".to_owned(),
            ));
        };
        let largest = graph.initializer.iter().max_by_key(|tensor| tensor.num_values());
        let element = largest.map_or(0, |tensor| tensor.data_type);
        let mut sizes = BTreeMap::new();
        for tensor in outline.tensors().into_iter().filter(|tensor| tensor.is_external()) {
            check_external(&path, tensor, &mut sizes).map_err(invalid)?;
        }
        let (opset, ir_version) = (opset.version, outline.ir_version);
        Ok(Self { path: path.clone(), opset, ir_version, element, data: sizes.into_keys().collect() })
    }

    /// Returns the hash of the file's contents and those of its external weights.
    ///
    /// # Errors
    ///
    /// Returns [`PolicyError::Read`] if a file cannot be read.
    pub fn hash(&self) -> Result<blake3::Hash, PolicyError> {
        let mut hasher = blake3::Hasher::new();
        for path in [&self.path].into_iter().chain(&self.data) {
            hasher.update(file_hash(path)?.as_bytes());
        }
        Ok(hasher.finalize())
    }
}

impl TensorOutline {
    /// Its number of values, at most `i64::MAX`: the file may say anything.
    fn num_values(&self) -> i64 {
        self.dims.iter().fold(1, |product: i64, size| product.saturating_mul(*size))
    }

    fn is_external(&self) -> bool {
        self.data_location == EXTERNAL || !self.external_data.is_empty()
    }
}

/// Returns the hash of a file's contents, read a block at a time.
pub(super) fn file_hash(path: &Path) -> Result<blake3::Hash, PolicyError> {
    let hash = || -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(regular::open(path)?)?;
        Ok(hasher.finalize())
    };
    hash().map_err(|source| PolicyError::Read { path: path.to_path_buf(), source })
}

/// Checks that the file of an external weight exists and is long enough; `sizes` has the sizes of the files so far.
fn check_external(model: &Path, tensor: &TensorOutline, sizes: &mut BTreeMap<PathBuf, u64>) -> Result<(), String> {
    let entry =
        |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    let number = |key: &str| entry(key).map_or(Some(0), |value| value.parse::<u64>().ok());
    let name = &tensor.name;
    let (Some(location), Some(offset), Some(length)) = (entry("location"), number("offset"), number("length")) else {
        return Err(format!("it does not say where the values of `{name}` are; export it again"));
    };
    let path = beside(model, location)?;
    let size = match sizes.get(&path) {
        Some(size) => *size,
        None => std::fs::metadata(&path)
            .map_err(|error| format!("its weights {} are missing ({error}); copy both files", path.display()))?
            .len(),
    };
    refuse_pointer(&path).map_err(|error| format!("its weights are missing: {error}"))?;
    sizes.insert(path.clone(), size);
    if offset.saturating_add(length) > size {
        return Err(format!(
            "its weights {} are cut short: `{name}` ends at byte {}, but there are {size}; copy or export them again",
            path.display(),
            offset.saturating_add(length)
        ));
    }
    Ok(())
}
