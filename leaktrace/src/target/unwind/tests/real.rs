//! Files as they are on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use gimli::{
    CfaRule, EhFrame, EndianSlice, LittleEndian, RegisterRule, UnwindContext, UnwindSection,
};

use super::*;
use crate::model::{Addr, Pid};
use crate::target::maps;
use crate::target::object_file::ObjectFile;
use crate::target::unwind::sections::Sections;

/// The files mapped into this process whose names contain `part`.
fn mapped(part: &str) -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    Path::new(paths.find(|p| p.contains(part)).unwrap()).to_owned()
}

fn built(path: &Path) -> UnwindFile {
    let file = build(&File::open(path).unwrap(), &Budget::for_plan()).unwrap();
    fuzzing::check(&file.table, &file.code);
    assert_eq!(file.skipped, 0, "{path:?}");
    file
}

/// Whether a rule says what gimli's row says; what is not expressed here must be marked as such.
fn agrees(rule: Rule, row: &gimli::UnwindTableRow<usize>) -> bool {
    let place =
        |register| row.register(gimli::Register(register)).unwrap_or(RegisterRule::Undefined);
    if place(16) == RegisterRule::Undefined {
        return rule == Rule::of(Kind::End);
    }
    let fp = match place(6) {
        RegisterRule::Undefined | RegisterRule::SameValue => Some(0),
        RegisterRule::Offset(offset) => Some(offset),
        _ => None,
    };
    let kind = |kind| rule.kind() == kind as u64;
    match (row.cfa(), place(16), fp) {
        (&CfaRule::RegisterAndOffset { register, offset }, RegisterRule::Offset(-8), Some(fp))
            if matches!(register.0, 3 | 6 | 7) =>
        {
            let expected = match register.0 {
                3 => Kind::Bx,
                6 => Kind::Fp,
                _ => Kind::Sp,
            };
            let bx = match place(3) {
                RegisterRule::Offset(offset) => offset,
                _ => 0,
            };
            let expected = Rule::new(expected, offset, fp);
            expected.is_some_and(|expected| Some(rule) == expected.with_third(bx))
        }
        (CfaRule::RegisterAndOffset { .. }, _, _) => kind(Kind::Unsupported),
        (CfaRule::Expression(_), RegisterRule::Offset(-8), _) => {
            kind(Kind::Plt) || kind(Kind::FpDeref) || kind(Kind::SpDeref)
        }
        (CfaRule::Expression(_), _, _) => kind(Kind::Signal),
    }
}

/// Every row that gimli makes of functions, at its first and its last address; of large files, of
/// as many as there is time for.
fn check_against_gimli(path: &Path) {
    const MOST_ROWS: usize = 40_000;
    let built = built(path);
    let file = File::open(path).unwrap();
    let sections = Sections::read(&Elf::open(&file).unwrap()).unwrap();
    let eh_frame = EhFrame::from(EndianSlice::new(&sections.eh_frame, LittleEndian));
    let mut context = UnwindContext::new();
    let mut entries = eh_frame.entries(&sections.bases);
    let every = (built.table.rows.len() / MOST_ROWS).max(1);
    let mut functions = 0;
    let mut rows = 0;
    while let Some(entry) = entries.next().unwrap() {
        let gimli::CieOrFde::Fde(fde) = entry else { continue };
        functions += 1;
        if functions % every != 0 {
            continue;
        }
        let fde = fde.parse(EhFrame::cie_from_offset).unwrap();
        let mut table = fde.rows(&eh_frame, &sections.bases, &mut context).unwrap();
        while let Some(row) = table.next_row().unwrap() {
            if row.start_address() == row.end_address() {
                continue;
            }
            for address in [row.start_address(), row.end_address() - 1] {
                let rule = rule_at(&built.table, address);
                assert!(agrees(rule, row), "{path:?} {address:#x}: {rule:?} {row:?}");
            }
            rows += 1;
        }
    }
    assert!(rows >= 50, "{path:?}: {rows} rows");
}

#[test]
fn tables_say_what_gimli_says() {
    for part in ["/libc.so", "/ld-linux", "/libgcc_s"] {
        check_against_gimli(&mapped(part));
    }
    check_against_gimli(&std::env::current_exe().unwrap());
    let library = Command::new("gcc").arg("-print-file-name=libstdc++.so.6").output().unwrap();
    check_against_gimli(Path::new(String::from_utf8(library.stdout).unwrap().trim()));
}

#[test]
fn the_vdso_has_a_table() {
    let file = vdso().unwrap();
    fuzzing::check(&file.table, &file.code);
    assert_eq!(file.skipped, 0);
    let kinds = file.table.rows.iter().map(|&row| Row(row).rule().kind());
    assert!(kinds.filter(|&kind| kind == Kind::Sp as u64).count() > 3);
}

/// What lies in this process, with the tables of its files.
fn own_tables() -> (Vec<Mapping>, Vec<(Arc<ObjectFile>, UnwindFile)>) {
    let pid = Pid::new(std::process::id()).unwrap();
    let maps = maps::parse(&std::fs::read_to_string("/proc/self/maps").unwrap());
    let code: Vec<Mapping> = maps.into_iter().filter(|m| m.executable).collect();
    let files = code.iter().filter_map(|m| ObjectFile::open(pid, m).ok().flatten());
    let files: Vec<_> = files.map(Arc::new).collect();
    let tables = build_all(&files).into_iter().map(Result::unwrap);
    (code, files.iter().cloned().zip(tables).collect())
}

#[test]
fn a_table_is_placed_where_its_file_is_mapped() {
    let (code, files) = own_tables();
    let placed = |address: u64| {
        let mapping = code.iter().find(|m| m.contains(Addr(address))).unwrap();
        let (_, file) = files.iter().find(|(file, _)| Some(file.id) == mapping.file).unwrap();
        let base = file.base(mapping).unwrap();
        rule_at(&file.table, address.wrapping_sub(base).wrapping_add(file.table.first_address))
    };
    // A return address on the stack of this test, and the entry of a function of libc.
    let in_test = a_table_is_placed_where_its_file_is_mapped as fn() as usize as u64;
    let in_libc = libc::qsort as *const () as usize as u64;
    for entry in [in_test, in_libc] {
        assert_eq!(Some(placed(entry)), Rule::new(Kind::Sp, 8, 0), "{entry:#x}");
    }
}

#[test]
fn a_mapping_outside_of_the_code_has_no_place() {
    let file = built(&mapped("/libc.so"));
    let mapping = Mapping {
        start: Addr(0x1000),
        end: Addr(0x2000),
        writable: false,
        executable: true,
        offset: 0,
        file: None,
        path: String::new(),
    };
    let code = file.code[0];
    assert_eq!(file.base(&mapping), None);
    let far = Mapping { offset: code.offset + code.size + 0x1000, ..mapping.clone() };
    assert_eq!(file.base(&far), None);
    // Mapped below the addresses it was linked for.
    let low = Mapping { offset: code.offset, ..mapping };
    let base = file.base(&low).unwrap();
    assert_eq!(base.wrapping_sub(0x1000), file.table.first_address.wrapping_sub(code.address));
}
