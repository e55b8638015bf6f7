//! NVML's field values with a scope of their own, such as one link: `nvml-wrapper` asks without one.

use std::ffi::{c_int, c_uint};

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError, nvml_try};

/// `nvmlFieldValue_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FieldValue {
    field: c_uint,
    scope: c_uint,
    timestamp: i64,
    latency_us: i64,
    value_type: c_uint,
    result: c_uint,
    value: u64,
}

/// `NVML_VALUE_TYPE_UNSIGNED_INT`: only the lower half of the value is written.
const UNSIGNED_INT: c_uint = 1;

/// The values of these fields, each with its scope; none where the chip or the driver does not tell.
pub(crate) fn field_values<const N: usize>(
    device: &Device<'_>,
    fields: [(c_uint, c_uint); N],
) -> Result<[Option<u64>; N], NvmlError> {
    let mut values = fields.map(|(field, scope)| FieldValue { field, scope, ..FieldValue::default() });
    let call = device.nvml().lib().nvmlDeviceGetFieldValues.as_ref().map_err(|_| NvmlError::FunctionNotFound)?;
    // SAFETY: the handle is of a live `Nvml`, `FieldValue` has the layout of `nvmlFieldValue_t`, and the count is the array's length.
    nvml_try(unsafe { call(device.handle(), N as c_int, values.as_mut_ptr().cast()) })?;
    Ok(values.map(|FieldValue { value_type, result, value, .. }| {
        let value = if value_type == UNSIGNED_INT { value & u64::from(u32::MAX) } else { value };
        nvml_try(result).is_ok().then_some(value)
    }))
}
