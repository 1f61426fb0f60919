//! Checks of a caller's tensors before they reach a kernel: a bad index on a GPU would end the process.

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Returns the common name of a dtype.
pub(crate) fn dtype_name(kind: Kind) -> String {
    let name = match kind {
        Kind::Float => "float32",
        Kind::Double => "float64",
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        Kind::Int64 => "int64",
        Kind::Int => "int32",
        Kind::Bool => "bool",
        other => return format!("{other:?}"),
    };
    name.into()
}

/// Fails unless the field is a float32, bfloat16, float16 or float64 tensor.
pub(crate) fn check_floating(field: &str, tensor: &Tensor) -> Result<()> {
    match tensor.f_kind()? {
        Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16 => Ok(()),
        other => {
            invalid(format!("{field} is {}, but it must be float32, bfloat16, float16 or float64", dtype_name(other)))
        }
    }
}

/// Fails unless the field has this shape.
pub(crate) fn check_shape(field: &str, tensor: &Tensor, shape: &[i64]) -> Result<()> {
    if tensor.size() == shape {
        return Ok(());
    }
    invalid(format!("{field} has shape {:?}, but it must have shape {shape:?}", tensor.size()))
}

/// Fails unless the field has one dimension.
pub(crate) fn check_list(field: &str, tensor: &Tensor) -> Result<()> {
    if tensor.dim() == 1 {
        return Ok(());
    }
    invalid(format!("{field} has shape {:?}, but it must have one dimension", tensor.size()))
}

/// Returns the field, or an error that says what needs it.
pub(crate) fn required<'a>(field: &str, tensor: Option<&'a Tensor>, reason: &str) -> Result<&'a Tensor> {
    tensor.ok_or_else(|| Error::InvalidArgument(format!("{field} is missing: {reason} needs it")))
}

/// Copies an int64 field to main memory, flattened; every entry must be in `0..below`.
pub(crate) fn read_indices(field: &str, tensor: &Tensor, below: i64) -> Result<Vec<i64>> {
    let kind = tensor.f_kind()?;
    if kind != Kind::Int64 {
        return invalid(format!("{field} is {}, but it must be int64", dtype_name(kind)));
    }
    let values = Vec::<i64>::try_from(&flat_on_cpu(tensor)?)?;
    if let Some(at) = values.iter().position(|value| !(0..below).contains(value)) {
        return invalid(format!("{field} is {} at {at}, but it must be at least 0 and below {below}", values[at]));
    }
    Ok(values)
}

/// Copies a floating-point field to main memory, flattened, as float64.
pub(crate) fn read_floats(field: &str, tensor: &Tensor) -> Result<Vec<f64>> {
    check_floating(field, tensor)?;
    Ok(Vec::<f64>::try_from(&flat_on_cpu(tensor)?.f_to_kind(Kind::Double)?)?)
}

/// Copies a bool field to main memory, flattened.
pub(crate) fn read_bools(field: &str, tensor: &Tensor) -> Result<Vec<bool>> {
    let kind = tensor.f_kind()?;
    if kind != Kind::Bool {
        return invalid(format!("{field} is {}, but it must be bool", dtype_name(kind)));
    }
    Ok(Vec::<bool>::try_from(&flat_on_cpu(tensor)?)?)
}

fn flat_on_cpu(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_reshape([-1])?)
}

pub(crate) fn invalid<T>(message: String) -> Result<T> {
    Err(Error::InvalidArgument(message))
}
