//! Places in x86-64 functions.

use super::*;

fn check(digits: &str, need: &Need<'_>, expect: &str) {
    assert_eq!(describe(place(Machine::X86_64, &hex(digits), 0x1000, need)), expect, "{digits}");
}

/// The first bytes of the functions in Debian 12's glibc 2.36 (x86-64).
#[test]
fn functions_of_debian_12() {
    let malloc = "4154 55 53 4889fb 4883ec10 803d461b140000 0f84f8010000";
    check(malloc, &returning(&[0]), "+0 push r12");
    let calloc = "4155 4889f8 4154 55 53 4883ec18 48f7e6 4889c3 0f90c0 4885db";
    check(calloc, &returning(&[0, 1]), "+0 push r13");
    let realloc = "4157 4156 4155 4154 55 4889f5 53 4889fb 4883ec28 803d3d13140000";
    check(realloc, &returning(&[0, 1]), "+0 push r15");
    let memalign = "803d710e140000 7407 e932f6ffff 6690 4883ec18 4889742408 48893c24";
    check(memalign, &returning(&[0, 1]), "+7 je 0x1010");
    let posix_memalign = "803d0102140000 4154 4989d4 55 4889fd 53 4889f3 745a 4889da";
    check(posix_memalign, &returning(&[0, 1, 2]), "+7 push r12");
    let valloc = "803d310e140000 53 4889fb 741b 488b0534981300 4889de 5b";
    check(valloc, &returning(&[0]), "+7 push rbx");
    let free = "4885ff 0f84bf000000 55 488d77f0 53 4883ec18 488b1dd69e1300";
    check(free, &FREE, "+9 push rbp");
    check(free, &entering(&[0]), "+3 je 0x10c8");
}

/// Debian 12's `reallocarray` multiplies its sizes before its first emulated instruction.
#[test]
fn reallocarray_loses_its_sizes() {
    let reallocarray = "4889f0 48f7e2 4889c6 7005 e940b8f8ff 488b05e9851300 64c7000c000000";
    check(reallocarray, &returning(&[0]), "+9 jo 0x1010");
    check(reallocarray, &returning(&[0, 1, 2]), "+0 mov rax, rsi, stepped");
    check(reallocarray, &returning(&[2]), "+0 mov rax, rsi, stepped");
}

#[test]
fn operators_of_libstdcxx() {
    let new = "f30f1efa 4885ff b801000000 53 480f45c7 4889c3 4889df";
    check(new, &returning(&[0]), "+12 push rbx");
    let aligned_new = "f30f1efa 55 4889fd 4889f7 53 4889f3 4883ec08";
    check(aligned_new, &returning(&[0, 1]), "+4 push rbp");
    let delete = "f30f1efa e9872fffff";
    check(delete, &FREE, "+4 jmp 0xffffffffffff3f90");
    let nothrow_new = "f30f1efa 4883ec08 e8133bffff 4883c408 c3";
    check(nothrow_new, &returning(&[0]), "+0 endbr64, stepped");
    check(nothrow_new, &entering(&[0]), "+8 call 0xffffffffffff4b20");
}

#[test]
fn what_an_argument_survives() {
    // mov edi, edi; push rbp: the upper half is gone
    check("89ff 55", &entering(&[0]), "+0 mov edi, edi, stepped");
    check("89ff 55", &entering(&[1]), "+2 push rbp");
    // mov dil, 1; cmove rdi, rax; xchg rax, r9; xadd: part, perhaps, both
    check("40b701 55", &entering(&[0]), "+0 mov dil, 1, stepped");
    check("480f44f8 55", &entering(&[0]), "+0 cmove rdi, rax, stepped");
    check("4991 55", &entering(&[5]), "+0 xchg r9, rax, stepped");
    // syscall; push rbp
    check("31c0 0f05 55", &entering(&[]), "+0 xor eax, eax, stepped");
    check("55", &entering(&[6]), "argument 6 is in no register");
}

#[test]
fn what_a_return_address_survives() {
    check("4883ec08 55", &returning(&[]), "+0 sub rsp, 8, stepped");
    check("4883ec08 55", &entering(&[]), "+4 push rbp");
    // mov [rsp], rax; [rsp-8] (red zone); [rsp+8]; [rsp-4], across; [rsp+rax]
    check("48890424 55", &returning(&[]), "+0 mov [rsp], rax, stepped");
    check("48894424f8 55", &returning(&[]), "+5 push rbp");
    check("4889442408 55", &returning(&[]), "+5 push rbp");
    check("48894424fc 55", &returning(&[]), "+0 mov [rsp-4], rax, stepped");
    check("48890404 55", &returning(&[]), "+0 mov [rsp+rax], rax, stepped");
}

#[test]
fn what_only_some_kernels_emulate_is_no_place() {
    for (code, expect) in [
        ("6690", "+0 xchg ax, ax, stepped"),
        ("0f1f00", "+0 nop [rax], stepped"),
        ("4855", "+0 push rbp, stepped"),
        ("f255", "+0 push rbp, stepped"),
        ("ff25 00000000", "+0 jmp qword ptr [rip], stepped"),
        ("c3", "+0 ret, stepped"),
    ] {
        check(code, &entering(&[]), expect);
    }
    check("90", &entering(&[]), "+0 nop");
}

#[test]
fn the_check_for_null() {
    // cmp rdi, 0; mov rax, rsi; je; push
    check("4883ff00 4889f0 7405 55", &FREE, "+9 push rbp");
    // test edi, edi; je: only half of it
    check("85ff 7405 55", &FREE, "+2 je 0x1009");
    // test rdi, rdi; add eax, 1; je: the flags are of something else
    check("4885ff 83c001 7405 55", &FREE, "+6 je 0x100d");
    // test rsi, rsi; je, and jne: another argument, the other way round
    check("4885f6 7405 55", &FREE, "+3 je 0x100a");
    check("4885ff 7505 55", &FREE, "+3 jne 0x100a");
    // push; test; je; mov: nothing behind it, so the one in front
    check("55 4885ff 7405 89ff 53", &FREE, "+0 push rbp");
    // test; je; push, to which a loop comes back: the je instead
    check("4885ff 7403 55 ebfd", &FREE, "+3 je 0x1008");
}

#[test]
fn a_loop_back_past_the_entry_is_no_place() {
    // mov eax, ecx; push; dec eax; jne to the push, to the mov, to behind the push
    check("89c8 55 ffc8 75fb c3", &entering(&[]), "+0 mov eax, ecx, stepped");
    check("89c8 55 ffc8 75f9 c3", &entering(&[]), "+2 push rbp");
    check("89c8 55 ffc8 75fc c3", &entering(&[]), "+2 push rbp");
    // The same behind bytes that are no instruction
    check("89c8 55 c3 06 75fb", &entering(&[]), "+2 push rbp");
    check("89c8 55 c3 06 75fb 75f8", &entering(&[]), "+0 mov eax, ecx, stepped");
    check("55 ebfd", &entering(&[]), "+0 push rbp");
}

#[test]
fn functions_that_take_no_probe() {
    for (code, expect) in [
        ("", "the function has no code"),
        ("06", "its first instruction cannot be decoded"),
        ("48", "its first instruction cannot be decoded"),
        ("cc 55", "it starts with a breakpoint of someone else"),
        ("f4 55", "the kernel takes no probe on its first instruction"),
        ("ec", "the kernel takes no probe on its first instruction"),
        ("0f0b", "the kernel takes no probe on its first instruction"),
        ("48cb", "it starts with a far return"),
        ("ff28", "it starts with a far call or jump"),
        ("f0480fc117", "the kernel takes no probe on a lock or segment prefix"),
        ("2e0f1f00", "the kernel takes no probe on a lock or segment prefix"),
        ("66e900000000", "the kernel takes no probe on a 16-bit branch"),
    ] {
        check(code, &entering(&[]), expect);
    }
}
