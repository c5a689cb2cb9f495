//! What the chores need from Debian: installed or unpacked here, and said so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{output, root, run};

/// Installs those of `packages` that are missing. `what_for` is what the user is told.
pub(crate) fn ensure(packages: &[&str], what_for: &str) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {} ({what_for})", missing.join(" "));
    with_fresh_list(|| install(&missing))
        .with_context(|| format!("cannot install {}; install them yourself", missing.join(" ")))
}

/// A folder with the files of `package`, which is not installed: nothing of it is set up or started.
pub(crate) fn unpacked(package: &str, what_for: &str) -> Result<PathBuf> {
    whole(package, &format!("unpacking {package} into"), what_for, |begun| {
        with_fresh_list(|| {
            run(Command::new("apt-get").current_dir(begun).args(["download", package]))
        })
        .with_context(|| format!("cannot download {package}; install it yourself"))?;
        let archives =
            fs::read_dir(begun)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        for archive in archives {
            run(Command::new("dpkg").arg("-x").arg(&archive).arg(begun))?;
            fs::remove_file(&archive)?;
        }
        Ok(())
    })
}

/// A folder with a small Debian in it, of which nothing is started. Takes a minute once.
pub(crate) fn debian_root(what_for: &str) -> Result<PathBuf> {
    const RELEASE: &str = "bookworm";
    whole("debian-root", "making a Debian in", what_for, |begun| {
        // What it mounts goes with it, however it ends.
        let mut making = Command::new("unshare");
        making.args(["--mount", "debootstrap", "--variant=minbase", RELEASE]).arg(begun);
        output(&mut making).context(
            "debootstrap makes no Debian (the network?); target/packages/debian-root is to have one",
        )?;
        Ok(())
    })
}

/// The folder `name` of `target/packages`, which `make` fills: under its name only when it is whole.
fn whole(
    name: &str,
    doing: &str,
    what_for: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let folder = root().join("target/packages").join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    eprintln!("xtask: {doing} {} ({what_for})", folder.display());
    let begun = folder.with_extension("begun");
    if begun.exists() {
        fs::remove_dir_all(&begun)?;
    }
    fs::create_dir_all(&begun)?;
    make(&begun)?;
    fs::rename(&begun, &folder)?;
    Ok(folder)
}

/// Tries again if it fails: the list of packages may be older than the packages.
fn with_fresh_list(attempt: impl Fn() -> Result<()>) -> Result<()> {
    if attempt().is_ok() {
        return Ok(());
    }
    run(Command::new("apt-get").args(["update", "-q"]))
        .context("cannot update the list of packages (are you root, on a Debian?)")?;
    attempt()
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut missing = Vec::new();
    for package in packages {
        let status = Command::new("dpkg-query")
            .args(["-W", "-f", "${Status}", package])
            .output()
            .with_context(|| {
            format!("no dpkg here: install by hand what matches Debian's {}", packages.join(" "))
        })?;
        if String::from_utf8_lossy(&status.stdout) != "install ok installed" {
            missing.push(*package);
        }
    }
    Ok(missing)
}

fn install(packages: &[&str]) -> Result<()> {
    let log = output(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(packages),
    )?;
    if log.is_empty() {
        bail!("apt-get said nothing");
    }
    Ok(())
}
