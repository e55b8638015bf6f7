//! A matrix product of cuBLAS on a stream of its own, standing in for an engine's prefill. The library is loaded where one is found.

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::ptr;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use cudarc::driver::sys;
use libloading::Library;

use dualpool_cuda::{Context, DeviceMemory};
use dualpool_types::Bytes;

const NAMES: [&str; 3] = ["libcublas.so.13", "libcublas.so.12", "libcublas.so"];

/// M = N = K: large enough to keep every multiprocessor busy for about a millisecond.
const SIDE: usize = 8_192;

const BF16: c_int = 14;
const COMPUTE_32F: c_int = 68;
const DEFAULT_ALGORITHM: c_int = -1;
const AS_IT_IS: c_int = 0;

type Handle = *mut c_void;
type GemmEx = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

pub struct Product {
    context: Context,
    handle: Handle,
    stream: sys::CUstream,
    gemm: GemmEx,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
    matrices: [DeviceMemory; 3],
    _library: Library,
}

impl Product {
    pub fn load(context: &Context, folders: &[PathBuf]) -> anyhow::Result<Product> {
        let library = find(folders).context("no cuBLAS (libcublas.so.13 or .12) was found; name its folder in LD_LIBRARY_PATH")?;
        context.bind()?;
        // SAFETY: the types are those of cuBLAS's documentation, and the library is kept as long as the functions.
        let (create, set_stream, destroy, gemm) = unsafe {
            (
                *library.get::<unsafe extern "C" fn(*mut Handle) -> c_int>(b"cublasCreate_v2")?,
                *library.get::<unsafe extern "C" fn(Handle, sys::CUstream) -> c_int>(b"cublasSetStream_v2")?,
                *library.get::<unsafe extern "C" fn(Handle) -> c_int>(b"cublasDestroy_v2")?,
                *library.get::<GemmEx>(b"cublasGemmEx")?,
            )
        };
        let (mut handle, mut stream) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a context is current; both targets outlive the calls.
        unsafe {
            ensure!(create(&mut handle) == 0, "cublasCreate failed");
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            sys::cuStreamCreate(&mut stream, flags).result()?;
            ensure!(set_stream(handle, stream) == 0, "cublasSetStream failed");
        }
        let matrix = || context.allocate(Bytes((SIDE * SIDE * 2) as u64));
        let matrices = [matrix()?, matrix()?, matrix()?];
        let filler = context.stream()?;
        for matrix in &matrices {
            // 0x3c3c is a small number in bf16: nothing overflows, and no power is saved on zeros.
            filler.fill_async(matrix.whole(), 0x3c)?;
        }
        filler.synchronize()?;
        Ok(Product { context: context.clone(), handle, stream, gemm, destroy, matrices, _library: library })
    }

    /// Milliseconds per product, of `count` in a row.
    pub fn ms(&self, count: u32) -> anyhow::Result<f64> {
        self.context.bind()?;
        let from = Instant::now();
        for _ in 0..count {
            self.queue()?;
        }
        // SAFETY: the stream is this product's and alive.
        unsafe { sys::cuStreamSynchronize(self.stream).result()? };
        Ok(from.elapsed().as_secs_f64() * 1e3 / f64::from(count))
    }

    fn queue(&self) -> anyhow::Result<()> {
        let (one, zero, side) = (1.0f32, 0.0f32, SIDE as c_int);
        let [a, b, c] = self.matrices.each_ref().map(|matrix| ptr::without_provenance_mut::<c_void>(matrix.ptr().0 as usize));
        // SAFETY: three matrices of SIDE x SIDE in bf16 on this context's GPU; the scalars are read before the call returns.
        let code = unsafe {
            (self.gemm)(
                self.handle,
                AS_IT_IS,
                AS_IT_IS,
                side,
                side,
                side,
                (&raw const one).cast(),
                a,
                BF16,
                side,
                b,
                BF16,
                side,
                (&raw const zero).cast(),
                c,
                BF16,
                side,
                COMPUTE_32F,
                DEFAULT_ALGORITHM,
            )
        };
        ensure!(code == 0, "cublasGemmEx failed with code {code}");
        Ok(())
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: both were created once and are destroyed once. What they return says nothing that could be acted on.
        unsafe {
            (self.destroy)(self.handle);
            let _ = sys::cuStreamDestroy_v2(self.stream);
        }
    }
}

fn find(folders: &[PathBuf]) -> Option<Library> {
    let named = NAMES.iter().map(PathBuf::from);
    let in_folders = folders.iter().flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)));
    let open = |path: PathBuf| {
        // It asks for its companion by name, which the loader finds when it is loaded already.
        let companion = path.with_file_name(path.file_name()?.to_str()?.replace("libcublas", "libcublasLt"));
        // SAFETY: loading either runs no code but its own initialisation.
        let companion = unsafe { Library::new(companion) }.ok();
        // SAFETY: as above.
        let library = unsafe { Library::new(path) }.ok()?;
        // Never unloaded: cuBLAS uses it until the program ends.
        std::mem::forget(companion);
        Some(library)
    };
    named.chain(in_folders).find_map(open)
}
