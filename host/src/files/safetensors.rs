//! Reads and writes safetensors files as torch tensors; besides the result, at most one tensor is in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use tch::{Kind, Tensor};

use crate::files::atomic::{self, WriteError};
use crate::files::git_lfs::{GitLfsPointer, refuse_pointer};
use crate::files::{regular, tensor_bytes};

/// Length of the number at the start of a file, the length of the header.
const PREFIX_BYTES: u64 = 8;
/// Longer headers are rejected; the safetensors library has the same limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A safetensors file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The file does not exist, or reading fails.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file is shorter than its header says.
    #[error(
        "{} is cut short: it has {found_bytes} bytes, but its header promises {expected_bytes}; copy or download it again",
        path.display()
    )]
    CutShort {
        /// The file.
        path: PathBuf,
        /// The length that follows from the header.
        expected_bytes: u64,
        /// The length of the file.
        found_bytes: u64,
    },
    /// The file is not the file itself.
    #[error(transparent)]
    Pointer(#[from] GitLfsPointer),
    /// The header is not that of a safetensors file.
    #[error("{} is not a safetensors file: {message}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The file does not contain the tensor.
    #[error("{} has no tensor `{name}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The dtype is not supported by libtorch or this program.
    #[error(
        "{}: tensor `{name}` is of dtype {dtype}, which is not supported; convert it to float32, bfloat16 or float16",
        path.display()
    )]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The file's or libtorch's name of the dtype.
        dtype: String,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// libtorch failed, most likely because memory ran out.
    #[error("{}: tensor `{name}` could not be written: {message}", path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The first line of libtorch's message.
        message: String,
    },
}

/// An open file whose header is read and checked against its length.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_start: u64,
}

impl SafetensorsFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    ///
    /// Returns [`SafetensorsError`] if the file is missing, not a safetensors file, or cut short.
    pub fn open(path: &Path) -> Result<SafetensorsFile, SafetensorsError> {
        let read_error = |source| SafetensorsError::Read { path: path.to_path_buf(), source };
        let header_error = |message: String| SafetensorsError::Header { path: path.to_path_buf(), message };
        let cut_short = |expected_bytes, found_bytes| SafetensorsError::CutShort {
            path: path.to_path_buf(),
            expected_bytes,
            found_bytes,
        };
        refuse_pointer(path)?;
        let mut file = regular::open(path).map_err(read_error)?;
        let found_bytes = file.metadata().map_err(read_error)?.len();
        if found_bytes < PREFIX_BYTES {
            return Err(cut_short(PREFIX_BYTES, found_bytes));
        }
        let mut prefix = [0; PREFIX_BYTES as usize];
        file.read_exact(&mut prefix).map_err(read_error)?;
        let header_bytes = u64::from_le_bytes(prefix);
        if header_bytes > MAX_HEADER_BYTES {
            return Err(header_error(format!("its header would be {header_bytes} bytes long")));
        }
        let data_start = PREFIX_BYTES + header_bytes;
        if found_bytes < data_start {
            return Err(cut_short(data_start, found_bytes));
        }
        let mut header = Vec::new();
        (&mut file).take(header_bytes).read_to_end(&mut header).map_err(read_error)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| header_error(format!("its header does not parse ({error})")))?;
        let expected_bytes = data_start + metadata.data_len() as u64;
        if found_bytes < expected_bytes {
            return Err(cut_short(expected_bytes, found_bytes));
        }
        if found_bytes > expected_bytes {
            return Err(header_error(format!("{} bytes follow its last tensor", found_bytes - expected_bytes)));
        }
        Ok(SafetensorsFile { path: path.to_path_buf(), file, metadata, data_start })
    }

    /// Returns the names of the tensors, in the order of their data.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Returns the shape of a tensor; None if the file does not contain it.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.metadata.info(name).map(shape)
    }

    /// Returns the path that the file was opened at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the dtype of a tensor; None if the file does not contain it, or libtorch has no such dtype.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.metadata.info(name).and_then(|info| kind(info.dtype))
    }

    /// Reads one tensor to memory on the CPU that libtorch allocates and aligns.
    ///
    /// # Errors
    ///
    /// Returns [`SafetensorsError`] if the file does not contain the tensor, its dtype is not supported, or reading fails.
    pub fn read(&self, name: &str) -> Result<Tensor, SafetensorsError> {
        let info = self
            .metadata
            .info(name)
            .ok_or_else(|| SafetensorsError::Missing { path: self.path.clone(), name: name.into() })?;
        let kind = kind(info.dtype).ok_or_else(|| SafetensorsError::Dtype {
            path: self.path.clone(),
            name: name.into(),
            dtype: format!("{:?}", info.dtype),
        })?;
        let mut at = self.data_start + info.data_offsets.0 as u64;
        tensor_bytes::read(&shape(info), kind, |bytes| {
            self.file.read_exact_at(bytes, at)?;
            at += bytes.len() as u64;
            Ok(())
        })
        .map_err(|source| SafetensorsError::Read { path: self.path.clone(), source })
    }
}

/// Reads all tensors of a file, in the order of their data.
///
/// # Errors
///
/// As [`SafetensorsFile::open`] and [`SafetensorsFile::read`].
pub fn read(path: &Path) -> Result<IndexMap<String, Tensor>, SafetensorsError> {
    let file = SafetensorsFile::open(path)?;
    file.names().into_iter().map(|name| file.read(&name).map(|tensor| (name, tensor))).collect()
}

/// Writes tensors and metadata to a file that appears whole or not at all.
///
/// The order of the data depends only on dtypes and names, as in files of the safetensors library, so equal tensors give
/// equal bytes.
///
/// # Errors
///
/// Returns [`SafetensorsError`] if a dtype is not supported or writing fails; an existing file is then unchanged.
pub fn write<'t>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
    metadata: &[(&str, &str)],
) -> Result<(), SafetensorsError> {
    let mut entries = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let dtype = tensor.f_kind().ok().and_then(dtype).ok_or_else(|| SafetensorsError::Dtype {
                path: path.to_path_buf(),
                name: name.into(),
                dtype: format!("{:?}", tensor.f_kind()),
            })?;
            Ok((dtype, name, tensor))
        })
        .collect::<Result<Vec<_>, SafetensorsError>>()?;
    // Widest dtype first keeps every tensor aligned.
    entries.sort_by(|(left_dtype, left, _), (right_dtype, right, _)| right_dtype.cmp(left_dtype).then(left.cmp(right)));

    let header = header(path, &entries, metadata)?;
    let mut failed = None;
    let written = atomic::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, name, tensor) in &entries {
            let mut bytes = vec![0; num_bytes(tensor)];
            if let Err(error) = tensor.f_copy_data_u8(&mut bytes, tensor.numel()) {
                failed = Some(torch_error(path, name, &error));
                return Err(io::ErrorKind::Other.into());
            }
            file.write_all(&bytes)?;
        }
        Ok(())
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}

/// Returns the JSON header, padded with spaces to a multiple of 8 bytes.
fn header(
    path: &Path,
    entries: &[(Dtype, &str, &Tensor)],
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, SafetensorsError> {
    let mut start = 0;
    let infos = entries
        .iter()
        .map(|(dtype, name, tensor)| {
            let end = start + num_bytes(tensor);
            let shape = tensor.size().iter().map(|&size| size as usize).collect();
            let info = TensorInfo { dtype: *dtype, shape, data_offsets: (start, end) };
            start = end;
            ((*name).to_owned(), info)
        })
        .collect();
    let metadata: HashMap<_, _> = metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let header_error = |message: String| SafetensorsError::Header { path: path.to_path_buf(), message };
    let metadata = Metadata::new((!metadata.is_empty()).then_some(metadata), infos)
        .map_err(|error| header_error(error.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| header_error(error.to_string()))?;
    header.resize(header.len().next_multiple_of(PREFIX_BYTES as usize), b' ');
    Ok(header)
}

/// Returns the size of a tensor's values in a file.
#[must_use]
pub fn num_bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

fn shape(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().map(|&size| size as i64).collect()
}

fn torch_error(path: &Path, name: &str, error: &tch::TchError) -> SafetensorsError {
    SafetensorsError::Torch {
        path: path.to_path_buf(),
        name: name.into(),
        message: error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        _ => return None,
    })
}

fn dtype(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Bool => Dtype::BOOL,
        Kind::Uint8 => Dtype::U8,
        Kind::Int8 => Dtype::I8,
        Kind::Int16 => Dtype::I16,
        Kind::Int => Dtype::I32,
        Kind::Int64 => Dtype::I64,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        _ => return None,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tch::Device;

    fn example() -> Vec<(&'static str, Tensor)> {
        vec![
            ("ids", Tensor::from_slice(&[1_i64, -2, 3])),
            ("half", Tensor::from_slice(&[0.5_f32, 1.5]).to_kind(Kind::BFloat16)),
            ("matrix", Tensor::from_slice(&[1_f32, 2., 3., 4., 5., 6.]).view([2, 3]).tr()),
            ("scalar", Tensor::from(2.5_f64)),
            ("mask", Tensor::from_slice(&[true, false, true])),
            ("empty", Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))),
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tensors.safetensors");
        let tensors = example();
        write(&path, tensors.iter().map(|(name, tensor)| (*name, tensor)), &[("format", "pt")]).unwrap();
        let found = read(&path).unwrap();
        assert_eq!(found.len(), tensors.len());
        for (name, tensor) in &tensors {
            assert_eq!((&found[*name], found[*name].kind()), (tensor, tensor.kind()), "{name}");
            assert_eq!(found[*name].size(), tensor.size(), "{name}");
        }
        let bytes = std::fs::read(&path).unwrap();
        write(&path, tensors.iter().rev().map(|(name, tensor)| (*name, tensor)), &[("format", "pt")]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_file_cut_short_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write(&path, [("x", &Tensor::from_slice(&[1_f32, 2.]))], &[]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for (length, expected) in [(bytes.len() - 1, bytes.len()), (20, bytes.len() - 8), (3, 8)] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(
                SafetensorsFile::open(&path).unwrap_err().to_string(),
                format!(
                    "{} is cut short: it has {length} bytes, but its header promises {expected}; copy or download it again",
                    path.display()
                )
            );
        }
    }

    #[test]
    fn other_files_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, b"version https://git-lfs.github.com/spec/v1\n").unwrap();
        let message = SafetensorsFile::open(&path).unwrap_err().to_string();
        assert!(message.contains("is a Git LFS pointer, not the file that it stands for"), "{message}");
        std::fs::write(&path, b"<!doctype html>").unwrap();
        let message = SafetensorsFile::open(&path).unwrap_err().to_string();
        assert!(message.contains("is not a safetensors file: its header would be"), "{message}");
        std::fs::write(&path, b"\x02\0\0\0\0\0\0\0[]").unwrap();
        let message = SafetensorsFile::open(&path).unwrap_err().to_string();
        assert!(message.contains("its header does not parse"), "{message}");
    }
}
