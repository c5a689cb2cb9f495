//! Does the command compile for arm64? Checked without an arm64 machine, and without linking.
//!
//! With rustup's `aarch64-unknown-linux-gnu` that is a plain `cargo check`; otherwise the standard
//! library is built from its sources. zstd's C sources need a cross compiler either way.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::packages;
use crate::toolchain::Compiler;
use crate::workspace::{output, root, run};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const C_COMPILER: &str = "aarch64-linux-gnu-gcc";
const C_PACKAGES: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

/// Compiles the library and the command for arm64.
pub(crate) fn check() -> Result<()> {
    let root = root();
    if output(Command::new(C_COMPILER).arg("--version")).is_err() {
        packages::ensure(&C_PACKAGES, "C for arm64, for zstd")?;
    }
    let mut cargo = cargo(&root)?;
    cargo
        .args(["--target", TARGET, "--package", "leaktrace", "--locked", "--quiet"])
        .arg("--target-dir")
        .arg(root.join("target/aarch64"))
        .env("CC_aarch64_unknown_linux_gnu", C_COMPILER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", C_COMPILER);
    run(&mut cargo).context("leaktrace does not compile for arm64")?;
    println!("leaktrace compiles for {TARGET}");
    Ok(())
}

fn cargo(root: &Path) -> Result<Command> {
    let mut cargo;
    if rustup_has_the_target() {
        cargo = Command::new("cargo");
        cargo.arg("check");
    } else {
        cargo =
            Compiler::ensure("the standard library for arm64 is built from its sources")?.command();
        cargo.args(["check", "-Z", "build-std=std"]);
    }
    cargo.current_dir(root);
    Ok(cargo)
}

fn rustup_has_the_target() -> bool {
    output(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]))
        .is_ok_and(|libraries| Path::new(libraries.trim()).is_dir())
}
