//! Code that is described, and followed all the same: both say the same.

use iced_x86::{Decoder, DecoderOptions};

use super::*;
use crate::target::unwind::from_code::{Entry, Piece, derive};

/// What compilers make of it has frames of all kinds: with calls, saved registers, tables of
/// jumps, arrays of any size, aligned variables, and functions that never return.
const C: &str = r#"
    void leave(void) __attribute__((noreturn));
    long use(void *p, long n);
    void __init_libc(void) {}
    static long __attribute__((noinline)) leaf(long n) { return n * 3; }
    static long __attribute__((noinline)) pointed_to(void *p, long n) { return use(p, n) + 1; }
    long small(long n) { return use(&n, n) + leaf(n); }
    long saved(long a, long b, long c, long d, long e, long f, long g) {
        long x = use(&a, b), y = use(&c, d), z = use(&e, f);
        for (long i = 0; i < g; i++) x += use(&y, z + i) * use(&z, y);
        return x + y + z + a + b + c + d + e + f;
    }
    long large(long n) { char array[5000]; return use(array, n) ? use(array, 1) : leaf(n); }
    long sized(long n) { char array[n]; long m = use(array, n); return m + use(array, m); }
    long aligned(long n) { char array[100] __attribute__((aligned(64))); return use(array, n); }
    long jumps(long n, long m) {
        char array[40];
        switch (n) {
        case 0: return use(array, 7);
        case 1: m += use(&n, 1); break;
        case 2: m -= use(&n, 2) * use(&m, 4); break;
        case 3: m ^= use(array, 3);
        case 4: m += use(array, m); break;
        case 5: m *= use(&n, 5); break;
        case 6: leave();
        case 7: return use(array, 9) + use(array, m);
        }
        return m + use(array, n) + 1;
    }
    long never(long n) { if (use(&n, n)) leave(); return use(&n, 1) + 2; }
    void *pointer(void) { return pointed_to; }
    long many(long a, long b, long c, long d, long e, long f, long g, long h);
    long arguments(long n) { return many(n, 1, 2, 3, 4, 5, n * 6, n * 7) + many(n, 7, 6, 5, 4, 3, 2, 1); }
    long tail(long n) { use(&n, 1); return saved(n, n, n, n, n, n, n); }
"#;

fn compile(flags: &[&str]) -> (UnwindFile, Vec<Piece>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("source.c");
    std::fs::write(&path, C).unwrap();
    let flags = [&["-shared", "-nostdlib", "-fPIC", "-w"], flags].concat();
    let program = test_programs::build("gcc", &path, directory.path(), &flags);
    (read(&program).0, pieces(&program))
}

/// All code of a file.
fn pieces(program: &Path) -> Vec<Piece> {
    let file = File::open(program).unwrap();
    let elf = Elf::open(&file).unwrap();
    let sections = elf.code_sections();
    let piece =
        |s: &Segment| Piece { address: s.address, code: elf.read(s.offset, s.size).unwrap() };
    sections.iter().map(piece).collect()
}

/// Whether a rule made from code is as good as one that a compiler wrote.
fn is_as_good(derived: Rule, described: Rule) -> bool {
    // A compiler goes on to say where a register was saved after it was restored.
    let is_restored = derived.fp() == 0 && described.fp() < -described.cfa();
    let is_same_kind = derived.kind() == described.kind();
    (is_same_kind && derived.cfa() == described.cfa() && is_restored)
        || (derived.fp() == described.fp() && (!is_same_kind || derived.cfa() == described.cfa()))
}

/// At each call, the rule made from code is the compiler's.
fn check_calls(flags: &[&str]) {
    let (described, code) = compile(flags);
    let without = [flags, &["-fno-asynchronous-unwind-tables", "-fno-exceptions"]].concat();
    let (derived, same_code) = compile(&without);
    let mut calls = 0;
    for (piece, same) in code.iter().zip(&same_code) {
        // The linker's own stubs differ.
        if piece.address != same.address || piece.code.len() != same.code.len() {
            continue;
        }
        let mut decoder = Decoder::with_ip(64, &piece.code, piece.address, DecoderOptions::NONE);
        for call in decoder.iter().filter(|i| i.is_call_near() || i.is_call_near_indirect()) {
            let at = call.next_ip() - 1;
            let (from_code, from_cfi) =
                (rule_at(&derived.table, at), rule_at(&described.table, at));
            assert!(
                is_as_good(from_code, from_cfi),
                "{flags:?} {at:#x}: {from_code:?} {from_cfi:?}"
            );
            assert_ne!(from_code, Rule::of(Kind::Uncovered), "{flags:?} {at:#x}");
            calls += 1;
        }
    }
    assert!(calls > 25, "{flags:?}: {calls} calls");
}

#[test]
fn what_compilers_make_is_followed() {
    for level in ["-O0", "-O1", "-O2", "-Os", "-O3"] {
        for frames in ["-fomit-frame-pointer", "-fno-omit-frame-pointer"] {
            check_calls(&[level, frames]);
        }
    }
}

#[test]
fn code_and_unwind_data_of_the_c_library_agree() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let path = Path::new(paths.into_iter().find(|path| path.contains("/libc.so")).unwrap());
    let file = File::open(path).unwrap();
    let ranges = Elf::open(&file).unwrap().function_ranges().unwrap();
    let entries: Vec<Entry> =
        ranges.into_iter().map(|(address, size)| Entry { address, size }).collect();
    let described = build(&file, &Budget::for_plan()).unwrap();
    let derived = derive(&pieces(path), &entries);
    // Hand-written code may be described wrongly, and be entered in ways of its own.
    let differ = derived.iter().filter(|d| {
        let described = rule_at(&described.table, d.start);
        described.kind() <= Kind::Fp as u64 && !is_as_good(d.rule, described)
    });
    let differ = differ.count();
    assert!(derived.len() > 20_000 && differ * 1000 < derived.len(), "{differ} {}", derived.len());
}

/// The table of a library with this function, and a function of musl's by which it is known.
fn of_code(code: &str) -> (UnwindTable, u64) {
    let source = format!(
        ".text\n.globl f, __init_libc\n.type f, @function\n.type __init_libc, @function\n\
         __init_libc: ret\n.p2align 6\nf: {code}\n.size f, .-f\n.p2align 6, 0xcc\n"
    );
    let (built, functions) = assemble(&source, &[]);
    (built.table, functions["f"])
}

#[test]
fn the_stack_is_counted() {
    let (table, f) = of_code(
        "push %rbp; push %rbx; sub $40, %rsp; xor %ebp, %ebp; add $40, %rsp
        pop %rbx; pop %rbp; ret",
    );
    let at = |offset| rule_at(&table, f + offset);
    let sp = |cfa, fp| Rule::new(Kind::Sp, cfa, fp).unwrap();
    // push, push, sub (4 bytes), xor (2), add (4), pop, pop, ret
    let expected =
        [(0, 8, 0), (1, 16, -16), (2, 24, -16), (6, 64, -16), (8, 64, -16), (12, 24, -16)];
    for (offset, cfa, fp) in expected {
        assert_eq!(at(offset), sp(cfa, fp), "{offset}");
    }
    assert_eq!((at(13), at(14)), (sp(16, -16), sp(8, 0)));
    assert_eq!(at(15), Rule::of(Kind::Uncovered));
}

#[test]
fn a_function_that_does_something_else_is_left_out() {
    for code in [
        // The frame pointer is lost, or set up for a thread's first function.
        "mov %rdi, %rbp; ret",
        "xor %ebp, %ebp; pop %rdi; call *%r9; hlt",
        // The stack is another one, or the return address goes.
        "mov %rdi, %rsp; ret",
        "xchg %rdi, %rsp; ret",
        "pop %rax; jmp *%rax",
        "and $-16, %rsp; ret",
        // Returns do not find the return address; ways meet that do not fit.
        "push %rbx; ret",
        "push %rbp; add $8, %rsp; ret",
        "test %edi, %edi; je 1f; push %rbx; 1: nop; nop; ret",
        "leave; ret",
        ".byte 0x06",
    ] {
        let (table, f) = of_code(&format!("nop; nop; nop; {code}"));
        assert_eq!(rule_at(&table, f), Rule::of(Kind::Uncovered), "{code}");
    }
}

/// A program that starts as musl's do, and whose own code is described.
const PROGRAM: &str = ".text\n.globl _start\n.p2align 6\n
    _start: xor %rbp, %rbp; mov %rsp, %rdi; lea _start(%rip), %rsi; and $-16, %rsp; call main
    .p2align 6\n.type g, @function\ng: push %rbx; call h; pop %rbx; ret; .size g, .-g
    .p2align 6\n.type h, @function\nh: push %rax; nop; pop %rax; ret; .size h, .-h
    .p2align 6\n.type main, @function\nmain: .cfi_startproc\njmp g\n.cfi_endproc\n.size main, .-main
    .p2align 6\n.type v, @function\nv: ret; .size v, .-v\n";

#[test]
fn musl_is_known_without_its_symbols() {
    let (built, functions) = assemble(PROGRAM, &["-static", "-no-pie"]);
    let at = |name: &str| rule_at(&built.table, functions[name] + 1);
    let pushed = Rule::new(Kind::Sp, 16, 0).unwrap();
    assert_eq!((at("g"), at("h")), (pushed, pushed));
    assert_eq!(rule_at(&built.table, functions["v"]), Rule::of(Kind::Uncovered));
}

#[test]
fn only_musl_is_followed() {
    let not_musl = PROGRAM.replace("xor %rbp, %rbp", "xor %ebp, %ebp");
    let with_v8 = format!(
        "{PROGRAM}.globl __init_libc\n.type __init_libc, @function\n\
        __init_libc: ret; .type Builtins_X, @function\nBuiltins_X: ret\n"
    );
    let mut dynamic = PROGRAM.to_owned();
    dynamic.push_str(".section .interp, \"a\"\n.asciz \"/lib/ld.so\"\n");
    for code in [not_musl, with_v8, dynamic] {
        let (built, functions) = assemble(&code, &["-static", "-no-pie"]);
        let at = |name: &str| rule_at(&built.table, functions[name] + 1);
        assert_eq!((at("g"), at("h")), (Rule::of(Kind::Uncovered), Rule::of(Kind::Uncovered)));
    }
}

#[test]
fn nothing_has_called_a_program() {
    let code = ".text\n.globl _start\n.type _start, @function\n_start: xor %ebp, %ebp\n\
        mov %rsp, %rdi; and $-16, %rsp; call f\n.type f, @function\nf: ret\n.size f, .-f\n\
        .p2align 6\n";
    let (built, functions) = assemble(code, &["-static-pie"]);
    let at = |offset| rule_at(&built.table, functions["_start"] + offset);
    assert_eq!((at(0), at(13)), (Rule::of(Kind::End), Rule::of(Kind::End)));
    assert_eq!(rule_at(&built.table, functions["f"]), Rule::of(Kind::Uncovered));
}

#[test]
fn many_functions_over_one_long_stretch_of_code_take_bounded_time() {
    // Each jumps into the same code and is lost at its end, so that the next one follows it again.
    let mut code = Vec::new();
    let functions: u64 = 20_000;
    for index in 0..functions {
        let distance = (functions * 8 - (index * 8 + 6)) as u32;
        code.extend([0x53, 0xe9]);
        code.extend(distance.to_le_bytes());
        code.extend([0xcc; 2]);
    }
    code.extend(vec![0x90; 500_000]);
    code.push(0xc3);
    let entries: Vec<Entry> =
        (0..functions).map(|index| Entry { address: 0x1000 + index * 8, size: 6 }).collect();
    let start = std::time::Instant::now();
    assert_eq!(derive(&[Piece { address: 0x1000, code }], &entries), []);
    // All of them to the end would be 10,000,000,000 instructions.
    assert!(start.elapsed() < std::time::Duration::from_secs(60), "{:?}", start.elapsed());
}
