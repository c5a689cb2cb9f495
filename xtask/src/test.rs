//! Everything that is tested without waiting for CI: the object's lock file, tidiness, and all of
//! `cargo test`. Sets up a fresh Debian; elsewhere says what is missing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{root, run};
use crate::{ebpf, packages, tidy};

/// What a test starts or compiles against, and the Debian package that has it.
const NEEDS: [(&str, &str); 27] = [
    ("gcc", "gcc"),
    ("g++", "g++"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("objcopy", "binutils"),
    ("strip", "binutils"),
    ("bpftool", "bpftool"),
    ("gdb", "gdb"),
    ("musl-gcc", "musl-tools"),
    ("/usr/bin/python3-config", "python3-dev"),
    ("redis-benchmark", "redis-tools"),
    ("redis-check-rdb", "redis-tools"),
    ("sqlite3", "sqlite3"),
    ("debootstrap", "debootstrap"),
    ("setpriv", "util-linux"),
    ("mkfifo", "coreutils"),
    ("nm", "binutils"),
    ("node", "nodejs"),
    ("readelf", "binutils"),
    ("unshare", "util-linux"),
    ("wrk", "wrk"),
    ("xz", "xz-utils"),
    ("/usr/include/jemalloc/jemalloc.h", "libjemalloc-dev"),
    ("/usr/include/gperftools/tcmalloc.h", "libgoogle-perftools-dev"),
    ("/usr/include/mimalloc.h", "libmimalloc-dev"),
    ("as", "binutils"),
    ("ld", "binutils"),
    ("mount", "mount"),
];

/// The libraries of Debian's nginx.
const NGINX_NEEDS: [&str; 4] = ["libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"];

/// Runs all tests, or those that are chosen, by arguments of `cargo test` and of the test programs.
pub(crate) fn run_all(chosen: &[String], harness: &[String]) -> Result<()> {
    be_root()?;
    let path = path_of_an_administrator()?;
    ensure_needs(&path)?;
    let path = with_nginx(path)?;
    packages::debian_root("for the tests")?;
    ebpf::check()?;
    tidy::check()?;
    let mut tests = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    tests
        .current_dir(root())
        .env("PATH", &path)
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .args(chosen);
    if !harness.is_empty() {
        tests.arg("--").args(harness);
    }
    run(&mut tests).context("tests fail: their names are above")
}

fn be_root() -> Result<()> {
    let user = fs::metadata("/proc/self").context("/proc is not mounted")?.uid();
    if user != 0 {
        bail!(
            "the tests trace real processes and need root, which this is not (user {user}): run \
             `sudo env \"PATH=$PATH\" cargo xtask test`"
        );
    }
    Ok(())
}

/// `PATH`, and where Debian keeps what only root runs, which is not on the `PATH` behind `su`.
fn path_of_an_administrator() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::join_paths(env::split_paths(&path).chain(more)).context("PATH cannot be added to")
}

/// `PATH` with an nginx on it. Debian's package would start it, now and whenever the machine does:
/// so it is taken out of the package and not installed.
fn with_nginx(path: OsString) -> Result<OsString> {
    if is_here("nginx", &path) {
        return Ok(path);
    }
    if !is_here("apt-get", &path) {
        bail!("the tests need nginx, and there is no apt-get here to get it: install it");
    }
    packages::ensure(&NGINX_NEEDS, "for nginx, in the tests")?;
    let folder = packages::unpacked("nginx", "for the tests")?.join("usr/sbin");
    env::join_paths(env::split_paths(&path).chain([folder])).context("PATH cannot be added to")
}

fn ensure_needs(path: &OsStr) -> Result<()> {
    let missing: Vec<(&str, &str)> =
        NEEDS.into_iter().filter(|(need, _)| !is_here(need, path)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !is_here("apt-get", path) {
        let needs: Vec<&str> = missing.iter().map(|(need, _)| *need).collect();
        bail!(
            "the tests need {}, and there is no apt-get here to install it: install what matches \
             Debian's {}",
            needs.join(", "),
            packages.join(" ")
        );
    }
    packages::ensure(&packages, "for the tests")
}

fn is_here(need: &str, path: &OsStr) -> bool {
    // Joined to a folder, an absolute path stays itself.
    env::split_paths(path).any(|folder| folder.join(need).is_file())
}
