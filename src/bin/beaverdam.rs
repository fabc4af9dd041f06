//! The `beaverdam` command; all of it is in [`beaverdam::cli`].

fn main() -> std::process::ExitCode {
    beaverdam::cli::main()
}
