//! The return instructions of a function through which an exception may pass.
//!
//! A return probe replaces the return address, and an unwinder that meets the replacement ends the
//! process: C++'s throwing `operator new` must never have one. Plain probes on its return
//! instructions see the same, at the cost of a single step each. What it ends in a jump to returns
//! in its place, and is a part of it like any other.

use iced_x86::{FlowControl, Mnemonic};

use super::aarch64_words::{self, WordFlow};
use super::{MOST_CODE, Machine, Transfer, aarch64, x86_64};

/// More returns than this are not probed.
const MOST_EXITS: usize = 32;

/// A piece of code that a call runs in the frame of its function: the function itself, a part of it
/// that the compiler put elsewhere, or a function that it ends in a jump to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its virtual address.
    pub address: u64,
    /// Its code.
    pub code: Vec<u8>,
}

/// A return instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its virtual address.
    pub address: u64,
    /// The instruction; ASCII.
    pub instruction: String,
    /// Whether every supported kernel emulates it.
    pub emulated: bool,
}

/// The jumps out of a part.
///
/// # Errors
///
/// Why they may not be all of its ways out.
pub fn ways_out(machine: Machine, part: &Part) -> Result<Vec<Transfer>, String> {
    Ok(looked_through(machine, part)?.1)
}

/// Whether nothing runs between a function's entry and its return but the function itself: it calls
/// nothing, jumps nowhere else, and does not run on behind its end. No exception passes through such a
/// one. Anything that cannot be told is a no.
pub fn is_leaf(machine: Machine, part: &Part) -> bool {
    if part.code.len() > MOST_CODE || !looked_through(machine, part).is_ok_and(|f| f.1.is_empty()) {
        return false;
    }
    match machine {
        Machine::X86_64 => is_leaf_x86_64(part),
        Machine::Aarch64 => is_leaf_aarch64(part),
    }
}

fn is_leaf_x86_64(part: &Part) -> bool {
    let mut last = FlowControl::Next;
    for (_, _, instruction) in x86_64::sweep(&part.code, part.address) {
        last = instruction.flow_control();
        let stays = matches!(
            last,
            FlowControl::Next
                | FlowControl::Return
                | FlowControl::Exception
                | FlowControl::ConditionalBranch
                | FlowControl::UnconditionalBranch
        );
        if !stays {
            return false;
        }
    }
    matches!(last, FlowControl::Return | FlowControl::Exception | FlowControl::UnconditionalBranch)
}

fn is_leaf_aarch64(part: &Part) -> bool {
    let words = || part.code.chunks_exact(4).filter_map(<[u8]>::first_chunk);
    let is_call = |word: u32| {
        // `bl`; branches to a register that set the link; system calls and their like.
        word & 0xfc00_0000 == 0x9400_0000
            || word & 0xfe00_0000 == 0xd600_0000 && word != RET
            || word & 0xff00_0000 == 0xd400_0000
    };
    let ends = |word: u32| word == RET || word & 0xfc00_0000 == 0x1400_0000;
    part.code.len().is_multiple_of(4)
        && !words().any(|word| is_call(u32::from_le_bytes(*word)))
        && words().next_back().is_some_and(|word| ends(u32::from_le_bytes(*word)))
}

/// The return instructions of a function: of its parts, the first of which is where it begins. A
/// jump from one part into another is no way out, nor one that `is_followed`, since that leads into
/// a part.
///
/// # Errors
///
/// Why they may not be all of its ways out.
pub fn exits(
    machine: Machine,
    parts: &[Part],
    is_followed: impl Fn(Transfer) -> bool,
) -> Result<Vec<Exit>, String> {
    let is_inside = |target: u64| parts.iter().any(|part| part.holds(target));
    let mut exits: Vec<Exit> = Vec::new();
    for part in parts {
        let (found, jumps) = looked_through(machine, part)?;
        let leaves = |jump: &Transfer| match *jump {
            Transfer::Direct(target) if is_inside(target) => false,
            jump => !is_followed(jump),
        };
        if jumps.iter().any(leaves) {
            return Err(TAIL.to_owned());
        }
        for exit in found {
            if !exits.contains(&exit) {
                exits.push(exit);
            }
        }
    }
    match exits.len() {
        0 => Err("it has no return instruction".to_owned()),
        1..=MOST_EXITS => Ok(exits),
        _ => Err("it has too many return instructions".to_owned()),
    }
}

impl Part {
    /// Whether an address lies in it.
    pub fn holds(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.code.len() as u64
    }
}

/// The returns of a part, and its jumps to elsewhere.
type Found = (Vec<Exit>, Vec<Transfer>);

fn looked_through(machine: Machine, part: &Part) -> Result<Found, String> {
    if part.code.len() > MOST_CODE {
        return Err("it is too long".to_owned());
    }
    match machine {
        Machine::X86_64 => of_x86_64(part),
        Machine::Aarch64 => of_aarch64(part),
    }
}

const TAIL: &str = "it ends in a jump to other code";

/// AArch64's `ret` through x30.
const RET: u32 = 0xd65f_03c0;

fn of_x86_64(part: &Part) -> Result<Found, String> {
    let Part { address, ref code } = *part;
    let (mut exits, mut jumps) = (Vec::new(), Vec::new());
    for (offset, _, instruction) in x86_64::sweep(code, address) {
        match instruction.flow_control() {
            _ if instruction.is_invalid() => {
                return Err("not all of its code can be decoded".to_owned());
            }
            FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret => {
                if instruction.op_count() != 0 {
                    return Err("it returns in an unknown way".to_owned());
                }
                exits.push(Exit {
                    address: address.wrapping_add(offset),
                    instruction: x86_64::text(code, address, offset),
                    emulated: false,
                });
            }
            FlowControl::Return => return Err("it returns in an unknown way".to_owned()),
            FlowControl::IndirectBranch
            | FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch => match x86_64::transfer(&instruction) {
                Some(Transfer::Direct(target)) if part.holds(target) => {}
                Some(jump) => jumps.push(jump),
                None => return Err(TAIL.to_owned()),
            },
            _ => {}
        }
    }
    Ok((exits, jumps))
}

fn of_aarch64(part: &Part) -> Result<Found, String> {
    let Part { address, ref code } = *part;
    let (mut exits, mut jumps) = (Vec::new(), Vec::new());
    for (index, word) in code.chunks_exact(4).enumerate() {
        let word = word.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        let offset = 4 * index as u64;
        if word == RET {
            exits.push(Exit {
                address: address.wrapping_add(offset),
                instruction: aarch64::text(code, address, offset),
                emulated: true,
            });
        } else if word & 0xfe00_0000 == 0xd600_0000 && word & 0xffff_fc1f != 0xd63f_0000 {
            // Branches to a register other than the plain `blr`: `br`, and those that authenticate.
            return Err(TAIL.to_owned());
        } else if let Some(target) = jump(word, address.wrapping_add(offset))
            && !part.holds(target)
        {
            jumps.push(Transfer::Direct(target));
        }
    }
    Ok((exits, jumps))
}

/// Where a direct jump leads that is no call.
fn jump(word: u32, at: u64) -> Option<u64> {
    // `bc.cond` is `b.cond` with a hint.
    let word = if word & 0xff00_0000 == 0x5400_0000 { word & !0x10 } else { word };
    let decoded = aarch64_words::decode(word)?;
    let distance = match decoded.flow {
        WordFlow::Branch { .. } if decoded.writes != 0 => return None,
        WordFlow::Branch { distance, .. } | WordFlow::IfZero { distance, .. } => distance,
        WordFlow::Next | WordFlow::Register(_) => return None,
    };
    Some(at.wrapping_add_signed(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(machine: Machine, code: &[u8], expect: Result<&[u64], &str>) {
        let part = Part { address: 0x1000, code: code.to_vec() };
        let found = exits(machine, &[part], |_| false)
            .map(|exits| exits.iter().map(|exit| exit.address - 0x1000).collect::<Vec<_>>());
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
        check(X86_64, &[0x85, 0xc0, 0x0f, 0x85, 0, 1, 0, 0, 0xc3], Err(TAIL));
        // jrcxz behind the end; ret. je to the ret
        check(X86_64, &[0xe3, 0x01, 0xc3], Err(TAIL));
        check(X86_64, &[0x74, 0x00, 0xc3], Ok(&[2]));
        // A call out: call; ret
        check(X86_64, &[0xe8, 0, 1, 0, 0, 0xc3], Ok(&[5]));
        // b.ne, bc.ne, cbz x0, cbnz w0, tbz, tbnz: . + 0x100, or the next one; ret
        for word in
            [0x5400_0001u32, 0x5400_0011, 0xb400_0000, 0x3500_0000, 0x3600_0000, 0x3700_0000]
        {
            let code = |words: u32| [word | words << 5, 0xd65f_03c0].map(u32::to_le_bytes).concat();
            check(Aarch64, &code(0x40), Err(TAIL));
            check(Aarch64, &code(1), Ok(&[4]));
        }
        // bl out
        check(Aarch64, &[0x9400_0040u32, 0xd65f_03c0].map(u32::to_le_bytes).concat(), Ok(&[4]));
    }

    #[test]
    fn a_leaf_calls_nothing_and_stays_within_itself() {
        use Machine::{Aarch64, X86_64};
        let leaf =
            |machine, code: &[u8]| is_leaf(machine, &Part { address: 0x1000, code: code.to_vec() });
        // test eax, eax; je +1; nop; ret
        assert!(leaf(X86_64, &[0x85, 0xc0, 0x74, 0x01, 0x90, 0xc3]));
        // ret; ud2
        assert!(leaf(X86_64, &[0xc3, 0x0f, 0x0b]));
        // call out; call [rax]; call within; jmp out; jne out; jmp rax; syscall: each before a ret
        for call in [
            &[0xe8, 0, 1, 0, 0][..],
            &[0xff, 0x10],
            &[0xe8, 0, 0, 0, 0],
            &[0xe9, 0, 1, 0, 0],
            &[0x0f, 0x85, 0, 1, 0, 0],
            &[0xff, 0xe0],
            &[0x0f, 0x05],
            &[0x06],
        ] {
            assert!(!leaf(X86_64, &[call, &[0xc3]].concat()), "{call:x?}");
        }
        // It runs on: ret; nop. And nothing is known of nothing.
        assert!(!leaf(X86_64, &[0xc3, 0x90]) && !leaf(X86_64, &[]));
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
        assert!(leaf(Aarch64, &words(&[0xd503_201f, RET])));
        // bl; blr x16; br x16; svc; b out; and one that runs on
        for word in [0x9400_0040, 0xd63f_0200, 0xd61f_0200, 0xd400_0001, 0x1400_0040] {
            assert!(!leaf(Aarch64, &words(&[word, RET])), "{word:x}");
        }
        assert!(!leaf(Aarch64, &words(&[RET, 0xd503_201f])));
    }

    #[test]
    fn what_it_jumps_to_returns_in_its_place() {
        // At 0x1000: jne 0xf00; ret
        let hot = Part { address: 0x1000, code: vec![0x0f, 0x85, 0xfa, 0xfe, 0xff, 0xff, 0xc3] };
        let with = |other: &[u8]| {
            let other = Part { address: 0xf00, code: other.to_vec() };
            exits(Machine::X86_64, &[hot.clone(), other], |jump| jump == Transfer::Slot(0x1100))
                .map(|exits| exits.iter().map(|exit| exit.address).collect::<Vec<_>>())
        };
        // call; jmp 0x1006
        assert_eq!(with(&[0xe8, 0, 0, 0, 0, 0xe9, 0xfc, 0, 0, 0]), Ok(vec![0x1006]));
        // ret
        assert_eq!(with(&[0xc3]), Ok(vec![0x1006, 0xf00]));
        // jmp far away
        assert_eq!(with(&[0xe9, 0, 0, 1, 0]), Err(TAIL.to_owned()));
        // jmp [0x1100], which is followed; jmp [0x1101], which is not
        assert_eq!(with(&[0xff, 0x25, 0xfa, 1, 0, 0]), Ok(vec![0x1006]));
        assert_eq!(with(&[0xff, 0x25, 0xfb, 1, 0, 0]), Err(TAIL.to_owned()));
        assert_eq!(with(&[]), Err(TAIL.to_owned()));
        let jumps = ways_out(Machine::X86_64, &hot).unwrap();
        assert_eq!(jumps, [Transfer::Direct(0xf00)]);
    }
}
