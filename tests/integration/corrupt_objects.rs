//! A target is hostile input to a process of root: are corrupt, truncated and huge objects in it
//! survived, with the rest still traced?

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::processes::Target;
use crate::programs::{copy, program, variant};
use crate::report::{Held, Report};
use crate::trace::Trace;

/// The libc that this test itself runs on.
fn libc_bytes() -> Vec<u8> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with("/libc.so.6")).expect("a glibc system");
    fs::read(&line[line.find('/').unwrap()..]).unwrap()
}

/// xorshift64*: the same corruption in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(drawn).unwrap() % bound
    }
}

/// Writes `bytes` as `NUMBER/libc.so.6`, so that a search by name meets it.
fn write(dir: &TempDir, number: usize, bytes: &[u8]) -> PathBuf {
    let dir = dir.path().join(number.to_string());
    fs::create_dir(&dir).unwrap();
    let path = dir.join("libc.so.6");
    fs::write(&path, bytes).unwrap();
    path
}

/// Traces a program that maps `objects` as code; the real libc is traced as ever.
fn check(objects: &[&Path], options: &[&str]) {
    let mut args: Vec<&Path> = Vec::new();
    for object in objects {
        args.extend(options.iter().map(Path::new));
        args.push(object);
    }
    let mut target = Target::start(&program("maps_objects.c"), &args);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    trace.signal(libc::SIGINT);
    let ended = trace.ended();
    // Where a copy's `free` cannot be probed, it is told that the report is not to be trusted.
    let told = ended.stderr.contains("not enough for a verdict: calls of");
    ended.assert_code(if told { 4 } else { 0 });
    let report = Report::read(&trace.file("report.json"));
    assert_eq!(report.held_by("leak_here"), Held { bytes: 12_288, blocks: 3 });
    assert!(target.end().success());
}

fn check_all(objects: &[PathBuf]) {
    let objects: Vec<&Path> = objects.iter().map(PathBuf::as_path).collect();
    check(&objects, &[]);
}

#[test]
fn truncated_copies_of_libc() {
    let libc = libc_bytes();
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(1);
    let mut lengths = vec![1, 4, 16, 63, 64, 65, 120, 4096, libc.len() / 2, libc.len() - 1];
    lengths.extend((0..10).map(|_| random.below(libc.len())));
    let write = |(number, length): (usize, &usize)| write(&dir, number, &libc[..*length]);
    check_all(&lengths.iter().enumerate().map(write).collect::<Vec<_>>());
}

#[test]
fn copies_of_libc_with_random_headers() {
    let libc = libc_bytes();
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(2);
    let corrupt = |number| {
        let mut bytes = libc.clone();
        for _ in 0..=number {
            // Behind the identification: entry, offsets, counts and the program headers.
            let at = 16 + random.below(64 + 14 * 56 - 16);
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        }
        write(&dir, number, &bytes)
    };
    check_all(&(0..20).map(corrupt).collect::<Vec<_>>());
}

#[test]
fn copies_of_libc_with_random_tables() {
    let libc = libc_bytes();
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(3);
    let corrupt = |number| {
        let mut bytes = libc.clone();
        // Symbols, strings, hashes and notes lie in the first pages, section headers in the last.
        for _ in 0..2000 {
            let at = random.below(160 << 10);
            bytes[at] = u8::try_from(random.below(256)).unwrap();
            let from_end = 1 + random.below(64 * 64);
            let at = bytes.len() - from_end;
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        }
        bytes[..64].copy_from_slice(&libc[..64]);
        write(&dir, number, &bytes)
    };
    check_all(&(0..10).map(corrupt).collect::<Vec<_>>());
}

#[test]
fn headers_that_claim_more_than_there_is() {
    let libc = libc_bytes();
    let dir = tempfile::tempdir().unwrap();
    // e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx: all ones, or none.
    let fields = [(32, 8), (40, 8), (54, 2), (56, 2), (58, 2), (60, 2), (62, 2)];
    let mut objects = Vec::new();
    for (at, size) in fields {
        for filler in [0, 0x7f, 0xff] {
            let mut bytes = libc.clone();
            bytes[at..at + size].fill(filler);
            objects.push(write(&dir, objects.len(), &bytes));
        }
    }
    check_all(&objects);
}

#[test]
fn a_file_of_8_gib_that_begins_like_libc() {
    let libc = libc_bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, 0, &libc);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(8 << 30).unwrap(); // sparse: takes no room
    let sections_at = (8_u64 << 30) - 64 * 64;
    file.write_all_at(&sections_at.to_le_bytes(), 40).unwrap();
    check_all(&[path]);
}

#[test]
fn a_file_that_is_cut_to_nothing_once_it_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, 0, &libc_bytes());
    check(&[&path], &["--truncate"]);
}

/// The code is sound; what describes it is not.
#[test]
fn random_debug_information() {
    let sound = variant("leak_three.c", "leak_three_dwarf", &["-gz=none"]);
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(4);
    for variant in 0..6 {
        let path = dir.path().join(format!("leak_three_{variant}"));
        copy(&sound, &path);
        for section in [".debug_info", ".debug_line", ".debug_abbrev", ".debug_str"] {
            let content = dir.path().join("section");
            objcopy(&["--dump-section", &format!("{section}={}", content.display())], &path);
            let mut bytes = fs::read(&content).unwrap();
            for _ in 0..=bytes.len() / 20 {
                let at = random.below(bytes.len());
                bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
            fs::write(&content, bytes).unwrap();
            objcopy(&["--update-section", &format!("{section}={}", content.display())], &path);
        }
        let mut target = Target::start::<&str>(&path, &[]);
        let mut trace = Trace::attach(&target, &[]);
        target.work();
        let report = trace.interrupt();
        report.assert_complete();
        assert_eq!(report.totals(), Held { bytes: 12_288, blocks: 3 });
        assert!(target.end().success());
    }
}

fn objcopy(args: &[&str], file: &Path) {
    let output = Command::new("objcopy").args(args).arg(file).output().expect("needs binutils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
