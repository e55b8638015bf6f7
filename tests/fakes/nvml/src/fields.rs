//! Field values: counters that only grow, and the speed of links.

use std::ffi::c_int;

use nvml_wrapper_sys::bindings::field_id::*;
use nvml_wrapper_sys::bindings::*;

use crate::machine::{INVALID_ARGUMENT, NOT_SUPPORTED, OK, Return, View, gpu};
use crate::out::slice;

/// The scope that stands for all links together.
const ALL_LINKS: u32 = u32::MAX;

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetFieldValues(device: nvmlDevice_t, count: c_int, values: *mut nvmlFieldValue_t) -> Return {
    if count <= 0 || values.is_null() {
        return INVALID_ARGUMENT;
    }
    gpu(device, "", |view| {
        for value in slice(values, count as usize) {
            let answer = counted(&view, value.fieldId, value.scopeId);
            value.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
            value.nvmlReturn = if answer.is_some() { OK } else { NOT_SUPPORTED };
            value.value.ullVal = answer.unwrap_or(0);
        }
        OK
    })
}

fn counted(view: &View<'_>, field: u32, scope: u32) -> Option<u64> {
    let refused = |group: &str| view.gpu.unsupported.iter().any(|name| name == group);
    let so_far = |mib_per_s: u32, unit: f64| Some((f64::from(mib_per_s) * unit * view.seconds) as u64);
    let links = view.gpu.nvlinks.iter().filter(|link| link.active).count() as u32;
    let share = match scope {
        ALL_LINKS => 1,
        link if link < links => links,
        _ => 0,
    };
    match field {
        NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX | NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX => {
            if refused("nvlink") || links == 0 || share == 0 {
                return None;
            }
            so_far(view.now.nvlink_mib_s[usize::from(field == NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX)] / share, 1024.0)
        }
        NVML_FI_DEV_NVLINK_GET_SPEED => {
            view.gpu.nvlinks.get(scope as usize).filter(|link| link.active && !refused("nvlink"))?.mb_per_s
        }
        NVML_FI_DEV_PCIE_COUNT_TX_BYTES | NVML_FI_DEV_PCIE_COUNT_RX_BYTES => {
            if refused("pcie") || !view.gpu.pcie_counters {
                return None;
            }
            so_far(view.now.pcie_mib_s[usize::from(field == NVML_FI_DEV_PCIE_COUNT_RX_BYTES)], 1_048_576.0)
        }
        _ => None,
    }
}
