//! What the chores need from Debian: installed here, and said so.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{output, run};

/// Installs those of `packages` that are missing. `what_for` is what the user is told.
pub(crate) fn ensure(packages: &[&str], what_for: &str) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {} ({what_for})", missing.join(" "));
    if install(&missing).is_err() {
        // The list of packages may be older than the packages.
        run(Command::new("apt-get").args(["update", "-q"]))
            .context("cannot update the list of packages (are you root, on a Debian?)")?;
        install(&missing).with_context(|| {
            format!("cannot install {}; install them yourself", missing.join(" "))
        })?;
    }
    Ok(())
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
