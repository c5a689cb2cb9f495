//! What gets a probe, and what is said about the rest.

use std::path::Path;

use super::super::test_programs::{at_program, at_program_that_maps, build};
use super::*;
use crate::model::Pid;

/// How many probes the throwing `operator new` of a library gets that is built from `source`.
fn probes_on_new(source: &str, flags: &[&str]) -> Result<usize, String> {
    let directory = tempfile::tempdir().unwrap();
    let flags = [flags, &["-shared", "-fPIC", "-w"]].concat();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/programs").join(source);
    let library = build("g++", &source, directory.path(), &flags);
    let file = std::fs::File::open(library).unwrap();
    let elf = Elf::open(&file).unwrap();
    let defined = Defined::by(&elf).unwrap();
    let (entry, function) = defined.functions.iter().find(|(e, _)| e.name == "_Znwm").unwrap();
    sites(&Bounds::of(&elf), entry, function).map(|sites| sites.len())
}

#[test]
fn a_throw_in_a_cold_part_is_no_way_out() {
    let source = "liballoc_new.cc";
    assert_eq!(probes_on_new(source, &["-O1"]), Ok(2));
    assert_eq!(probes_on_new(source, &["-O1", "-s"]), Ok(2));
    assert_eq!(probes_on_new(source, &["-O2"]), Ok(2));
    // Without .symtab the unwind data knows the part that it jumps to.
    assert_eq!(probes_on_new(source, &["-O2", "-s"]), Ok(2));
}

#[test]
fn files_that_could_not_be_opened_make_a_trace_incomplete() {
    let own = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
    let image = own.with_all_but_one_unopened("/libc.so.6");
    let plan = Plan::make(&image, "exe", &PlanOptions::default()).unwrap();
    let failure = plan.failures.first().unwrap();
    assert_eq!(failure.function, "all functions");
    assert_eq!(failure.module, format!("{} mapped files", image.unopened()));
    let only_libc = PlanOptions { only: Some("/libc.so.6".to_owned()), ..PlanOptions::default() };
    assert_eq!(Plan::make(&image, "exe", &only_libc).unwrap().failures, []);

    let image = own.with_all_but_one_unopened("[none]");
    let error = Plan::make(&image, "exe", &PlanOptions::default()).unwrap_err().to_string();
    assert!(error.contains("could not be opened") && error.contains("ulimit -n"), "{error}");
}

#[test]
fn many_files_with_large_symbol_tables_share_one_budget() {
    // 16 sparse files of 402 MB, each a symbol table.
    let source = r#"
        #define _GNU_SOURCE
        #include <elf.h>
        #include <stdlib.h>
        #include <sys/mman.h>
        #include <unistd.h>
        int main(void) {
            for (int i = 0; i < 16; i++) {
                int file = memfd_create("junk", 0);
                unsigned long size = 24ul << 24;
                Elf64_Ehdr header = {.e_ident = "\177ELF\2\1", .e_shoff = 64,
                                     .e_shnum = 2, .e_shentsize = 64};
                Elf64_Shdr tables[2] = {
                    {.sh_type = SHT_SYMTAB, .sh_offset = 4096, .sh_size = size, .sh_link = 1},
                    {.sh_type = SHT_STRTAB, .sh_size = 64}};
                ftruncate(file, 4096 + size);
                pwrite(file, &header, sizeof header, 0);
                pwrite(file, tables, sizeof tables, 64);
                mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
                close(file);
            }
            write(1, "x", 1);
            for (;;) pause();
        }"#;
    at_program(source, |pid| {
        let image = Image::capture(pid).unwrap();
        let mut plan = Plan::default();
        let budget = Budget::of(1 << 30);
        let junk = image.files().filter(|f| f.path.starts_with("/memfd:"));
        let refused = junk.filter(|file| plan.add_file(&image, file, &budget).is_err()).count();
        assert_eq!(refused, 14);
    });
}

/// Lets the section header of this name lead to behind the file's end.
fn break_section(file: &Path, wanted: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    let number = |bytes: &[u8], at: usize, size: usize| {
        bytes[at..at + size].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (headers, count) = (number(&bytes, 40, 8), number(&bytes, 60, 2));
    let names = number(&bytes, headers + 64 * number(&bytes, 62, 2) + 24, 8);
    let is_wanted =
        |header: &usize| bytes[names + number(&bytes, *header, 4)..].starts_with(wanted.as_bytes());
    let header = (0..count).map(|index| headers + 64 * index).find(is_wanted).unwrap();
    bytes[header + 24..header + 32].copy_from_slice(&u64::to_le_bytes(1 << 40));
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn operators_of_a_file_are_probed_though_its_debug_file_cannot_be_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/programs/liballoc_new.cc");
    let flags = ["-O1", "-s", "-shared", "-fPIC", "-w", "-Wl,--build-id"];
    let library = build("g++", &source, directory.path(), &flags);
    break_section(&library, ".note.gnu.build-id");
    at_program_that_maps(&library, "", |pid| {
        let image = Image::capture(pid).unwrap();
        let path = library.to_str().unwrap();
        let file = image.files().find(|file| file.path == path).unwrap();
        let mut plan = Plan::default();
        plan.add_file(&image, file, &Budget::for_plan()).unwrap();
        assert!(!plan.probes.is_empty());
        let [note] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
        assert!(note.starts_with("the debug symbols of /"), "{note}");
        assert!(note.contains("were not looked into: corrupt"), "{note}");
    });
}

#[test]
fn blocks_of_a_size_that_no_argument_says_are_told() {
    let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
    let mut plan = Plan::make(&image, "exe", &PlanOptions::default()).unwrap();
    assert!(!plan.notes.iter().any(|note| note.contains("1 byte")), "{:?}", plan.notes);
    let copies = allocators::find("mi_heap_strdup").unwrap().1.signature;
    for probe in plan.probes.iter_mut().filter(|probe| probe.function == "calloc") {
        probe.signature = copies;
    }
    plan.note_sizeless(0);
    let told = "no argument says how large the blocks of calloc are: each counts as 1 byte";
    assert_eq!(plan.notes.last().unwrap(), told);
}

/// The names that remain of a file with these functions, each at an address of its own.
fn taken(names: &[&str]) -> Vec<&'static str> {
    let functions = (1..).zip(names).map(|(number, name)| Function {
        name: (*name).to_owned(),
        address: number * 0x100,
        size: 16,
    });
    let defined = Defined::of(functions.collect());
    defined.functions.iter().map(|(entry, _)| entry.name).collect()
}

#[test]
fn an_allocator_gives_blocks_and_takes_them() {
    assert_eq!(taken(&["free", "malloc", "strdup"]), ["malloc", "free"]);
    // A wrapper of some function for itself, and one that only measures.
    assert_eq!(taken(&["malloc", "calloc"]), [""; 0]);
    assert_eq!(taken(&["free", "realloc"]), [""; 0]);
    assert_eq!(taken(&["je_malloc"]), [""; 0]);
    assert_eq!(taken(&["malloc", "free", "je_je_sdallocx_noflags"]), ["malloc", "free"]);
    let prefixed = ["je_malloc", "je_free", "je_je_sdallocx_noflags"];
    assert_eq!(taken(&prefixed), prefixed);
    assert_eq!(taken(&["_rjem_mallocx", "_rjem_sdallocx"]), ["_rjem_mallocx", "_rjem_sdallocx"]);
    assert_eq!(taken(&["mi_malloc", "mi_free", "tc_new"]), ["mi_malloc", "mi_free"]);
    assert_eq!(taken(&["__libc_malloc", "__libc_free"]), ["__libc_malloc", "__libc_free"]);
    // Each operator stands for itself.
    assert_eq!(taken(&["_ZdlPv"]), ["_ZdlPv"]);
    let mangled = "_RNvCsfLfy6EI15iL_7___rustc12___rust_alloc";
    assert_eq!(taken(&[mangled, "__rust_dealloc"]), ["__rust_alloc", "__rust_dealloc"]);
}

/// Of this process: libc is one implementation, and its functions have numbers of their own.
#[test]
fn functions_are_numbered_and_belong_to_implementations() {
    let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
    let plan = Plan::make(&image, "exe", &PlanOptions::default()).unwrap();
    let of_libc: Vec<_> =
        plan.probes.iter().filter(|probe| probe.file.path.contains("/libc.so")).collect();
    assert!(!of_libc.is_empty());
    for probe in &plan.probes {
        assert_eq!(probe.function_index >> FUNCTION_BITS, u16::from(probe.implementation));
        let same = plan.probes.iter().filter(|p| p.function_index == probe.function_index);
        assert!(same.into_iter().all(|p| p.function == probe.function));
    }
    assert!(of_libc.iter().all(|probe| probe.implementation == of_libc[0].implementation));
    // libc's own callers of malloc are none of the allocator: it is one small piece of its code.
    let size = |&(start, end): &(Addr, Addr)| end.0 - start.0;
    assert!(plan.allocator_code.iter().map(size).sum::<u64>() < 64 << 10, "{plan:?}");
}
