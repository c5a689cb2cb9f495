//! One function of each kind, as assemblers write them.

use super::*;
use crate::target::test_programs;

/// CFA = the word at rbp - 8; CFA = the word at rsp + 16; rbp saved at rbp + 0.
const CFA_AT_FP: &str = ".cfi_escape 0x0f, 3, 0x76, 0x78, 6";
const CFA_AT_SP: &str = ".cfi_escape 0x0f, 3, 0x77, 16, 6";
const FP_AT_FP: &str = ".cfi_escape 0x10, 6, 2, 0x76, 0";
const PLT: &str =
    ".cfi_escape 0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22";
/// CFA, rbp and rip in the frame that the kernel makes for a signal.
const OF_SIGNAL: &str = ".cfi_escape 0x0f, 4, 0x77, 0xa0, 1, 6
    .cfi_escape 0x10, 6, 3, 0x77, 0xf8, 0
    .cfi_escape 0x10, 16, 3, 0x77, 0xa8, 1";

/// Functions of 64 bytes each, apart by 64 more, with these directives.
fn source(functions: &[(&str, &str)]) -> String {
    let one = |(name, directives): &(&str, &str)| {
        format!(
            ".p2align 7\n.globl {name}\n.type {name}, @function\n{name}:\n.cfi_startproc\n\
             {directives}\n.fill 64, 1, 0x90\n.cfi_endproc\n.size {name}, 64\n\
             .fill 64, 1, 0xcc\n"
        )
    };
    format!(".text\n{}", functions.iter().map(one).collect::<String>())
}

/// A function with these directives has this rule at its first byte and its last, and none behind.
fn check(directives: &str, rule: Rule) {
    let (built, functions) = assemble(&source(&[("f", directives)]), &[]);
    let at = |offset| rule_at(&built.table, functions["f"] + offset);
    assert_eq!((at(0), at(63)), (rule, rule), "{directives}");
    assert_eq!(at(64), Rule::of(Kind::Uncovered), "{directives}");
    assert_eq!(built.skipped, 0, "{directives}");
}

fn with(kind: Kind, cfa: i64, fp: i64) -> Rule {
    Rule::new(kind, cfa, fp).unwrap()
}

fn third(rule: Rule, offset: i64) -> Rule {
    rule.with_third(offset).unwrap()
}

#[test]
fn a_register_and_an_offset() {
    check("", with(Kind::Sp, 8, 0));
    check(".cfi_def_cfa_offset 4096", with(Kind::Sp, 4096, 0));
    check(".cfi_adjust_cfa_offset 8\n.cfi_offset rbp, -16", with(Kind::Sp, 16, -16));
    check(".cfi_def_cfa rbp, 16\n.cfi_rel_offset rbp, 0", with(Kind::Fp, 16, -16));
    check(".cfi_escape 0x12, 7, 0x7c", with(Kind::Sp, 32, 0));
    check(".cfi_escape 0x13, 0x7e", with(Kind::Sp, 16, 0));
    check(".cfi_escape 0x11, 6, 3", with(Kind::Sp, 8, -24));
    check(".cfi_escape 0x2e, 32", with(Kind::Sp, 8, 0));
    check(".cfi_offset rbp, -16\n.cfi_same_value rbp", with(Kind::Sp, 8, 0));
    // What the CIE says is restored, be it nothing; as assemblers put leading directives there.
    check(".cfi_offset rbp, -16\n.cfi_escape 0x07, 6, 0xc6", with(Kind::Sp, 8, -16));
    check(".cfi_escape 0x86, 2, 0xc6", with(Kind::Sp, 8, 0));
    check(".cfi_undefined rbp", with(Kind::Sp, 8, 0));
    check(".cfi_offset rbx, -16\n.cfi_register r12, rbx", third(with(Kind::Sp, 8, 0), -16));
    check(".cfi_offset rbx, -65536", with(Kind::Sp, 8, 0));
    check(".cfi_def_cfa_register rbx\n.cfi_offset rbx, -24", third(with(Kind::Bx, 8, 0), -24));
}

#[test]
fn an_expression() {
    check(&format!("{CFA_AT_FP}\n{FP_AT_FP}"), with(Kind::FpDeref, -8, 0));
    check(CFA_AT_SP, with(Kind::SpDeref, 16, 0));
    check(&format!("{CFA_AT_SP}\n.cfi_offset rbp, -16"), with(Kind::SpDeref, 16, -16));
    check(PLT, with(Kind::Plt, 88, 0));
    let plus_8 = ".cfi_escape 0x0f, 5, 0x77, 0x18, 0x06, 0x23, 8";
    check(plus_8, third(with(Kind::SpDeref, 24, 0), 8));
    let plus_8 = ".cfi_escape 0x0f, 5, 0x76, 0x78, 0x06, 0x23, 8";
    check(&format!("{plus_8}\n{FP_AT_FP}"), third(with(Kind::FpDeref, -8, 0), 8));
}

#[test]
fn the_frame_of_a_signal() {
    check(&format!(".cfi_signal_frame\n{OF_SIGNAL}"), Rule::of(Kind::Signal));
    check(OF_SIGNAL, Rule::of(Kind::Signal));
    check(".cfi_signal_frame", Rule::of(Kind::Unsupported));
}

#[test]
fn a_first_frame() {
    check(".cfi_undefined rip", Rule::of(Kind::End));
    check(".cfi_undefined rip\n.cfi_def_cfa rbx, 8", Rule::of(Kind::End));
}

#[test]
fn what_is_not_expressed() {
    for directives in [
        ".cfi_def_cfa_register rcx",
        ".cfi_def_cfa_offset 12",
        ".cfi_register rbp, rbx",
        ".cfi_val_offset rbp, -16",
        ".cfi_offset rip, -16",
        ".cfi_same_value rip",
        ".cfi_register rip, rcx",
        // An offset larger than any frame; rbp at an expression; and at CFA + 0.
        ".cfi_def_cfa_offset 16777216",
        FP_AT_FP,
        ".cfi_offset rbp, 0",
        // CFA at rbp - 8 with rbp where it was, or at an offset of the CFA.
        CFA_AT_FP,
        &format!("{CFA_AT_FP}\n.cfi_offset rbp, -16"),
        // CFA = rsp + 8, as an expression; CFA at rbx; no expression at all; rbp in a PLT entry.
        ".cfi_escape 0x0f, 2, 0x77, 8",
        ".cfi_escape 0x0f, 3, 0x73, 0, 6",
        ".cfi_escape 0x0f, 0",
        &format!("{PLT}\n.cfi_offset rbp, -16"),
    ] {
        check(directives, Rule::of(Kind::Unsupported));
    }
}

#[test]
fn rules_change_on_the_way() {
    let directives = "nop\n.cfi_remember_state\n.cfi_def_cfa_offset 16\n.cfi_offset rbp, -16\n\
        nop\n.cfi_restore_state\n.p2align 5";
    let (built, functions) = assemble(&source(&[("f", directives)]), &[]);
    let at = |offset| rule_at(&built.table, functions["f"] + offset);
    assert_eq!((at(0), at(1), at(2)), (with(Kind::Sp, 8, 0), with(Kind::Sp, 16, -16), at(0)));
}

#[test]
fn a_function_that_makes_no_sense_is_marked_from_there_on() {
    let remembered = "nop\n".to_owned() + &".cfi_remember_state\n".repeat(17);
    for bad in [&remembered, "nop\n.cfi_escape 0x0b", "nop\n.cfi_escape 0x0f, 0, 0x0e, 16"] {
        let source = source(&[("f", bad), ("g", "")]);
        let (built, functions) = assemble(&source, &[]);
        let at = |name: &str, offset| rule_at(&built.table, functions[name] + offset);
        assert_eq!((at("f", 0), at("g", 0)), (with(Kind::Sp, 8, 0), with(Kind::Sp, 8, 0)), "{bad}");
        assert_eq!(at("f", 1), Rule::of(Kind::Unsupported), "{bad}");
        assert_eq!(at("f", 65), Rule::of(Kind::Uncovered), "{bad}");
        assert_eq!(built.skipped, 1, "{bad}");
    }
}

/// A library of one function that `.eh_frame` describes and one that only `.debug_frame` does.
const IN_BOTH: &str = ".cfi_sections .eh_frame, .debug_frame
    .text\n.globl f\n.type f, @function\nf:
    .cfi_startproc\n.cfi_def_cfa_offset 32\n.fill 64, 1, 0x90\n.cfi_endproc\n.size f, 64\n";

#[test]
fn debug_frame_speaks_where_eh_frame_is_silent() {
    let only_debug = format!(".cfi_sections .debug_frame\n{}", source(&[("f", "")]));
    for flags in [&[][..], &["-Wl,--compress-debug-sections=zlib"]] {
        let (built, functions) = assemble(&only_debug, flags);
        assert_eq!(rule_at(&built.table, functions["f"] + 63), with(Kind::Sp, 8, 0), "{flags:?}");
        assert_eq!(rule_at(&built.table, functions["f"] + 64), Rule::of(Kind::Uncovered));
    }
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.s");
    std::fs::write(&other, only_debug.replace("f:", "g:").replace(" f", " g")).unwrap();
    let (built, functions) = assemble(IN_BOTH, &[other.to_str().unwrap()]);
    assert_eq!(rule_at(&built.table, functions["f"]), with(Kind::Sp, 32, 0));
    assert_eq!(rule_at(&built.table, functions["g"]), with(Kind::Sp, 8, 0));
}

#[test]
fn a_file_without_section_headers_has_the_same_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("source.s");
    std::fs::write(&path, source(&[("f", ""), ("g", CFA_AT_SP)])).unwrap();
    let flags = ["-shared", "-nostdlib", "-Wl,--eh-frame-hdr"];
    let program = test_programs::build("gcc", &path, directory.path(), &flags);
    let (whole, _) = read(&program);
    let mut bytes = std::fs::read(&program).unwrap();
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    std::fs::write(&program, bytes).unwrap();
    let (stripped, _) = read(&program);
    assert_eq!(stripped.table, whole.table);
    assert_eq!(stripped.skipped, 0);
}

#[test]
fn a_trampoline_that_nothing_describes_is_found() {
    for shape in ["mov $15, %rax", "mov $15, %eax"] {
        let code = format!(
            ".cfi_sections .debug_frame\n.text\n.p2align 7\nnop\n.globl t\n.type t, @function\nt:\n\
             .cfi_startproc\n{shape}\nsyscall\n.cfi_endproc\n.size t, .-t\nnop\n.p2align 7\n{}",
            source(&[("f", "mov $15, %r8d\nsyscall")])
        );
        let (built, functions) = assemble(&code, &[]);
        let at = |offset: i64| rule_at(&built.table, functions["t"].wrapping_add_signed(offset));
        let signal = Rule::of(Kind::Signal);
        assert_eq!((at(-1), at(0), at(6)), (signal, signal, signal), "{shape}");
        assert_eq!((at(-2), at(9)), (Rule::of(Kind::Uncovered), Rule::of(Kind::Uncovered)));
        assert_eq!(rule_at(&built.table, functions["f"] + 1), with(Kind::Sp, 8, 0));
    }
}

#[test]
fn a_file_without_unwind_data_has_no_table() {
    let path = tempfile::tempdir().unwrap();
    let source = path.path().join("source.s");
    std::fs::write(&source, ".text\n.fill 64, 1, 0x90\n").unwrap();
    let program = test_programs::build("gcc", &source, path.path(), &["-shared", "-nostdlib"]);
    let built = build(&File::open(program).unwrap(), &Budget::for_plan());
    assert!(matches!(built, Err(UnwindError::None)), "{built:?}");
    std::fs::write(&source, [b'.'; 64]).unwrap();
    let no_elf = build(&File::open(source).unwrap(), &Budget::for_plan());
    assert!(matches!(no_elf, Err(UnwindError::NotElf)), "{no_elf:?}");
}
