//! The BPF object: built, stripped, committed, and checked against its sources.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::toolchain::Toolchain;
use crate::workspace::{root, run};

const ARCH: &str = "x86_64";

fn object_path(root: &Path) -> PathBuf {
    root.join(format!("leaktrace/bpf/leaktrace.{ARCH}.bpf.o"))
}

fn lock_path(root: &Path) -> PathBuf {
    root.join(format!("leaktrace/bpf/leaktrace.{ARCH}.lock"))
}

/// Builds the object and writes it with its lock file.
pub(crate) fn build_and_lock() -> Result<()> {
    let root = root();
    let toolchain = Toolchain::ensure()?;
    let object = build(&root, &toolchain)?;
    fs::write(object_path(&root), &object).context("cannot write the BPF object")?;
    let lock = lock(&root, &object, &toolchain)?;
    fs::write(lock_path(&root), &lock).context("cannot write the lock file")?;
    println!("{}: {} bytes\n{lock}", object_path(&root).display(), object.len());
    Ok(())
}

/// Compares the lock file's hashes with the sources and the object.
pub(crate) fn check() -> Result<()> {
    let root = root();
    let lock = read_lock(&root)?;
    let object = fs::read(object_path(&root)).context("the BPF object is missing")?;
    for (name, found) in [("sources", hash_sources(&root)?), ("object", hex(&object))] {
        let locked = value(&lock, name)?;
        if locked != found {
            bail!(
                "the BPF {name} do not match {}: {found}, locked {locked}. \
                 Run `cargo xtask ebpf` and commit what it writes",
                lock_path(&root).display()
            );
        }
    }
    println!("the BPF object belongs to its sources");
    Ok(())
}

/// Builds the object anew and compares it with the committed one.
pub(crate) fn check_by_rebuilding() -> Result<()> {
    check()?;
    let root = root();
    let lock = read_lock(&root)?;
    let toolchain = Toolchain::ensure()?;
    for (name, version) in &toolchain.versions {
        let locked = value(&lock, name)?;
        if locked != version {
            eprintln!("xtask: this machine has {name} {version}, the object was built by {locked}");
        }
    }
    let rebuilt = build(&root, &toolchain)?;
    let committed = fs::read(object_path(&root))?;
    if rebuilt != committed {
        let at = rebuilt.iter().zip(&committed).position(|(a, b)| a != b);
        bail!(
            "the rebuilt BPF object differs from the committed one ({} bytes, committed {}; first \
             difference at {at:?}). Run `cargo xtask ebpf` and commit what it writes",
            rebuilt.len(),
            committed.len()
        );
    }
    println!("the BPF object is what its sources build: {} bytes, equal", rebuilt.len());
    Ok(())
}

fn build(root: &Path, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let target_dir = root.join("target/bpf");
    run(toolchain
        .cargo(root, ARCH)?
        .args(["--package", "leaktrace-ebpf", "--bin", "leaktrace-ebpf"])
        .args(["--target", "bpfel-unknown-none", "--quiet", "--locked"])
        .arg("--target-dir")
        .arg(&target_dir))?;
    let built = target_dir.join("bpfel-unknown-none/release/leaktrace-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("no {}", built.display()))?;
    strip(&bytes)
}

/// Removes what only a debugger reads; `.BTF`, `.symtab` and what of `.BTF.ext` the loader reads
/// stay.
fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the BPF object is no ELF file")?;
    for section in builder.sections.iter_mut() {
        let name = section.name.to_string();
        let debug = name.trim_start_matches(".rel").starts_with(".debug_");
        if debug || name == ".rel.BTF" || name == ".rel.BTF.ext" {
            section.delete = true;
        }
        if name == ".BTF.ext"
            && let SectionData::Data(data) = &mut section.data
        {
            *data = without_line_info(data)?.into();
        }
    }
    builder.delete_orphans();
    // LLVM keeps section names among the symbols' names; the writer wants a table of their own.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("cannot write the stripped BPF object")?;
    Ok(stripped)
}

/// `.BTF.ext` without the lines of source: what is left says which function is global and which a
/// callback, which the verifier asks for (`struct btf_ext_header` in libbpf's `btf.h`).
fn without_line_info(btf_ext: &[u8]) -> Result<Vec<u8>> {
    const HEADER_LEN: usize = 4;
    const FUNC_INFO: usize = 8;
    const LINE_INFO: usize = 16;
    const REST: usize = 24;
    let word = |at: usize| -> Result<usize> {
        let bytes = btf_ext.get(at..).and_then(|b| b.first_chunk()).context("a short .BTF.ext")?;
        Ok(u32::from_le_bytes(*bytes) as usize)
    };
    let (header, offset, length) = (word(HEADER_LEN)?, word(FUNC_INFO)?, word(FUNC_INFO + 4)?);
    let start = header + offset;
    let functions = btf_ext.get(start..start + length).context("a .BTF.ext that is cut short")?;
    let mut kept = btf_ext.get(..header).context("a short .BTF.ext")?.to_vec();
    kept.get_mut(FUNC_INFO..FUNC_INFO + 4).context("a short .BTF.ext")?.fill(0);
    for at in (LINE_INFO..header.max(REST)).step_by(8) {
        // Nothing of this kind, behind the functions.
        let pair = kept.get_mut(at..at + 8).context("a short .BTF.ext")?;
        pair.copy_from_slice(&(length as u64).to_le_bytes());
    }
    kept.extend(functions);
    Ok(kept)
}

fn lock(root: &Path, object: &[u8], toolchain: &Toolchain) -> Result<String> {
    let mut lock =
        String::from("# Written by `cargo xtask ebpf`, checked by `cargo xtask ebpf --check`.\n");
    writeln!(lock, "sources = {}", hash_sources(root)?)?;
    writeln!(lock, "object = {}", hex(object))?;
    for (name, version) in &toolchain.versions {
        writeln!(lock, "{name} = {version}")?;
    }
    Ok(lock)
}

fn read_lock(root: &Path) -> Result<String> {
    let path = lock_path(root);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn value<'a>(lock: &'a str, name: &str) -> Result<&'a str> {
    lock.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
        .with_context(|| format!("the lock file has no line `{name} = ...`"))
}

/// One hash over the names and contents of all that the object is built from.
fn hash_sources(root: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = WalkDir::new(root.join("leaktrace-ebpf"))
        .into_iter()
        .filter_map(|entry| Some(entry.ok()?.into_path()))
        .filter(|path| path.extension().is_some_and(|e| e == "rs" || e == "toml"))
        .collect();
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let name = file.strip_prefix(root)?.to_string_lossy().into_owned();
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update((content.len() as u64).to_le_bytes());
        hasher.update(content);
    }
    Ok(format!("{:x}", hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
