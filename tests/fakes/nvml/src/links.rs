//! How GPUs reach each other.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::*;

use crate::device::pci_info;
use crate::machine::{INVALID_ARGUMENT, NOT_SUPPORTED, Return, View, gpu, index, with};
use crate::out::put;
use crate::script::NvLink;

fn link(device: nvmlDevice_t, link: c_uint, call: impl FnOnce(View<'_>, NvLink) -> Return) -> Return {
    gpu(device, "nvlink", |view| match view.gpu.nvlinks.get(link as usize).copied() {
        Some(link) => call(view, link),
        None if view.gpu.nvlinks.is_empty() => NOT_SUPPORTED,
        None => INVALID_ARGUMENT,
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkState(device: nvmlDevice_t, number: c_uint, to: *mut nvmlEnableState_t) -> Return {
    link(device, number, |_, link| put(to, link.active.into()))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkVersion(device: nvmlDevice_t, number: c_uint, to: *mut c_uint) -> Return {
    link(device, number, |_, link| put(to, link.version))
}

/// All capabilities but SLI, as a data-centre GPU has them.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkCapability(
    device: nvmlDevice_t,
    number: c_uint,
    capability: nvmlNvLinkCapability_t,
    to: *mut c_uint,
) -> Return {
    let sli = nvmlNvLinkCapability_enum_NVML_NVLINK_CAP_SLI_BRIDGE;
    link(device, number, |_, link| put(to, u32::from(link.active && capability != sli)))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkRemoteDeviceType(
    device: nvmlDevice_t,
    number: c_uint,
    to: *mut nvmlIntNvLinkDeviceType_t,
) -> Return {
    let kind = |link: NvLink| match link.to {
        Some(_) => nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU,
        None => nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH,
    };
    link(device, number, |_, link| put(to, kind(link)))
}

/// The other end; a switch is at a bus id that is no GPU's.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: nvmlDevice_t, number: c_uint, to: *mut nvmlPciInfo_t) -> Return {
    let mut found = None;
    let answer = link(device, number, |_, link| {
        found = Some(link);
        crate::machine::OK
    });
    let Some(link) = found else { return answer };
    with(|machine| {
        let switch = crate::script::Gpu { pci: "00000000:C1:00.0".into(), ..Default::default() };
        match link.to {
            None => put(to, pci_info(&switch)),
            Some(other) => machine.script.gpus.get(other).map_or(INVALID_ARGUMENT, |gpu| put(to, pci_info(gpu))),
        }
    })
}

fn pair(a: nvmlDevice_t, b: nvmlDevice_t, call: impl FnOnce(&crate::machine::Machine, usize, usize) -> Return) -> Return {
    with(|machine| match (index(machine, a), index(machine, b)) {
        (Some(a), Some(b)) => call(machine, a, b),
        _ => INVALID_ARGUMENT,
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTopologyCommonAncestor(a: nvmlDevice_t, b: nvmlDevice_t, to: *mut nvmlGpuTopologyLevel_t) -> Return {
    pair(a, b, |machine, a, b| {
        let node = |gpu: usize| machine.script.gpus[gpu].numa_node;
        put(
            to,
            match (a == b, node(a) == node(b)) {
                (true, _) => nvmlGpuLevel_enum_NVML_TOPOLOGY_INTERNAL,
                (_, true) => nvmlGpuLevel_enum_NVML_TOPOLOGY_HOSTBRIDGE,
                (_, false) => nvmlGpuLevel_enum_NVML_TOPOLOGY_SYSTEM,
            },
        )
    })
}

/// Whether an active link of each leads to the other one, or both have one to a switch.
fn linked(machine: &crate::machine::Machine, a: usize, b: usize) -> bool {
    let leads = |from: usize, to: Option<usize>| machine.script.gpus[from].nvlinks.iter().any(|link| link.active && link.to == to);
    leads(a, Some(b)) && leads(b, Some(a)) || leads(a, None) && leads(b, None)
}

/// Over PCIe alone there are no atomics, as on most machines.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetP2PStatus(
    a: nvmlDevice_t,
    b: nvmlDevice_t,
    what: nvmlGpuP2PCapsIndex_t,
    to: *mut nvmlGpuP2PStatus_t,
) -> Return {
    let needs_link =
        what == nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_NVLINK || what == nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_ATOMICS;
    pair(a, b, |machine, a, b| {
        let refused = machine.script.no_peer_access.iter().any(|&pair| pair == (a, b) || pair == (b, a));
        let (yes, no) = (nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_OK, nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_NOT_SUPPORTED);
        put(to, if refused || needs_link && !linked(machine, a, b) { no } else { yes })
    })
}
