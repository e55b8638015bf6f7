//! NVIDIA's run-time compiler, loaded when it is needed: from where the system's loader finds it, from the CUDA toolkit, or from the
//! package that vLLM's own environment carries (`nvidia-cuda-nvrtc`). It needs no GPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null;

use libloading::Library;
use thiserror::Error;

use super::super::ComputeCapability;

/// Names of the library, newest first: the plain one comes only with a toolkit.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// A chip as compilers name it: `sm_90` for compute capability 9.0.
fn sm(target: ComputeCapability) -> String {
    format!("sm_{}{}", target.major, target.minor)
}

/// What NVRTC made of a source.
#[derive(Clone, Debug)]
pub struct Cubin {
    pub image: Vec<u8>,
    /// The compiler's messages; with `-v` for ptxas, registers and spills of every kernel.
    pub log: String,
}

#[derive(Debug, Error)]
pub enum NvrtcError {
    #[error("no NVRTC library (libnvrtc.so.13 or .12) was found by the loader or in: {}; install the CUDA toolkit or `pip install nvidia-cuda-nvrtc` into engine.venv, or name its folder in LD_LIBRARY_PATH", listed(.looked))]
    NotFound { looked: Vec<PathBuf> },
    #[error("{} is no usable NVRTC library: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
    #[error("{compiler} does not know {}; install a newer nvidia-cuda-nvrtc", sm(*.target))]
    UnknownTarget { compiler: String, target: ComputeCapability },
    #[error("{name} does not compile for {} with {compiler}: {log}", sm(*.target))]
    Compile { name: String, target: ComputeCapability, compiler: String, log: String },
    #[error("{call} of {compiler} failed with code {code}")]
    Call { call: &'static str, compiler: String, code: i32 },
}

fn listed(folders: &[PathBuf]) -> String {
    match folders {
        [] => "no folder".into(),
        folders => folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "),
    }
}

/// Folders that may hold the library, beside those of the system's loader: the toolkit's, and those of NVIDIA's packages in the virtual
/// environment `venv`.
pub fn folders(venv: Option<&Path>) -> Vec<PathBuf> {
    let toolkits = std::env::var_os("CUDA_HOME").map(PathBuf::from).into_iter().chain([PathBuf::from("/usr/local/cuda")]);
    let mut folders: Vec<PathBuf> = toolkits.map(|toolkit| toolkit.join("lib64")).collect();
    let below = |folder: &Path| {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        // The newer package first: `cu13` before `cu12`.
        paths.sort_by(|a, b| b.cmp(a));
        paths
    };
    for python in venv.iter().flat_map(|venv| below(&venv.join("lib"))) {
        let packages = below(&python.join("site-packages/nvidia"));
        folders.extend(packages.into_iter().map(|package| package.join("lib")));
    }
    folders.retain(|folder| NAMES.iter().any(|name| folder.join(name).exists()));
    folders
}

type Program = *mut c_void;
type Code = c_int;

/// A loaded NVRTC.
#[derive(Debug)]
pub struct Nvrtc {
    name: String,
    create:
        unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> Code,
    destroy: unsafe extern "C" fn(*mut Program) -> Code,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Code,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Code,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Code,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Code,
    archs_count: unsafe extern "C" fn(*mut c_int) -> Code,
    archs: unsafe extern "C" fn(*mut c_int) -> Code,
    // Last, so that they outlive the functions above.
    _library: Library,
    _builtins: Option<Library>,
}

impl Nvrtc {
    /// The first NVRTC that knows `target`: the loader's, else one in `folders`.
    pub fn find(folders: &[PathBuf], target: ComputeCapability) -> Result<Nvrtc, NvrtcError> {
        let named = NAMES.iter().map(PathBuf::from);
        let in_folders = folders.iter().flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)));
        let mut why_not = None;
        for path in named.chain(in_folders.filter(|path| path.exists())) {
            match Nvrtc::open(&path).and_then(|nvrtc| nvrtc.knows(target).map(|()| nvrtc)) {
                Ok(nvrtc) => return Ok(nvrtc),
                // That the loader knows no such name says nothing.
                Err(NvrtcError::Unusable { path, .. }) if path.parent() == Some(Path::new("")) => {}
                Err(error) => why_not = why_not.or(Some(error)),
            }
        }
        Err(why_not.unwrap_or_else(|| NvrtcError::NotFound { looked: folders.to_vec() }))
    }

    /// The library at `path`, or the one that the loader finds for a bare name.
    pub fn open(path: &Path) -> Result<Nvrtc, NvrtcError> {
        let unusable = |error: libloading::Error| NvrtcError::Unusable { path: path.into(), why: error.to_string() };
        let builtins = builtins_beside(path);
        // SAFETY: loading NVRTC runs no code but its own initialisation, which asks nothing of its caller.
        let library = unsafe { Library::new(path) }.map_err(unusable)?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field's type is the function's signature in NVRTC's documentation, the same in releases 11.2 to 13; the
                // library is kept as long as the pointer.
                *unsafe { library.get($name) }.map_err(unusable)?
            };
        }
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code = function!(b"nvrtcVersion");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to live integers.
        let code = unsafe { version(&mut major, &mut minor) };
        let name = format!("NVRTC {major}.{minor} ({})", path.display());
        if code != 0 {
            return Err(NvrtcError::Call { call: "nvrtcVersion", compiler: name, code });
        }
        Ok(Nvrtc {
            name,
            create: function!(b"nvrtcCreateProgram"),
            destroy: function!(b"nvrtcDestroyProgram"),
            compile: function!(b"nvrtcCompileProgram"),
            log_size: function!(b"nvrtcGetProgramLogSize"),
            log: function!(b"nvrtcGetProgramLog"),
            cubin_size: function!(b"nvrtcGetCUBINSize"),
            cubin: function!(b"nvrtcGetCUBIN"),
            archs_count: function!(b"nvrtcGetNumSupportedArchs"),
            archs: function!(b"nvrtcGetSupportedArchs"),
            _library: library,
            _builtins: builtins,
        })
    }

    /// Version and place, as the messages show it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error unless this NVRTC compiles for `target`.
    pub fn knows(&self, target: ComputeCapability) -> Result<(), NvrtcError> {
        let mut count = 0;
        // SAFETY: `count` is a live integer.
        self.done("nvrtcGetNumSupportedArchs", unsafe { (self.archs_count)(&mut count) })?;
        let mut archs = vec![0; usize::try_from(count).unwrap_or_default()];
        // SAFETY: the array has as many elements as the call above said it would write.
        self.done("nvrtcGetSupportedArchs", unsafe { (self.archs)(archs.as_mut_ptr()) })?;
        if archs.contains(&((target.major * 10 + target.minor) as c_int)) {
            Ok(())
        } else {
            Err(NvrtcError::UnknownTarget { compiler: self.name.clone(), target })
        }
    }

    /// `source` as machine code for exactly `target`. `name` is what messages call the source.
    pub fn compile(&self, name: &str, source: &str, target: ComputeCapability, options: &[&str]) -> Result<Cubin, NvrtcError> {
        self.knows(target)?;
        let c_string = |text: &str| CString::new(text).expect("no NUL in a source, a name or an option of this program");
        let (source, c_name) = (c_string(source), c_string(name));
        let mut program = OpenProgram { nvrtc: self, program: std::ptr::null_mut() };
        // SAFETY: both strings end with NUL and live until the program is destroyed at the end of this function; there are no headers.
        let code = unsafe { (self.create)(&mut program.program, source.as_ptr(), c_name.as_ptr(), 0, null(), null()) };
        self.done("nvrtcCreateProgram", code)?;

        let architecture = format!("--gpu-architecture={}", sm(target));
        let options: Vec<CString> = [architecture.as_str(), "--std=c++17"].iter().chain(options).map(|o| c_string(o)).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program was created above; the options are as many as said, each ends with NUL.
        let code = unsafe { (self.compile)(program.program, pointers.len() as c_int, pointers.as_ptr()) };
        let log = program.log()?;
        if code != 0 {
            return Err(NvrtcError::Compile { name: name.into(), target, compiler: self.name.clone(), log });
        }
        Ok(Cubin { image: program.bytes("nvrtcGetCUBIN", self.cubin_size, self.cubin)?, log })
    }

    fn done(&self, call: &'static str, code: Code) -> Result<(), NvrtcError> {
        if code == 0 { Ok(()) } else { Err(NvrtcError::Call { call, compiler: self.name.clone(), code }) }
    }
}

/// NVRTC opens its table of built-in functions by name, and finds it in no package folder; it is content when it is loaded already.
fn builtins_beside(path: &Path) -> Option<Library> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let names = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name());
    let name = names.into_iter().find(|name| name.to_string_lossy().starts_with("libnvrtc-builtins.so."))?;
    // SAFETY: a table of constants; loading it runs no code but its own initialisation.
    unsafe { Library::new(folder.join(name)) }.ok()
}

/// A program that NVRTC knows of, until it is dropped.
struct OpenProgram<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl OpenProgram<'_> {
    /// What a pair of calls gives: how many bytes, and the bytes.
    fn bytes(
        &self,
        call: &'static str,
        size: unsafe extern "C" fn(Program, *mut usize) -> Code,
        get: unsafe extern "C" fn(Program, *mut c_char) -> Code,
    ) -> Result<Vec<u8>, NvrtcError> {
        let mut length = 0;
        // SAFETY: the program is alive, and `length` a live integer.
        self.nvrtc.done(call, unsafe { size(self.program, &mut length) })?;
        let mut bytes = vec![0u8; length];
        // SAFETY: the buffer has the length that the library asked for.
        self.nvrtc.done(call, unsafe { get(self.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn log(&self) -> Result<String, NvrtcError> {
        let bytes = self.bytes("nvrtcGetProgramLog", self.nvrtc.log_size, self.nvrtc.log)?;
        let text = CStr::from_bytes_until_nul(&bytes).map(CStr::to_string_lossy).unwrap_or_default();
        Ok(text.trim().to_string())
    }
}

impl Drop for OpenProgram<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: created by this library, and destroyed once. What it returns says nothing that could be acted on.
            unsafe { (self.nvrtc.destroy)(&mut self.program) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_library_is_named_with_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libnvrtc.so.13"), "no library").unwrap();
        let error = Nvrtc::open(&folder.path().join("libnvrtc.so.13")).unwrap_err();
        assert!(error.to_string().contains("libnvrtc.so.13 is no usable NVRTC library"), "{error}");
        let error = NvrtcError::NotFound { looked: Vec::new() };
        assert!(error.to_string().contains("pip install nvidia-cuda-nvrtc"), "{error}");
    }

    #[test]
    fn packages_of_a_virtual_environment_are_looked_at() {
        let venv = tempfile::tempdir().unwrap();
        let package = venv.path().join("lib/python3.12/site-packages/nvidia/cu13/lib");
        std::fs::create_dir_all(&package).unwrap();
        assert!(!folders(Some(venv.path())).contains(&package));
        std::fs::write(package.join("libnvrtc.so.13"), "").unwrap();
        assert!(folders(Some(venv.path())).contains(&package));
    }
}
