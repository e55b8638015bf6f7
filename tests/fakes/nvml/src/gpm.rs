//! GPM: samples that are taken apart in time, and metrics of the time between two of them.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::*;

use crate::machine::{INVALID_ARGUMENT, NOT_SUPPORTED, OK, Return, gpu};
use crate::out::{put, slice, take};

/// What a sample handle points to.
#[derive(Clone, Copy, Default)]
struct Sample {
    /// None until the sample was taken.
    of: Option<usize>,
    sm: f64,
    memory: f64,
    pcie: [f64; 2],
    nvlink: Option<[f64; 2]>,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmQueryDeviceSupport(device: nvmlDevice_t, to: *mut nvmlGpmSupport_t) -> Return {
    gpu(device, "", |view| put(to, nvmlGpmSupport_t { version: 1, isSupportedDevice: view.gpu.gpm.into() }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmSampleAlloc(to: *mut nvmlGpmSample_t) -> Return {
    put(to, Box::into_raw(Box::<Sample>::default()).cast())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmSampleFree(sample: nvmlGpmSample_t) -> Return {
    if sample.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: NVML's contract: the handle came from `nvmlGpmSampleAlloc`, and the caller does not use it after this.
    drop(unsafe { Box::from_raw(sample.cast::<Sample>()) });
    OK
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmSampleGet(device: nvmlDevice_t, sample: nvmlGpmSample_t) -> Return {
    gpu(device, "gpm", |view| {
        if !view.gpu.gpm {
            return NOT_SUPPORTED;
        }
        let now = &view.now;
        let taken = Sample {
            of: Some(view.index),
            sm: now.sm.into(),
            memory: now.memory.into(),
            pcie: now.pcie_mib_s.map(f64::from),
            nvlink: (!view.gpu.nvlinks.is_empty()).then(|| now.nvlink_mib_s.map(f64::from)),
        };
        put(sample.cast(), taken)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlGpmMetricsGet(request: *mut nvmlGpmMetricsGet_t) -> Return {
    let Some(request) = slice(request, 1).first_mut() else { return INVALID_ARGUMENT };
    let (first, second) = (take(request.sample1.cast::<Sample>()), take(request.sample2.cast::<Sample>()));
    let (Some(first), Some(second)) = (first, second) else { return INVALID_ARGUMENT };
    let of_one = first.of.is_some() && first.of == second.of && request.sample1 != request.sample2;
    let count = request.numMetrics as usize;
    if !of_one || request.version != NVML_GPM_METRICS_GET_VERSION || count > request.metrics.len() {
        return INVALID_ARGUMENT;
    }
    for metric in &mut request.metrics[..count] {
        let value = measured(&second, metric.metricId);
        metric.nvmlReturn = if value.is_some() { OK } else { NOT_SUPPORTED };
        metric.value = value.unwrap_or(0.0);
    }
    OK
}

// The bindings keep the C library's names.
#[allow(non_upper_case_globals)]
fn measured(sample: &Sample, id: c_uint) -> Option<f64> {
    Some(match id {
        nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_UTIL => sample.sm,
        nvmlGpmMetricId_t_NVML_GPM_METRIC_DRAM_BW_UTIL => sample.memory,
        nvmlGpmMetricId_t_NVML_GPM_METRIC_PCIE_TX_PER_SEC => sample.pcie[0],
        nvmlGpmMetricId_t_NVML_GPM_METRIC_PCIE_RX_PER_SEC => sample.pcie[1],
        nvmlGpmMetricId_t_NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC => sample.nvlink?[0],
        nvmlGpmMetricId_t_NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC => sample.nvlink?[1],
        _ => return None,
    })
}
