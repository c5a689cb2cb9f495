//! Which of the few DWARF expressions that occur in unwind data is this one. They are recognised,
//! never evaluated.

use gimli::Reader;

use super::Bytes;

/// What an expression computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// A register + offset.
    Sum(u16, i64),
    /// The word at a register + offset, plus an addend.
    WordAt(u16, i64, u8),
    /// Stack pointer + 8, or + 16 from this byte on of an entry of the procedure linkage table.
    Plt(u8),
    /// Anything else.
    Other,
}

const DEREF: u8 = 0x06;
const PLUS_UCONST: u8 = 0x23;
const LIT0: u8 = 0x30;
const LIT31: u8 = 0x4f;
const BREG0: u8 = 0x70;
const BREG31: u8 = 0x8f;

impl Expression {
    pub(super) fn recognise(mut bytes: Bytes<'_>) -> Self {
        // breg7 8; breg16 0; lit15; and; litN; ge; lit3; shl; plus
        if let &[0x77, 8, 0x80, 0, 0x3f, 0x1a, lit @ LIT0..=LIT31, 0x2a, 0x33, 0x24, 0x22] =
            bytes.slice()
        {
            return Self::Plt(lit - LIT0);
        }
        let Ok(first @ BREG0..=BREG31) = bytes.read_u8() else { return Self::Other };
        let register = u16::from(first - BREG0);
        let Ok(offset) = bytes.read_sleb128() else { return Self::Other };
        match bytes.slice() {
            [] => Self::Sum(register, offset),
            [DEREF] => Self::WordAt(register, offset, 0),
            // One byte says up to 127.
            &[DEREF, PLUS_UCONST, addend @ 0..0x80] => Self::WordAt(register, offset, addend),
            _ => Self::Other,
        }
    }
}
