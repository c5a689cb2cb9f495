//! What A64 instructions do to a function's arguments and return address, and which of them the
//! kernel simulates or refuses under a uprobe (`arch/arm64/kernel/probes/decode-insn.c`).

use super::aarch64_words::{LINK, STACK, Word, WordFlow, adrp, decode};
use super::{ARGUMENTS, Flow, Step, Transfer};

/// The instructions of the straight line from the entry, until one that is not known.
pub(super) fn steps(code: &[u8]) -> impl Iterator<Item = Step> {
    words(code).map_while(|(offset, word)| {
        let decoded = decode(word)?;
        let return_address = 1 << LINK | 1 << STACK;
        let moves_return = decoded.writes & return_address != 0 || decoded.reads & 1 << LINK != 0;
        let flow = match decoded.flow {
            WordFlow::Next => Flow::Next,
            WordFlow::IfZero { register, .. } => u8::try_from(register)
                .ok()
                .filter(|&register| register < ARGUMENTS)
                .map_or(Flow::Ends, Flow::NextUnlessZero),
            WordFlow::Branch { .. } | WordFlow::Register(_) => Flow::Ends,
        };
        let [writes, ..] = decoded.writes.to_le_bytes();
        Some(Step { offset, emulated: is_simulated(&decoded), writes, moves_return, flow })
    })
}

/// The targets of all direct branches.
pub(super) fn branch_targets(code: &[u8], address: u64) -> impl Iterator<Item = u64> {
    words(code).filter_map(move |(offset, word)| {
        direct_target(&decode(word)?, address.wrapping_add(offset))
    })
}

/// The ways out of the code, and those that stay within.
pub(super) fn transfers(code: &[u8], address: u64) -> Vec<Transfer> {
    let mut slots = Slots::default();
    let transfer = |(offset, word): (u64, u32)| {
        let at = address.wrapping_add(offset);
        let slot = slots.step(word, at).map(Transfer::Slot);
        slot.or_else(|| direct_target(&decode(word)?, at).map(Transfer::Direct))
    };
    words(code).filter_map(transfer).collect()
}

/// The slot that a PLT stub jumps through: `[bti c] adrp; ldr; add; br`.
pub(super) fn plt_slot(code: &[u8], address: u64) -> Option<u64> {
    let mut slots = Slots::default();
    for (offset, word) in words(code).take(5) {
        if let Some(slot) = slots.step(word, address.wrapping_add(offset)) {
            return Some(slot);
        }
        if !matches!(decode(word)?.flow, WordFlow::Next) {
            return None;
        }
    }
    None
}

/// The instruction at an offset, as text: its name, and its target if it has a fixed one.
pub(super) fn text(code: &[u8], address: u64, offset: u64) -> String {
    let index = usize::try_from(offset / 4).unwrap_or(usize::MAX);
    let Some((_, word)) = words(code).nth(index) else {
        return String::new();
    };
    let Some(decoded) = decode(word) else {
        return format!(".inst 0x{word:08x}");
    };
    match (decoded.flow, direct_target(&decoded, address.wrapping_add(offset))) {
        (WordFlow::IfZero { register, .. }, Some(target)) => {
            format!("{} x{register}, 0x{target:x}", decoded.name)
        }
        (WordFlow::Register(register), _) => format!("{} x{register}", decoded.name),
        (_, Some(target)) => format!("{} 0x{target:x}", decoded.name),
        (_, None) => decoded.name.to_owned(),
    }
}

/// Why a uprobe cannot sit on the first instruction (`aarch64_insn_is_steppable`).
pub(super) fn entry_refusal(code: &[u8]) -> Option<&'static str> {
    let Some((_, word)) = words(code).next() else {
        return Some("the function has no code");
    };
    let known = decode(word);
    match word {
        _ if word & 0x1e00_0000 == 0 => Some("its first instruction cannot be decoded"),
        _ if word & 0xffe0_001f == 0xd420_0000 => {
            Some("it starts with a breakpoint of someone else")
        }
        _ if word & 0x3f00_0000 == 0x0800_0000 => {
            Some("the kernel takes no probe on an exclusive load or store")
        }
        // Simulated in older kernels, wrongly; none in newer ones.
        _ if word & 0x3b00_0000 == 0x1800_0000 => {
            Some("the kernel takes no probe on a load relative to the program counter")
        }
        // System registers, hints that are not listed, exceptions, authenticated branches
        _ if word & 0xffd0_0000 == 0xd510_0000
            || word & 0xffff_f01f == 0xd503_201f && known.is_none()
            || word & 0xfff8_f01f == 0xd500_401f
            || word & 0xff00_0000 == 0xd400_0000
            || word & 0xfe00_0000 == 0xd600_0000 && known.is_none()
            || word & 0xff00_0010 == 0x5400_0010 =>
        {
            Some("the kernel takes no probe on its first instruction")
        }
        _ => None,
    }
}

/// One instruction after the other, with its offset.
fn words(code: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    let (words, _) = code.as_chunks();
    (0u64..).step_by(4).zip(words.iter().map(|word| u32::from_le_bytes(*word)))
}

fn is_simulated(decoded: &Word) -> bool {
    !matches!(decoded.flow, WordFlow::Next) || matches!(decoded.name, "adr" | "adrp")
}

fn direct_target(decoded: &Word, at: u64) -> Option<u64> {
    match decoded.flow {
        WordFlow::Branch { distance, .. } | WordFlow::IfZero { distance, .. } => {
            Some(at.wrapping_add_signed(distance))
        }
        WordFlow::Next | WordFlow::Register(_) => None,
    }
}

/// The registers that hold the address of a page, or what was in a slot at a fixed address.
#[derive(Default)]
struct Slots {
    pages: [Option<u64>; 32],
    loaded: [Option<u64>; 32],
}

impl Slots {
    /// Takes in one instruction; the slot, if it goes to what was in one.
    fn step(&mut self, word: u32, at: u64) -> Option<u64> {
        let destination = word as usize & 31;
        let source = (word >> 5) as usize & 31;
        let Some(decoded) = decode(word) else {
            *self = Self::default();
            return None;
        };
        let page = adrp(word).map(|distance| (at & !0xfff).wrapping_add_signed(distance));
        // ldr Xt, [Xn, #offset]
        let is_load = word & 0xffc0_0000 == 0xf940_0000;
        let base = self.pages.get(source).copied().flatten().filter(|_| is_load);
        let slot = base.map(|page| page.wrapping_add(u64::from(word >> 10 & 0xfff) * 8));
        let reached = match decoded.flow {
            WordFlow::Register(_) if decoded.name != "ret" => {
                self.loaded.get(source).copied().flatten()
            }
            _ => None,
        };
        let goes_on = match decoded.flow {
            WordFlow::Next | WordFlow::IfZero { .. } => true,
            WordFlow::Branch { conditional, .. } => conditional,
            WordFlow::Register(_) => false,
        };
        if !goes_on {
            *self = Self::default();
            return reached;
        }
        for register in (0..32).filter(|register| decoded.writes >> register & 1 == 1) {
            self.set(register, None, None);
        }
        if page.is_some() || slot.is_some() {
            self.set(destination, page, slot);
        }
        None
    }

    fn set(&mut self, register: usize, page: Option<u64>, slot: Option<u64>) {
        if let (Some(p), Some(l)) = (self.pages.get_mut(register), self.loaded.get_mut(register)) {
            (*p, *l) = (page, slot);
        }
    }
}
