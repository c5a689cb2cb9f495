//! Places, ways out and stubs, on both machines.

mod aarch64;
mod x86_64;

use std::fs;

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
use proptest::prelude::*;

use self::aarch64::{ADRP_X16, B, CBZ_X0, PACIASP, STP_PUSH};
use super::*;

/// The bytes of hexadecimal digits; spaces are for the reader.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The bytes of instructions, for aarch64.
fn little_endian(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn describe(placement: Placement) -> String {
    match placement {
        Placement::At(site) if site.emulated => format!("+{} {}", site.offset, site.instruction),
        Placement::At(site) => format!("+{} {}, stepped", site.offset, site.instruction),
        Placement::Refused(reason) => reason,
    }
}

const fn returning(arguments: &[u8]) -> Need<'_> {
    Need { arguments, return_probe: true, ignore_when_zero: None }
}

const fn entering(arguments: &[u8]) -> Need<'_> {
    Need { arguments, return_probe: false, ignore_when_zero: None }
}

const FREE: Need<'_> = Need { arguments: &[0], return_probe: false, ignore_when_zero: Some(0) };

#[test]
fn ways_out() {
    // call +0x100; jmp to the start; je +0x200; call [rip+8]; jmp fs:[rip]; ret; call again
    let code = hex("e800010000 ebf9 0f8400020000 ff1508000000 64ff2500000000 c3 e8e5000000");
    let expect = [Transfer::Direct(0x1105), Transfer::Direct(0x120d), Transfer::Slot(0x101b)];
    assert_eq!(transfers(Machine::X86_64, &code, 0x1000), expect);
    // bl; cbz to the start; b.eq out; adrp x1; ldr x1, [x1, #8]; blr x1; ret
    let code = little_endian(&[
        0x9400_0040,
        0xb4ff_ffe0,
        0x5400_0800,
        0xb000_0001,
        0xf940_0421,
        0xd63f_0020,
        0xd65f_03c0,
    ]);
    let expect = [Transfer::Direct(0x1100), Transfer::Direct(0x1108), Transfer::Slot(0x2008)];
    assert_eq!(transfers(Machine::Aarch64, &code, 0x1000), expect);
}

#[test]
fn stubs() {
    let slot = |digits: &str| plt_slot(Machine::X86_64, &hex(digits), 0x1000);
    assert_eq!(slot("ff2512000000 6800000000 e9e0ffffff"), Some(0x1018));
    assert_eq!(slot("f30f1efa f2ff2511000000"), Some(0x101c));
    assert_eq!(slot("f30f1efa ff2511000000"), Some(0x101b));
    assert_eq!(slot("f30f1efa 6800000000 f2e9e1ffffff"), None);
    assert_eq!(slot("ff1512000000"), None);
    assert_eq!(slot("ffe0"), None);
    assert_eq!(slot(""), None);
    // bti c; adrp x16, 0x11000; ldr x17, [x16, #0xfb8]; add x16, x16, #0xfb8; br x17
    let stub = [0xd503_245f, 0xb000_0090, 0xf947_de11, 0x913e_e210, 0xd61f_0220];
    let slot = |words: &[u32]| plt_slot(Machine::Aarch64, &little_endian(words), 0x1000);
    assert_eq!(slot(&stub), Some(0x12fb8));
    assert_eq!(slot(&stub[1..]), Some(0x12fb8));
    assert_eq!(slot(&stub[2..]), None);
    assert_eq!(slot(&stub[..4]), None);
}

/// The C library that this test runs with: every allocation function has its place.
#[test]
fn the_c_library_of_this_machine() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().find_map(|line| {
        let path = &line[line.find('/')?..];
        path.ends_with("/libc.so.6").then_some(path)
    });
    let data = fs::read(path.expect("the tests run on glibc")).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let bytes = |address, size| file.segments().find_map(|s| s.data_range(address, size).unwrap());
    let place_of = |name: &str, need: &Need<'_>| {
        let symbol = file.dynamic_symbols().find(|s| s.is_definition() && s.name() == Ok(name));
        let (address, size) = symbol.map(|s| (s.address(), s.size())).unwrap();
        place(Machine::HOST, bytes(address, size).unwrap(), address, need)
    };
    for (name, need) in [
        ("malloc", returning(&[0])),
        ("calloc", returning(&[0, 1])),
        ("realloc", returning(&[0, 1])),
        ("reallocarray", returning(&[0])),
        ("memalign", returning(&[0, 1])),
        ("aligned_alloc", returning(&[0, 1])),
        ("posix_memalign", returning(&[0, 1, 2])),
        ("valloc", returning(&[0])),
        ("pvalloc", returning(&[0])),
        ("free", FREE),
    ] {
        let placement = place_of(name, &need);
        println!("{name}: {placement:?}");
        let is_fine = match &placement {
            Placement::At(site) => site.emulated || Machine::HOST == Machine::Aarch64,
            Placement::Refused(_) => false,
        };
        assert!(is_fine, "{name}: {placement:?}");
    }
}

fn any_machine() -> impl Strategy<Value = Machine> {
    prop_oneof![Just(Machine::X86_64), Just(Machine::Aarch64)]
}

/// Random bytes, or such as functions are made of, so that sites past the entry occur.
fn any_code() -> impl Strategy<Value = Vec<u8>> {
    let pieces = ["f30f1efa", "4885ff", "7404", "55", "4154", "89c8", "75f9", "66", "4883ec08"];
    let words = [CBZ_X0, ADRP_X16, B, STP_PUSH, PACIASP, 0x17ff_ffff].map(|w| little_endian(&[w]));
    let all: Vec<Vec<u8>> = pieces.into_iter().map(hex).chain(words).collect();
    let mixed = prop::collection::vec(prop::sample::select(all), 0..16);
    prop_oneof![prop::collection::vec(any::<u8>(), 0..96), mixed.prop_map(|code| code.concat())]
}

proptest! {
    #[test]
    fn any_bytes_give_an_instruction_of_theirs(
        machine in any_machine(),
        code in any_code(),
        address in any::<u64>(),
        arguments in prop::collection::vec(0u8..8, 0..4),
        return_probe in any::<bool>(),
        ignore_when_zero in prop::option::of(0u8..7),
    ) {
        let need = Need { arguments: &arguments, return_probe, ignore_when_zero };
        if let Placement::At(site) = place(machine, &code, address, &need) {
            prop_assert!(site.offset < code.len() as u64 && !site.instruction.is_empty());
            let is_start = match machine {
                Machine::X86_64 => super::x86_64::steps(&code, address).any(|s| s.offset == site.offset),
                Machine::Aarch64 => site.offset % 4 == 0,
            };
            prop_assert!(is_start && (site.emulated || site.offset == 0));
        }
        for transfer in transfers(machine, &code, address) {
            if let Transfer::Direct(target) = transfer {
                prop_assert!(target.wrapping_sub(address) >= code.len() as u64);
            }
        }
        plt_slot(machine, &code, address);
    }
}
