//! The toolchain that builds the BPF object: a nightly-capable rustc with core's sources, and
//! bpf-linker.
//!
//! Only maintainers need it: the object is committed. On Debian 12 it comes from Debian's
//! `rustc-web`, `cargo-web`, `rust-web-src` and `llvm-22-dev`; elsewhere from rustup's nightly with
//! `rust-src`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::workspace::{output, run};

/// The bpf-linker that the lock file names.
const BPF_LINKER: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A compiler that builds the standard library from its sources.
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
}

impl Compiler {
    /// Finds one, or installs Debian's. `what_for` is what the user is told.
    pub(crate) fn ensure(what_for: &str) -> Result<Self> {
        if let Some((rustc, cargo)) = rustup_nightly() {
            return Ok(Self { rustc, cargo });
        }
        packages::ensure(&DEBIAN_COMPILER, what_for)
            .context("or install rustup's nightly toolchain with its rust-src component")?;
        Ok(Self { rustc: PathBuf::from("/usr/bin/rustc"), cargo: PathBuf::from("/usr/bin/cargo") })
    }

    /// Its cargo, told to use its rustc and to take the unstable options.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WRAPPER");
        command
    }
}

/// A toolchain for the BPF target.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
    /// The first line of `rustc --version`, the LLVM in it, and bpf-linker's version.
    pub(crate) versions: [(&'static str, String); 3],
}

impl Toolchain {
    /// Finds a toolchain, or installs one.
    pub(crate) fn ensure() -> Result<Self> {
        let compiler = Compiler::ensure("the toolchain for the BPF object")?;
        let linker = ensure_linker()?;
        let verbose = output(Command::new(&compiler.rustc).arg("-vV"))?;
        let line = |prefix: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(prefix))
                .unwrap_or("unknown")
                .trim()
                .to_owned()
        };
        let versions = [
            ("rustc", line("rustc ")),
            ("llvm", line("LLVM version:")),
            ("bpf-linker", BPF_LINKER.to_owned()),
        ];
        Ok(Self { compiler, linker, versions })
    }

    /// A `cargo` that builds for BPF with this toolchain; the caller adds what to build.
    pub(crate) fn cargo(&self, root: &Path, bpf_target_arch: &str) -> Result<Command> {
        let sysroot = output(Command::new(&self.compiler.rustc).args(["--print", "sysroot"]))?;
        let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
        let sources = sources.canonicalize().unwrap_or(sources);
        let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
            PathBuf::from,
        );
        // The same bytes wherever the sources lie. The linker is the one path rustc hashes in.
        let flags = [
            format!("--cfg=bpf_target_arch=\"{bpf_target_arch}\""),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("-Clinker={}", self.linker.display()),
            "-Ctarget-cpu=v3".to_owned(),
            format!("--remap-path-prefix={}=/leaktrace", root.display()),
            format!("--remap-path-prefix={}=/cargo", cargo_home.display()),
            format!("--remap-path-prefix={}=/rust", sources.display()),
        ];
        let mut command = self.compiler.command();
        command
            .current_dir(root)
            .env("CARGO_CFG_BPF_TARGET_ARCH", bpf_target_arch)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .args(["build", "--release", "-Z", "build-std=core"]);
        Ok(command)
    }
}

/// rustup's nightly, if it has core's sources.
fn rustup_nightly() -> Option<(PathBuf, PathBuf)> {
    let which = |tool: &str| {
        let path =
            output(Command::new("rustup").args(["which", "--toolchain", "nightly", tool])).ok()?;
        Some(PathBuf::from(path.trim()))
    };
    let rustc = which("rustc")?;
    let sources = rustc.parent()?.parent()?.join("lib/rustlib/src/rust/library/core");
    if !sources.is_dir() {
        return None;
    }
    Some((rustc, which("cargo")?))
}

fn ensure_linker() -> Result<PathBuf> {
    if let Some(found) = find_linker() {
        return Ok(found);
    }
    packages::ensure(&["llvm-22-dev"], "bpf-linker needs LLVM 22")?;
    eprintln!("xtask: installing bpf-linker {BPF_LINKER} (cargo install, about 3 minutes)");
    run(Command::new("cargo")
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .env_remove("RUSTFLAGS")
        .current_dir("/")
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--quiet"])
        .args(["--no-default-features", "--features", "llvm-22"]))
    .context("cannot install bpf-linker")?;
    match find_linker() {
        Some(found) => Ok(found),
        None => bail!("bpf-linker {BPF_LINKER} was installed, but is not on PATH"),
    }
}

/// A bpf-linker of the right version, on `PATH` or where cargo installs.
fn find_linker() -> Option<PathBuf> {
    let installed = PathBuf::from(std::env::var_os("HOME")?).join(".cargo/bin");
    std::env::split_paths(&std::env::var_os("PATH")?).chain([installed]).find_map(|folder| {
        let candidate = folder.join("bpf-linker");
        let version = output(Command::new(&candidate).arg("--version")).ok()?;
        (version.trim() == format!("bpf-linker {BPF_LINKER}")).then_some(candidate)
    })
}
