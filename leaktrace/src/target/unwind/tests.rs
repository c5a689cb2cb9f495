//! Tables held against what gimli says of the same files, one rule of each kind, and files that
//! are made to do harm.

mod from_code;
mod hostile;
mod kinds;
mod real;

use std::collections::HashMap;
use std::path::Path;

use leaktrace_ebpf::unwind::{Kind, PAGE_BITS, PAGE_MASK, Row, Rule};

use super::*;
use crate::target::test_programs;

/// The rule for an address of the file, found as the kernel half does.
fn rule_at(table: &UnwindTable, address: u64) -> Rule {
    let uncovered = Rule::of(Kind::Uncovered);
    let Some(within) = address.checked_sub(table.first_address) else { return uncovered };
    let Some(rows) = table.pages().nth((within >> PAGE_BITS) as usize) else {
        return uncovered;
    };
    let behind = rows.partition_point(|&row| Row(row).offset() <= address & PAGE_MASK);
    rows[..behind].last().map_or(uncovered, |&row| Row(row).rule())
}

/// The table of a library or a static program made of this, and where its functions are.
fn assemble(source: &str, flags: &[&str]) -> (UnwindFile, HashMap<String, u64>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("source.s");
    std::fs::write(&path, source).unwrap();
    let kind =
        if flags.contains(&"-static") { &["-nostdlib"][..] } else { &["-shared", "-nostdlib"] };
    let flags = [kind, flags].concat();
    let program = test_programs::build("gcc", &path, directory.path(), &flags);
    read(&program)
}

fn read(program: &Path) -> (UnwindFile, HashMap<String, u64>) {
    let file = File::open(program).unwrap();
    let built = build(&file, &Budget::for_plan()).unwrap();
    fuzzing::check(&built.table, &built.code);
    let functions = Elf::open(&file).unwrap().functions(|_| true).unwrap();
    (built, functions.into_iter().map(|f| (f.name, f.address)).collect())
}
