//! What one A64 instruction does, for the small part of them that starts functions.
//!
//! Encodings: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter C4, "A64
//! Instruction Set Encoding". What is not listed here is unknown, and ends all reasoning.

/// The link register, x30.
pub(super) const LINK: u32 = 30;
/// The stack pointer's bit in [`Word::writes`].
pub(super) const STACK: u32 = 31;

/// What an instruction does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    pub(super) name: &'static str,
    /// The general registers written, a bit each; bit 31 is the stack pointer.
    pub(super) writes: u32,
    /// The general registers whose value is copied or computed with, a bit each. May be too many.
    pub(super) reads: u32,
    pub(super) flow: WordFlow,
}

/// How control leaves an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum WordFlow {
    Next,
    /// To this distance from the instruction, in bytes, and to the next one if it is conditional.
    Branch {
        distance: i64,
        conditional: bool,
    },
    /// `cbz` with this full 64-bit register.
    IfZero {
        register: u32,
        distance: i64,
    },
    /// To the address in a register.
    Register(u32),
}

/// What an instruction does; `None` if that is not known.
pub(super) fn decode(word: u32) -> Option<Word> {
    // Bits 28 to 25 select the group.
    match word >> 25 & 0xf {
        0b1000 | 0b1001 => immediate(word),
        0b1010 | 0b1011 => branch_or_system(word),
        0b0100 | 0b0110 | 0b1100 | 0b1110 => load_or_store(word),
        0b0101 | 0b1101 => register(word),
        _ => None,
    }
}

/// The page that `adrp` gives, relative to its own page, in bytes.
pub(super) fn adrp(word: u32) -> Option<i64> {
    (word & 0x9f00_0000 == 0x9000_0000)
        .then(|| signed(word >> 5 & 0x7_ffff, 19) << 14 | i64::from(word >> 29 & 3) << 12)
}

/// Register 31 is the zero register here.
fn general(word: u32, position: u32) -> u32 {
    match word >> position & 31 {
        31 => 0,
        register => 1 << register,
    }
}

/// Register 31 is the stack pointer here.
fn general_or_stack(word: u32, position: u32) -> u32 {
    1 << (word >> position & 31)
}

fn signed(value: u32, bits: u32) -> i64 {
    let unused = 64 - bits;
    (i64::from(value) << unused) >> unused
}

fn plain(name: &'static str, writes: u32, reads: u32) -> Option<Word> {
    Some(Word { name, writes, reads, flow: WordFlow::Next })
}

/// Data processing with an immediate.
fn immediate(word: u32) -> Option<Word> {
    let zero_form = general(word, 0);
    let stack_form = general_or_stack(word, 0);
    let source = general(word, 5);
    let sets_flags = word >> 29 & 1 == 1;
    match word >> 23 & 7 {
        0 | 1 => plain(if word >> 31 == 1 { "adrp" } else { "adr" }, zero_form, 0),
        2 if sets_flags => plain("adds/subs", zero_form, source),
        2 => plain("add/sub", stack_form, source),
        4 if word >> 29 & 3 == 3 => plain("ands", zero_form, source),
        4 => plain("and/orr/eor", stack_form, source),
        5 => plain("mov", zero_form, 0),
        6 => plain("bitfield move", zero_form, source | general(word, 0)),
        7 => plain("extr", zero_form, source | general(word, 16)),
        _ => None,
    }
}

/// Data processing on registers.
fn register(word: u32) -> Option<Word> {
    let written = general(word, 0);
    let reads = general(word, 5) | general(word, 16);
    match word {
        _ if word & 0x1f00_0000 == 0x0a00_0000 => plain("and/orr/eor", written, reads),
        _ if word & 0x1f20_0000 == 0x0b00_0000 => plain("add/sub", written, reads),
        _ if word & 0x3f20_0000 == 0x0b20_0000 => {
            plain("add/sub", general_or_stack(word, 0), reads)
        }
        _ if word & 0x3f20_0000 == 0x2b20_0000 => plain("adds/subs", written, reads),
        _ if word & 0x1fe0_fc00 == 0x1a00_0000 => plain("adc/sbc", written, reads),
        _ if word & 0x1fe0_0000 == 0x1a40_0000 => plain("ccmp", 0, reads),
        _ if word & 0x1fe0_0000 == 0x1a80_0000 => plain("csel", written, reads),
        // One or two sources; of irg and subps, register 31 is the stack pointer.
        _ if word & 0x1fe0_0000 == 0x1ac0_0000 => {
            plain("data processing", general_or_stack(word, 0), reads)
        }
        _ if word & 0x1f00_0000 == 0x1b00_0000 => {
            plain("madd/msub", written, reads | general(word, 10))
        }
        _ => None,
    }
}

fn load_or_store(word: u32) -> Option<Word> {
    let is_vector = word >> 26 & 1 == 1;
    let base = general_or_stack(word, 5);
    if word & 0x3a00_0000 == 0x2800_0000 {
        let both = general(word, 0) | general(word, 10);
        let written_back = if word >> 23 & 1 == 1 { base } else { 0 };
        let is_load = word >> 22 & 1 == 1;
        return match (is_vector, is_load) {
            (true, true) => plain("ldp", written_back, 0),
            (true, false) => plain("stp", written_back, 0),
            (false, true) => plain("ldp", both | written_back, 0),
            (false, false) => plain("stp", written_back, both),
        };
    }
    let written_back = match word {
        _ if word & 0x3b00_0000 == 0x3900_0000 => 0,
        _ if word & 0x3b20_0c00 == 0x3820_0800 => 0,
        // Bit 10 tells the forms that move the base register (post- and pre-index).
        _ if word & 0x3b20_0000 == 0x3800_0000 && word >> 10 & 1 == 1 => base,
        _ if word & 0x3b20_0000 == 0x3800_0000 => 0,
        _ => return None,
    };
    let (size, operation) = (word >> 30, word >> 22 & 3);
    match (is_vector, operation) {
        (true, 0 | 2) => plain("str", written_back, 0),
        (true, _) => plain("ldr", written_back, 0),
        (false, 0) => plain("str", written_back, general(word, 0)),
        (false, 2) if size == 3 => plain("prfm", written_back, 0),
        (false, _) => plain("ldr", written_back | general(word, 0), 0),
    }
}

fn branch_or_system(word: u32) -> Option<Word> {
    let far = || signed(word & 0x3ff_ffff, 26) * 4;
    let near = || signed(word >> 5 & 0x7_ffff, 19) * 4;
    let shortest = || signed(word >> 5 & 0x3fff, 14) * 4;
    let link = 1 << LINK;
    let branch = |name, distance, conditional| {
        Some(Word { name, writes: 0, reads: 0, flow: WordFlow::Branch { distance, conditional } })
    };
    let to_register = |name, writes| {
        let flow = WordFlow::Register(word >> 5 & 31);
        Some(Word { name, writes, reads: 0, flow })
    };
    match word {
        _ if word & 0xfc00_0000 == 0x1400_0000 => branch("b", far(), false),
        _ if word & 0xfc00_0000 == 0x9400_0000 => {
            branch("bl", far(), false).map(|call| Word { writes: link, ..call })
        }
        _ if word & 0xff00_0010 == 0x5400_0000 => branch("b.cond", near(), true),
        _ if word & 0xff00_0000 == 0xb400_0000 => {
            let flow = WordFlow::IfZero { register: word & 31, distance: near() };
            Some(Word { name: "cbz", writes: 0, reads: 0, flow })
        }
        _ if word & 0x7f00_0000 == 0x3400_0000 => branch("cbz", near(), true),
        _ if word & 0x7f00_0000 == 0x3500_0000 => branch("cbnz", near(), true),
        _ if word & 0x7f00_0000 == 0x3600_0000 => branch("tbz", shortest(), true),
        _ if word & 0x7f00_0000 == 0x3700_0000 => branch("tbnz", shortest(), true),
        _ if word & 0xffff_fc1f == 0xd61f_0000 => to_register("br", 0),
        _ if word & 0xffff_fc1f == 0xd63f_0000 => to_register("blr", link),
        _ if word & 0xffff_fc1f == 0xd65f_0000 => to_register("ret", 0),
        _ if word & 0xffff_f01f == 0xd503_201f => hint(word >> 5 & 0x7f),
        _ if word & 0xfff0_0000 == 0xd530_0000 => plain("mrs", general(word, 0), 0),
        _ => None,
    }
}

fn hint(number: u32) -> Option<Word> {
    match number {
        0 => plain("nop", 0, 0),
        // These sign or strip the return address in the link register.
        7 => plain("xpaclri", 1 << LINK, 0),
        25 => plain("paciasp", 1 << LINK, 0),
        24 | 26..=31 => plain("pointer authentication", 1 << LINK, 0),
        8 | 10 | 12 | 14 => plain("pointer authentication", 1 << 17, 0),
        32 | 34 | 36 | 38 => plain("bti", 0, 0),
        _ => None,
    }
}
