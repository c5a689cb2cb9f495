//! The return instructions of a function through which an exception may pass.
//!
//! A return probe replaces the return address, and an unwinder that meets the replacement ends the
//! process: C++'s throwing `operator new` must never have one. Plain probes on its return
//! instructions see the same, at the cost of a single step each.

use iced_x86::{FlowControl, Mnemonic};

use super::{MOST_CODE, Machine, Site, aarch64, bounded, x86_64};

/// More returns than this are not probed.
const MOST_EXITS: usize = 16;

/// The return instructions of the function whose bytes are `code` and whose virtual address is
/// `address`.
///
/// # Errors
///
/// Why they may not be all of its ways out.
pub fn exits(machine: Machine, code: &[u8], address: u64) -> Result<Vec<Site>, String> {
    if code.len() > MOST_CODE {
        return Err("it is too long".to_owned());
    }
    let code = bounded(code);
    let sites = match machine {
        Machine::X86_64 => of_x86_64(code, address)?,
        Machine::Aarch64 => of_aarch64(code, address)?,
    };
    match sites.len() {
        0 => Err("it has no return instruction".to_owned()),
        1..=MOST_EXITS => Ok(sites),
        _ => Err("it has too many return instructions".to_owned()),
    }
}

fn leaves(target: u64, code: &[u8], address: u64) -> bool {
    target.wrapping_sub(address) >= code.len() as u64
}

const TAIL: &str = "it ends in a jump to other code";

fn of_x86_64(code: &[u8], address: u64) -> Result<Vec<Site>, String> {
    let mut sites = Vec::new();
    for (offset, _, instruction) in x86_64::sweep(code, address) {
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
            FlowControl::UnconditionalBranch
                if leaves(instruction.near_branch_target(), code, address) =>
            {
                return Err(TAIL.to_owned());
            }
            _ => {}
        }
    }
    Ok(sites)
}

fn of_aarch64(code: &[u8], address: u64) -> Result<Vec<Site>, String> {
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
        } else if word & 0xfc00_0000 == 0x1400_0000 {
            // `b`: 26 bits, in words, signed.
            let distance = i64::from((word << 6).cast_signed() >> 6) * 4;
            if leaves(address.wrapping_add(offset).wrapping_add_signed(distance), code, address) {
                return Err(TAIL.to_owned());
            }
        }
    }
    Ok(sites)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(machine: Machine, code: &[u8], expect: Result<&[u64], &str>) {
        let found = exits(machine, code, 0x1000)
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
}
