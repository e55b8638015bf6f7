//! The `dualpool` program. Everything it does is in the library; see `src/cli`.

fn main() -> std::process::ExitCode {
    dualpool::cli::main()
}
