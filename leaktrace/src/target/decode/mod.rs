//! Where in a function a uprobe may sit so that the kernel emulates the instruction under it, with
//! the function's arguments still in their registers; and whereto a function's code leads.
//!
//! An emulated instruction costs about 0.6 microseconds a hit, any other one 20: the kernel has to
//! single-step it out of line. What is emulated differs between kernels; here counts only what all
//! of them emulate (`arch/x86/kernel/uprobes.c` of Linux 5.15, `arch/arm64/kernel/probes/
//! decode-insn.c`).
//!
//! Pure functions over bytes that nobody vouches for: they never read anything, never panic, and
//! take time in proportion to the code, of which they look at the first 256 KiB. Indirect jumps
//! and jumps from other functions (a cold part, back to its hot one) are not followed: compilers
//! aim neither into the straight line at a function's start.

mod aarch64;
mod aarch64_words;
mod exits;
mod forwards;
#[cfg(test)]
mod tests;
mod x86_64;

pub use exits::{Exit, Part, exits, is_leaf, ways_out};
pub use forwards::{forwards, stub_target};

/// More of a function than this is not looked at, in bytes: the bytes may be hostile.
const MOST_CODE: usize = 256 << 10;
/// How many arguments are looked after, in registers on both machines.
const ARGUMENTS: u8 = 6;

/// The machine that code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// 64-bit ARM, little-endian.
    Aarch64,
}

impl Machine {
    /// The machine that leaktrace runs on.
    #[cfg(target_arch = "x86_64")]
    pub const HOST: Self = Self::X86_64;
    /// The machine that leaktrace runs on.
    #[cfg(target_arch = "aarch64")]
    pub const HOST: Self = Self::Aarch64;
}

/// What must still hold where a probe sits.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// The integer arguments, from 0 to 5, that must still be in their registers.
    pub arguments: &'a [u8],
    /// A return probe will sit here too, so the return address must be where it was at the entry
    /// (x86-64: at the stack pointer; aarch64: in x30, unsigned and not yet saved elsewhere).
    pub return_probe: bool,
    /// The argument that, when zero, makes a call uninteresting, as in `free(NULL)`: a path that
    /// is taken because it is zero need not pass the probe, and better does not.
    pub ignore_when_zero: Option<u8>,
}

/// A place for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// From the function's start, in bytes.
    pub offset: u64,
    /// The instruction there, like `push rbp`; ASCII.
    pub instruction: String,
    /// Whether every supported kernel emulates it.
    pub emulated: bool,
}

/// Where a probe should sit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// At an emulated instruction, or else at the entry.
    At(Site),
    /// Nowhere; why, to follow on a colon.
    Refused(String),
}

/// Whereto code leads, out of its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transfer {
    /// To this address.
    Direct(u64),
    /// To the address in the pointer-sized slot at this address.
    Slot(u64),
}

/// The place for a probe in the function whose bytes are `code` and whose virtual address is
/// `address`: the first emulated instruction on the straight line from the entry where `need`
/// holds, if possible behind the check of [`Need::ignore_when_zero`]; else the entry.
///
/// No branch that is seen in `code` leads to the place past the entry, except a jump to the
/// function's start, which is taken for a new call. Data between code may look like such a branch;
/// that costs the emulated place, never correctness. The end of `code` is the end of knowledge.
pub fn place(machine: Machine, code: &[u8], address: u64, need: &Need<'_>) -> Placement {
    let unknown = |argument: &&u8| **argument >= ARGUMENTS;
    if let Some(argument) = need.arguments.iter().chain(&need.ignore_when_zero).find(unknown) {
        return Placement::Refused(format!("argument {argument} is in no register"));
    }
    let code = bounded(code);
    let chosen = match machine {
        Machine::X86_64 => {
            let targets = x86_64::branch_targets(code, address);
            choose(x86_64::steps(code, address), lowest_inside(targets, code, address), need)
        }
        Machine::Aarch64 => {
            let targets = aarch64::branch_targets(code, address);
            choose(aarch64::steps(code), lowest_inside(targets, code, address), need)
        }
    };
    let text = match machine {
        Machine::X86_64 => x86_64::text,
        Machine::Aarch64 => aarch64::text,
    };
    let at = |offset, emulated| {
        Placement::At(Site { offset, instruction: text(code, address, offset), emulated })
    };
    if let Some(offset) = chosen {
        return at(offset, true);
    }
    let refusal = match machine {
        Machine::X86_64 => x86_64::entry_refusal(code, address),
        Machine::Aarch64 => aarch64::entry_refusal(code),
    };
    refusal.map_or_else(|| at(0, false), |reason| Placement::Refused(reason.to_owned()))
}

/// The ways out of the function whose bytes are `code` and whose virtual address is `address`, by
/// direct calls and jumps, conditional ones too, and by those through a slot at a fixed address.
/// Sorted, each once. Data between the code may add some that do not exist.
pub fn transfers(machine: Machine, code: &[u8], address: u64) -> Vec<Transfer> {
    let code = bounded(code);
    let mut transfers = match machine {
        Machine::X86_64 => x86_64::transfers(code, address),
        Machine::Aarch64 => aarch64::transfers(code, address),
    };
    transfers.retain(|transfer| match *transfer {
        Transfer::Direct(target) => target.wrapping_sub(address) >= code.len() as u64,
        Transfer::Slot(_) => true,
    });
    transfers.sort_unstable();
    transfers.dedup();
    transfers
}

/// The address of the slot that the stub of a procedure linkage table at `address` jumps through;
/// `None` if `code` does not start with such a stub.
pub fn plt_slot(machine: Machine, code: &[u8], address: u64) -> Option<u64> {
    match machine {
        Machine::X86_64 => x86_64::plt_slot(code, address),
        Machine::Aarch64 => aarch64::plt_slot(code, address),
    }
}

/// How long the first instruction is, in bytes; 0 when it cannot be decoded.
pub fn first_length(machine: Machine, code: &[u8]) -> u64 {
    match machine {
        Machine::X86_64 => x86_64::sweep(code, 0)
            .next()
            .filter(|(_, _, instruction)| !instruction.is_invalid())
            .map_or(0, |(_, bytes, _)| bytes.len() as u64),
        Machine::Aarch64 => code.len().min(4) as u64 & 4,
    }
}

fn bounded(code: &[u8]) -> &[u8] {
    code.get(..MOST_CODE).unwrap_or(code)
}

/// An instruction on the straight line from a function's entry.
struct Step {
    offset: u64,
    /// Whether every supported kernel emulates it.
    emulated: bool,
    /// The arguments whose registers it writes, a bit each.
    writes: u8,
    /// Whether a return probe behind it might miss the return address.
    moves_return: bool,
    flow: Flow,
}

/// How control leaves an instruction.
#[derive(Clone, Copy)]
enum Flow {
    /// To the next one.
    Next,
    /// To the next one, unless the register of this argument is zero.
    NextUnlessZero(u8),
    /// Elsewhere, or not known.
    Ends,
}

/// The offset of the emulated step to probe. Only steps in front of the offset `first_target`,
/// which some branch leads to, run once a call.
fn choose(steps: impl Iterator<Item = Step>, first_target: u64, need: &Need<'_>) -> Option<u64> {
    let needed = need.arguments.iter().fold(0, |mask, argument| mask | 1 << argument);
    let mut written = 0;
    let mut behind_check = need.ignore_when_zero.is_none();
    let mut first = None;
    for step in steps {
        if step.offset >= first_target {
            break;
        }
        if step.emulated {
            if behind_check {
                return Some(step.offset);
            }
            first = first.or(Some(step.offset));
        }
        written |= step.writes;
        if written & needed != 0 || (need.return_probe && step.moves_return) {
            break;
        }
        match step.flow {
            Flow::Next => {}
            Flow::NextUnlessZero(argument)
                if need.ignore_when_zero == Some(argument) && written & 1 << argument == 0 =>
            {
                behind_check = true;
            }
            Flow::NextUnlessZero(_) | Flow::Ends => break,
        }
    }
    first
}

/// The lowest offset behind the start of the function that one of the branch targets has.
fn lowest_inside(targets: impl Iterator<Item = u64>, code: &[u8], address: u64) -> u64 {
    let end = code.len() as u64;
    targets
        .map(|target| target.wrapping_sub(address))
        .filter(|&offset| offset != 0)
        .fold(end, u64::min)
        .max(1)
}
