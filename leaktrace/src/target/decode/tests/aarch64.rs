//! Places in aarch64 functions.

use super::*;

pub(super) const CBZ_X0: u32 = 0xb400_0100; // to +0x20
pub(super) const ADRP_X16: u32 = 0xb000_0090;
pub(super) const B: u32 = 0x1400_0004; // to +0x10
pub(super) const STP_PUSH: u32 = 0xa9be_7bfd; // stp x29, x30, [sp, #-32]!
pub(super) const STP: u32 = 0xa901_7bfd; // stp x29, x30, [sp, #16]
pub(super) const PACIASP: u32 = 0xd503_233f;
pub(super) const RET: u32 = 0xd65f_03c0;

fn check(words: &[u32], need: &Need<'_>, expect: &str) {
    let code = little_endian(words);
    assert_eq!(describe(place(Machine::Aarch64, &code, 0x1000, need)), expect, "{words:08x?}");
}

#[test]
fn places_on_the_straight_line() {
    check(&[CBZ_X0, STP_PUSH, ADRP_X16], &FREE, "+8 adrp");
    check(&[CBZ_X0, STP_PUSH, ADRP_X16], &entering(&[0]), "+0 cbz x0, 0x1020");
    // cbz w0: half of it
    check(&[0x3400_0100, ADRP_X16], &FREE, "+0 cbz 0x1020");
    check(&[STP_PUSH, ADRP_X16], &returning(&[0]), "+0 stp, stepped");
    check(&[STP, ADRP_X16], &returning(&[0]), "+0 stp, stepped");
    check(&[PACIASP, ADRP_X16], &returning(&[0]), "+0 paciasp, stepped");
    check(&[PACIASP, STP_PUSH, ADRP_X16], &entering(&[0]), "+8 adrp");
    check(&[0xd503_245f, B], &returning(&[0, 1, 2, 3, 4, 5]), "+4 b 0x1014");
    check(&[0x9400_0004], &returning(&[0]), "+0 bl 0x1010");
    check(&[RET], &returning(&[0]), "+0 ret x30");
}

#[test]
fn what_an_argument_survives() {
    // Each word, then adrp: which of x0 to x3 the word writes.
    for (word, written) in [
        (0xd503_201f, None),    // nop
        (0xaa00_03f3, None),    // mov x19, x0
        (0xaa01_03e0, Some(0)), // mov x0, x1
        (0x5280_00a0, Some(0)), // mov w0, #5
        (0xaa03_0041, Some(1)), // orr x1, x2, x3
        (0x9240_1c00, Some(0)), // and x0, x0, #0xff
        (0xf100_001f, None),    // cmp x0, #0
        (0xeb01_001f, None),    // cmp x0, x1
        (0xea01_001f, None),    // tst x0, x1
        (0xf941_0003, Some(3)), // ldr x3, [x0, #512]
        (0xf840_8420, Some(1)), // ldr x0, [x1], #8: x0 and x1
        (0x3863_6822, Some(2)), // ldrb w2, [x1, x3]
        (0xf980_0000, None),    // prfm pldl1keep, [x0]
        (0x3d80_07e0, None),    // str q0, [sp, #16]
        (0x9a82_0020, Some(0)), // csel x0, x1, x2, eq
        (0x9b05_7c83, Some(3)), // mul x3, x4, x5
        (0xd37d_f042, Some(2)), // lsl x2, x2, #3
        (0xfa41_0000, None),    // ccmp x0, x1, #0, eq
        (0xd53b_d041, Some(1)), // mrs x1, tpidr_el0
        (0xda89_1529, None),    // cneg x9, x9, eq
    ] {
        for argument in 0..4 {
            let code = little_endian(&[word, ADRP_X16]);
            let placement = place(Machine::Aarch64, &code, 0, &entering(&[argument]));
            let survived = describe(placement) == "+4 adrp";
            let is_base = word == 0xf840_8420 && argument == 0;
            assert_eq!(survived, written != Some(argument) && !is_base, "{word:08x} x{argument}");
        }
    }
    // fmov x0, d0 is not known.
    check(&[0x9e66_0000, ADRP_X16], &entering(&[]), "+0 .inst 0x9e660000, stepped");
}

#[test]
fn a_loop_back_past_the_entry_is_no_place() {
    // nop; adrp; b to the adrp, to the nop
    check(&[0xd503_201f, ADRP_X16, 0x17ff_ffff], &entering(&[]), "+0 nop, stepped");
    check(&[0xd503_201f, ADRP_X16, 0x17ff_fffe], &entering(&[]), "+4 adrp");
}

#[test]
fn functions_that_take_no_probe() {
    let own = "the kernel takes no probe on its first instruction";
    for (word, expect) in [
        (0, "its first instruction cannot be decoded"),
        (0xd420_0000, "it starts with a breakpoint of someone else"),
        (0xc85f_7c20, "the kernel takes no probe on an exclusive load or store"),
        (0x5800_0043, "the kernel takes no probe on a load relative to the program counter"),
        (0xd400_0001, own), // svc
        (0xd65f_0bff, own), // retaa
        (0xd53b_d041, own), // mrs
        (0xd503_203f, own), // yield
    ] {
        check(&[word], &returning(&[]), expect);
    }
    assert_eq!(
        place(Machine::Aarch64, &[0x1f, 0x20, 0x03], 0, &entering(&[])),
        Placement::Refused("the function has no code".to_owned())
    );
}
