//! What x86-64 instructions do to a function's arguments and return address, and which of them
//! the kernel emulates or refuses under a uprobe.

use iced_x86::{
    Code, ConditionCode, Decoder, DecoderOptions, FlowControl, Formatter, Instruction,
    InstructionInfo, InstructionInfoFactory, IntelFormatter, Mnemonic, OpAccess, OpKind, Register,
    RflagsBits, UsedMemory,
};

use super::{Flow, Step, Transfer};

/// The integer arguments' registers (System V ABI for x86-64, 3.2.3).
const ARGUMENT_REGISTERS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// The instructions of the straight line from the entry, until one that does not decode.
pub(super) fn steps(code: &[u8], address: u64) -> impl Iterator<Item = Step> {
    let mut factory = InstructionInfoFactory::new();
    // The argument that the zero flag tells of.
    let mut tested = None;
    sweep(code, address).map_while(move |(offset, bytes, instruction)| {
        if instruction.is_invalid() {
            return None;
        }
        let info = factory.info(&instruction);
        let step = Step {
            offset,
            emulated: is_emulated(bytes),
            writes: written_arguments(info),
            moves_return: moves_return(info),
            flow: flow(&instruction, tested),
        };
        if let Some(argument) = zero_test(&instruction) {
            tested = Some(argument);
        } else if instruction.rflags_modified() & RflagsBits::ZF != 0 {
            tested = None;
        }
        Some(step)
    })
}

/// The targets of all near branches and calls.
pub(super) fn branch_targets(code: &[u8], address: u64) -> impl Iterator<Item = u64> {
    sweep(code, address).filter_map(|(_, _, instruction)| near_target(&instruction))
}

/// The ways out of the code, and those that stay within.
pub(super) fn transfers(code: &[u8], address: u64) -> Vec<Transfer> {
    sweep(code, address).filter_map(|(_, _, instruction)| transfer(&instruction)).collect()
}

/// Whereto an instruction leads besides the next one.
pub(super) fn transfer(instruction: &Instruction) -> Option<Transfer> {
    near_target(instruction).map(Transfer::Direct).or_else(|| slot(instruction).map(Transfer::Slot))
}

/// Whether an instruction writes to memory other than its function's own frame, and than a small
/// constant to thread-local storage, as an error code is: a pointer there is a block in a list.
/// `has_frame_pointer`: rbp points into the frame.
pub(super) fn stores(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
    has_frame_pointer: bool,
) -> bool {
    let is_constant = instruction.op_kinds().any(|kind| kind == OpKind::Immediate32)
        && instruction.memory_size().size() == 4;
    factory.info(instruction).used_memory().iter().any(|memory| {
        let in_frame = match memory.base().full_register() {
            Register::RSP => true,
            Register::RBP => has_frame_pointer,
            _ => false,
        };
        let is_error_code = is_constant && matches!(memory.segment(), Register::FS | Register::GS);
        is_write(memory.access()) && !in_frame && !is_error_code
    })
}

/// Whether a function begins by having rbp point to its frame.
pub(super) fn sets_up_frame_pointer(code: &[u8], address: u64) -> bool {
    let is_set = |instruction: &Instruction| {
        instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_register() == Register::RBP
            && instruction.op1_register() == Register::RSP
    };
    sweep(code, address).take(8).any(|(_, _, instruction)| is_set(&instruction))
}

/// The slot that a PLT stub jumps through: `[endbr64] [bnd] jmp [rip+slot]`.
pub(super) fn plt_slot(code: &[u8], address: u64) -> Option<u64> {
    let is_endbr = |instruction: &Instruction| instruction.code() == Code::Endbr64;
    let (_, _, jump) =
        sweep(code, address).take(2).find(|(_, _, instruction)| !is_endbr(instruction))?;
    slot(&jump).filter(|_| jump.is_jmp_near_indirect())
}

/// The instruction at an offset, as text.
pub(super) fn text(code: &[u8], address: u64, offset: u64) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    options.set_rip_relative_addresses(true);
    options.set_space_after_operand_separator(true);
    let rest = usize::try_from(offset).ok().and_then(|offset| code.get(offset..));
    let mut text = String::new();
    if let Some((_, _, instruction)) =
        sweep(rest.unwrap_or_default(), address.wrapping_add(offset)).next()
    {
        formatter.format(&instruction, &mut text);
    }
    text
}

/// Why a uprobe cannot sit on the first instruction.
///
/// The opcodes are those missing in `good_insns_64` and `good_2byte_insns` of
/// `arch/x86/kernel/uprobes.c`; encodings that it sorts differently over time (VEX, EVEX, three-byte
/// opcodes) are let through.
pub(super) fn entry_refusal(code: &[u8], address: u64) -> Option<&'static str> {
    let Some((_, mut bytes, instruction)) = sweep(code, address).next() else {
        return Some("the function has no code");
    };
    if instruction.is_invalid() {
        return Some("its first instruction cannot be decoded");
    }
    let branch_with_66 = near_target(&instruction).is_some() && bytes.first() == Some(&0x66);
    while let [prefix, rest @ ..] = bytes {
        match prefix {
            0x26 | 0x2e | 0x36 | 0x3e | 0xf0 => {
                return Some("the kernel takes no probe on a lock or segment prefix");
            }
            0x40..=0x4f | 0x64..=0x67 | 0xf2 | 0xf3 => bytes = rest,
            _ => break,
        }
    }
    match bytes {
        [0xcc, ..] => Some("it starts with a breakpoint of someone else"),
        // in, out, int, iret, icebp, hlt, cli, sti
        [0x6c..=0x6f | 0xe4..=0xe7 | 0xec..=0xef | 0xcd | 0xcf | 0xf1 | 0xf4 | 0xfa | 0xfb, ..]
        // System instructions, ud2, moves to and from control registers, rdmsr, wrmsr, ud0
        | [0x0f, 0x00..=0x0c | 0x24..=0x27 | 0x30 | 0x34..=0x37 | 0xa6 | 0xa7 | 0xff, ..] => {
            Some("the kernel takes no probe on its first instruction")
        }
        // Far jumps, calls and returns
        [0xca | 0xcb, ..] => Some("it starts with a far return"),
        _ if instruction.is_call_far_indirect() || instruction.is_jmp_far_indirect() => {
            Some("it starts with a far call or jump")
        }
        _ if branch_with_66 => Some("the kernel takes no probe on a 16-bit branch"),
        _ => None,
    }
}

/// One instruction after the other: offset, bytes, meaning. Bytes that are none give an invalid
/// instruction, and decoding goes on behind them.
pub(super) fn sweep(code: &[u8], address: u64) -> impl Iterator<Item = (u64, &[u8], Instruction)> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        let start = decoder.position();
        if !decoder.can_decode() {
            return None;
        }
        let instruction = decoder.decode();
        let bytes = code.get(start..decoder.position()).unwrap_or_default();
        Some((start as u64, bytes, instruction))
    })
}

/// `push_setup_xol_ops` and `branch_setup_xol_ops` of `arch/x86/kernel/uprobes.c`, without
/// prefixes, about which kernels differ.
fn is_emulated(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        // push
        [0x50..=0x57] | [0x41, 0x50..=0x57]
        // nop
        | [0x90]
        // jmp, call
        | [0xeb, _] | [0xe8 | 0xe9, _, _, _, _]
        // jcc
        | [0x70..=0x7f, _] | [0x0f, 0x80..=0x8f, _, _, _, _]
    )
}

fn is_write(access: OpAccess) -> bool {
    !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
}

fn written_arguments(info: &InstructionInfo) -> u8 {
    let written = |argument: &&Register| {
        let writes = |used: &iced_x86::UsedRegister| {
            is_write(used.access()) && used.register().full_register() == **argument
        };
        info.used_registers().iter().any(writes)
    };
    (0u8..)
        .zip(&ARGUMENT_REGISTERS)
        .filter(|(_, register)| written(register))
        .fold(0, |mask, (argument, _)| mask | 1 << argument)
}

/// Whether it moves the stack pointer, or may write to the return address there.
fn moves_return(info: &InstructionInfo) -> bool {
    info.used_registers()
        .iter()
        .any(|used| is_write(used.access()) && used.register().full_register() == Register::RSP)
        || info.used_memory().iter().any(may_write_return)
}

fn may_write_return(memory: &UsedMemory) -> bool {
    if !is_write(memory.access()) || memory.base().full_register() != Register::RSP {
        return false;
    }
    let start = memory.displacement().cast_signed();
    let size = i64::try_from(memory.memory_size().size()).unwrap_or(0);
    let is_elsewhere = start >= 8 || start.saturating_add(size) <= 0;
    memory.index() != Register::None || size == 0 || !is_elsewhere
}

fn flow(instruction: &Instruction, tested: Option<u8>) -> Flow {
    match (instruction.flow_control(), tested) {
        (FlowControl::Next, _) if !instruction.is_privileged() => Flow::Next,
        (FlowControl::ConditionalBranch, Some(argument))
            if instruction.is_jcc_short_or_near()
                && instruction.condition_code() == ConditionCode::e =>
        {
            Flow::NextUnlessZero(argument)
        }
        _ => Flow::Ends,
    }
}

/// The argument that `test R, R` or `cmp R, 0` compares with zero, over all its 64 bits.
fn zero_test(instruction: &Instruction) -> Option<u8> {
    let register = instruction.op0_register();
    let is_test = match instruction.code() {
        Code::Test_rm64_r64 => register == instruction.op1_register(),
        Code::Cmp_rm64_imm8 | Code::Cmp_rm64_imm32 => {
            instruction.try_immediate(1).is_ok_and(|value| value == 0)
        }
        _ => false,
    };
    if !is_test || instruction.op0_kind() != OpKind::Register {
        return None;
    }
    (0u8..).zip(&ARGUMENT_REGISTERS).find(|(_, r)| **r == register).map(|(argument, _)| argument)
}

pub(super) fn near_target(instruction: &Instruction) -> Option<u64> {
    let is_near = matches!(
        instruction.op0_kind(),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
    );
    (!instruction.is_invalid() && is_near).then(|| instruction.near_branch_target())
}

/// The slot at a fixed address that a call or jump goes through.
fn slot(instruction: &Instruction) -> Option<u64> {
    let is_indirect = instruction.is_call_near_indirect() || instruction.is_jmp_near_indirect();
    let is_thread_local = matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    (is_indirect && instruction.is_ip_rel_memory_operand() && !is_thread_local)
        .then(|| instruction.ip_rel_memory_address())
}
