//! The return instructions of a function through which an exception may pass.
//!
//! A return probe replaces the return address, and an unwinder that meets the replacement ends the
//! process: C++'s throwing `operator new` must never have one. Plain probes on its return
//! instructions see the same, at the cost of a single step each.

use iced_x86::{FlowControl, Mnemonic};

use super::aarch64_words::{self, WordFlow};
use super::{MOST_CODE, Machine, Site, aarch64, x86_64};

/// More returns than this are not probed.
const MOST_EXITS: usize = 16;

/// A part of a function that the compiler put elsewhere, because it seldom runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its virtual address.
    pub address: u64,
    /// Its code.
    pub code: Vec<u8>,
}

/// The return instructions of the function whose bytes are `code` and whose virtual address is
/// `address`. It may jump to its `cold` parts, as long as those only throw or jump back.
///
/// # Errors
///
/// Why they may not be all of its ways out.
pub fn exits(
    machine: Machine,
    code: &[u8],
    address: u64,
    cold: &[Part],
) -> Result<Vec<Site>, String> {
    if code.len() > MOST_CODE || cold.iter().any(|part| part.code.len() > MOST_CODE) {
        return Err("it is too long".to_owned());
    }
    let is_inside = |target: u64| {
        holds(code, address, target)
            || cold.iter().any(|part| holds(&part.code, part.address, target))
    };
    let returns = |code: &[u8], address| match machine {
        Machine::X86_64 => of_x86_64(code, address, is_inside),
        Machine::Aarch64 => of_aarch64(code, address, is_inside),
    };
    let sites = returns(code, address)?;
    for part in cold {
        if !returns(&part.code, part.address)?.is_empty() {
            return Err("it returns from its cold part".to_owned());
        }
    }
    match sites.len() {
        0 => Err("it has no return instruction".to_owned()),
        1..=MOST_EXITS => Ok(sites),
        _ => Err("it has too many return instructions".to_owned()),
    }
}
fn holds(code: &[u8], address: u64, target: u64) -> bool {
    target.wrapping_sub(address) < code.len() as u64
}

const TAIL: &str = "it ends in a jump to other code";
const SIDE_DOOR: &str = "it leaves by a conditional jump to other code";

fn of_x86_64(
    code: &[u8],
    address: u64,
    is_inside: impl Fn(u64) -> bool,
) -> Result<Vec<Site>, String> {
    let mut sites = Vec::new();
    for (offset, _, instruction) in x86_64::sweep(code, address) {
        let leaves = || x86_64::near_target(&instruction).is_none_or(|target| !is_inside(target));
        match instruction.flow_control() {
            _ if instruction.is_invalid() => {
                return Err("not all of its code can be decoded".to_owned());
            }
            FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret => {
                if instruction.op_count() != 0 {
                    return Err("it returns in an unknown way".to_owned());
                }
                sites.push(Site {
                    offset,
                    instruction: x86_64::text(code, address, offset),
                    emulated: false,
                });
            }
            FlowControl::Return => return Err("it returns in an unknown way".to_owned()),
            FlowControl::IndirectBranch => return Err(TAIL.to_owned()),
            FlowControl::UnconditionalBranch if leaves() => return Err(TAIL.to_owned()),
            FlowControl::ConditionalBranch if leaves() => return Err(SIDE_DOOR.to_owned()),
            _ => {}
        }
    }
    Ok(sites)
}

fn of_aarch64(
    code: &[u8],
    address: u64,
    is_inside: impl Fn(u64) -> bool,
) -> Result<Vec<Site>, String> {
    /// `ret` through x30.
    const RET: u32 = 0xd65f_03c0;
    let mut sites = Vec::new();
    for (index, word) in code.chunks_exact(4).enumerate() {
        let word = word.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        let offset = 4 * index as u64;
        if word == RET {
            sites.push(Site {
                offset,
                instruction: aarch64::text(code, address, offset),
                emulated: true,
            });
        } else if word & 0xfe00_0000 == 0xd600_0000 && word & 0xffff_fc1f != 0xd63f_0000 {
            // Branches to a register other than the plain `blr`: `br`, and those that authenticate.
            return Err(TAIL.to_owned());
        } else if let Some((target, why)) = jump(word, address.wrapping_add(offset))
            && !is_inside(target)
        {
            return Err(why.to_owned());
        }
    }
    Ok(sites)
}

/// Where a direct jump leads that is no call, and what it is if that is elsewhere.
fn jump(word: u32, at: u64) -> Option<(u64, &'static str)> {
    // `bc.cond` is `b.cond` with a hint.
    let word = if word & 0xff00_0000 == 0x5400_0000 { word & !0x10 } else { word };
    let decoded = aarch64_words::decode(word)?;
    let (distance, why) = match decoded.flow {
        WordFlow::Branch { .. } if decoded.writes != 0 => return None,
        WordFlow::Branch { distance, conditional: false } => (distance, TAIL),
        WordFlow::Branch { distance, .. } | WordFlow::IfZero { distance, .. } => {
            (distance, SIDE_DOOR)
        }
        WordFlow::Next | WordFlow::Register(_) => return None,
    };
    Some((at.wrapping_add_signed(distance), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(machine: Machine, code: &[u8], expect: Result<&[u64], &str>) {
        let found = exits(machine, code, 0x1000, &[])
            .map(|sites| sites.iter().map(|site| site.offset).collect::<Vec<_>>());
        assert_eq!(found.as_deref().map_err(String::as_str), expect, "{code:x?}");
    }

    #[test]
    fn all_returns_or_none() {
        use Machine::{Aarch64, X86_64};
        // push rbx; test eax, eax; je +2; pop rbx; ret; pop rbx; ret
        let two = [0x53, 0x85, 0xc0, 0x74, 0x02, 0x5b, 0xc3, 0x5b, 0xc3];
        check(X86_64, &two, Ok(&[6, 8]));
        // jmp far behind the end: a tail call.
        check(X86_64, &[0xe9, 0, 1, 0, 0], Err(TAIL));
        // jmp [rax]
        check(X86_64, &[0xff, 0x20, 0xc3], Err(TAIL));
        // ret 8
        check(X86_64, &[0xc2, 8, 0], Err("it returns in an unknown way"));
        check(X86_64, &[0x06], Err("not all of its code can be decoded"));
        check(X86_64, &[0x90], Err("it has no return instruction"));
        check(X86_64, &[], Err("it has no return instruction"));
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
        check(Aarch64, &words(&[0xd503_201f, 0xd65f_03c0]), Ok(&[4]));
        // b . + 0x100; br x16
        check(Aarch64, &words(&[0x1400_0040]), Err(TAIL));
        check(Aarch64, &words(&[0xd61f_0200]), Err(TAIL));
        // b . - 4 stays inside
        check(Aarch64, &words(&[0xd503_201f, 0x17ff_ffff, 0xd65f_03c0]), Ok(&[8]));
    }

    #[test]
    fn a_conditional_jump_out_is_a_way_out_unseen() {
        use Machine::{Aarch64, X86_64};
        // tcmalloc's fast path: test eax, eax; jne far behind the end; ret
        check(X86_64, &[0x85, 0xc0, 0x0f, 0x85, 0, 1, 0, 0, 0xc3], Err(SIDE_DOOR));
        // jrcxz behind the end; ret. je to the ret
        check(X86_64, &[0xe3, 0x01, 0xc3], Err(SIDE_DOOR));
        check(X86_64, &[0x74, 0x00, 0xc3], Ok(&[2]));
        // A call out: call; ret
        check(X86_64, &[0xe8, 0, 1, 0, 0, 0xc3], Ok(&[5]));
        // b.ne, bc.ne, cbz x0, cbnz w0, tbz, tbnz: . + 0x100, or the next one; ret
        for word in
            [0x5400_0001u32, 0x5400_0011, 0xb400_0000, 0x3500_0000, 0x3600_0000, 0x3700_0000]
        {
            let code = |words: u32| [word | words << 5, 0xd65f_03c0].map(u32::to_le_bytes).concat();
            check(Aarch64, &code(0x40), Err(SIDE_DOOR));
            check(Aarch64, &code(1), Ok(&[4]));
        }
        // bl out
        check(Aarch64, &[0x9400_0040u32, 0xd65f_03c0].map(u32::to_le_bytes).concat(), Ok(&[4]));
    }

    #[test]
    fn a_cold_part_may_throw_or_jump_back_but_not_return() {
        // At 0x1000: jne 0xf00; ret
        let hot = [0x0f, 0x85, 0xfa, 0xfe, 0xff, 0xff, 0xc3];
        let with = |cold: &[u8]| {
            let cold = Part { address: 0xf00, code: cold.to_vec() };
            exits(Machine::X86_64, &hot, 0x1000, &[cold]).map(|sites| sites.len())
        };
        // call; jmp 0x1006
        assert_eq!(with(&[0xe8, 0, 0, 0, 0, 0xe9, 0xfc, 0, 0, 0]), Ok(1));
        // ret
        assert_eq!(with(&[0xc3]), Err("it returns from its cold part".to_owned()));
        // jmp far away
        assert_eq!(with(&[0xe9, 0, 0, 1, 0]), Err(TAIL.to_owned()));
        assert_eq!(with(&[]), Err(SIDE_DOOR.to_owned()));
    }
}
