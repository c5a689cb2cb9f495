//! Whether a function does nothing but hand its call on to another one.

use std::collections::HashSet;

use iced_x86::{FlowControl, InstructionInfoFactory, Mnemonic};

use super::{Machine, Transfer, bounded, transfers, x86_64};

/// Whether each way through the function whose bytes are `code` and whose virtual address is
/// `address` leads to code that `is_known`, or does no work: it neither writes to memory nor calls
/// anything before it returns, as where an argument is checked first. A fast path beside the known
/// function is work.
///
/// On aarch64, one way to known code is enough.
pub fn forwards(
    machine: Machine,
    code: &[u8],
    address: u64,
    is_known: impl Fn(Transfer) -> bool,
) -> bool {
    if !transfers(machine, code, address).into_iter().any(&is_known) {
        return false;
    }
    match machine {
        Machine::X86_64 => all_ways_lead(bounded(code), address, is_known),
        Machine::Aarch64 => true,
    }
}

/// Whereto a function jumps that does nothing else.
pub fn stub_target(machine: Machine, code: &[u8], address: u64) -> Option<Transfer> {
    let Machine::X86_64 = machine else { return None };
    let is_endbr = |code| matches!(code, iced_x86::Code::Endbr64);
    let (_, _, jump) = x86_64::sweep(bounded(code), address)
        .take(2)
        .find(|(_, _, instruction)| !is_endbr(instruction.code()))?;
    let leaves = matches!(
        jump.flow_control(),
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
    );
    x86_64::transfer(&jump).filter(|_| leaves)
}

fn all_ways_lead(code: &[u8], address: u64, is_known: impl Fn(Transfer) -> bool) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let has_frame_pointer = x86_64::sets_up_frame_pointer(code, address);
    // Where a way goes on, and whether it has called something.
    let mut ways = vec![(address, false)];
    let mut seen = HashSet::new();
    while let Some((from, called)) = ways.pop() {
        let offset = from.wrapping_sub(address);
        let Some(rest) = usize::try_from(offset).ok().and_then(|offset| code.get(offset..)) else {
            return false;
        };
        let mut called = called;
        let mut ended = false;
        for (within, bytes, instruction) in x86_64::sweep(rest, from) {
            let at = from.wrapping_add(within);
            if !seen.insert((at, called)) {
                ended = true;
                break;
            }
            let works = x86_64::stores(&mut factory, &instruction, has_frame_pointer);
            if instruction.is_invalid() || works {
                return false;
            }
            let transfer = x86_64::transfer(&instruction);
            let known = transfer.is_some_and(&is_known);
            let inside = match transfer {
                Some(Transfer::Direct(target))
                    if target.wrapping_sub(address) < code.len() as u64 =>
                {
                    Some(target)
                }
                _ => None,
            };
            match instruction.flow_control() {
                FlowControl::Next => continue,
                FlowControl::Call | FlowControl::IndirectCall if !known => {
                    called = true;
                    continue;
                }
                FlowControl::ConditionalBranch => {
                    // A way out that is not known is a cold part, which throws.
                    ways.extend(inside.map(|target| (target, called)));
                    ways.push((at.wrapping_add(bytes.len() as u64), called));
                }
                FlowControl::UnconditionalBranch if inside.is_some() => {
                    ways.extend(inside.map(|target| (target, called)));
                }
                FlowControl::Call
                | FlowControl::IndirectCall
                | FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                    if known => {}
                FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret && !called => {}
                FlowControl::Exception => {}
                _ => return false,
            }
            ended = true;
            break;
        }
        if !ended {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &[u8], expect: bool) {
        let known =
            |transfer| matches!(transfer, Transfer::Direct(0x2000) | Transfer::Slot(0x2008));
        let found = forwards(Machine::X86_64, code, 0x1000, known);
        assert_eq!(found, expect, "{code:x?}");
    }

    #[test]
    fn a_wrapper_hands_each_call_on() {
        // jmp 0x2000
        check(&[0xe9, 0xfb, 0x0f, 0, 0], true);
        // push rbx; call 0x2000; mov [rax], rbx; pop rbx; ret
        check(&[0x53, 0xe8, 0xfa, 0x0f, 0, 0, 0x48, 0x89, 0x18, 0x5b, 0xc3], true);
        // jmp elsewhere; ret
        check(&[0xe9, 0, 1, 0, 0], false);
        check(&[0xc3], false);
        check(&[], false);
    }

    #[test]
    fn a_check_of_arguments_is_no_work() {
        // test rdi, rdi; je +5; jmp 0x2000; ret
        check(&[0x48, 0x85, 0xff, 0x74, 5, 0xe9, 0xf6, 0x0f, 0, 0, 0xc3], true);
        // jo elsewhere; jmp 0x2000
        check(&[0x70, 0x40, 0xe9, 0xf9, 0x0f, 0, 0], true);
    }

    #[test]
    fn a_fast_path_is_work() {
        // test rdi, rdi; je +5; jmp 0x2000; mov [rdx], rdi; ret
        let code = [0x48, 0x85, 0xff, 0x74, 5, 0xe9, 0xf6, 0x0f, 0, 0, 0x48, 0x89, 0x3a, 0xc3];
        check(&code, false);
        // test rdi, rdi; je +5; jmp 0x2000; call elsewhere; ret
        let code = [0x48, 0x85, 0xff, 0x74, 5, 0xe9, 0xf6, 0x0f, 0, 0, 0xe8, 0, 1, 0, 0, 0xc3];
        check(&code, false);
    }

    #[test]
    fn a_function_that_counts_its_calls_does_work_and_one_that_keeps_its_arguments_does_not() {
        // add qword [rip], 1; jmp 0x2000
        check(&[0x48, 0x83, 0x05, 0, 0, 0, 0, 1, 0xe9, 0xf3, 0x0f, 0, 0], false);
        // push rbp; mov rbp, rsp; mov [rbp-8], rdi; call 0x2000
        let kept = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0x7d, 0xf8, 0xe8, 0xf3, 0x0f, 0, 0];
        check(&kept, true);
        // The same, but rbp is the caller's.
        check(&[0x90, 0x90, 0x90, 0x90, 0x48, 0x89, 0x7d, 0xf8, 0xe8, 0xf3, 0x0f, 0, 0], false);
    }

    #[test]
    fn a_list_of_free_blocks_in_thread_local_storage_is_work_and_an_error_code_is_not() {
        // test rdi, rdi; je +5; jmp 0x2000; mov fs:[rax], rdx; ret
        let mut code = vec![0x48, 0x85, 0xff, 0x74, 5, 0xe9, 0xf6, 0x0f, 0, 0];
        let before = code.len();
        code.extend([0x64, 0x48, 0x89, 0x10, 0xc3]);
        check(&code, false);
        // ...; mov dword fs:[rax], 12; ret
        code.truncate(before);
        code.extend([0x64, 0xc7, 0x00, 12, 0, 0, 0, 0xc3]);
        check(&code, true);
    }

    #[test]
    fn loops_end() {
        // jmp self; with a known call that is never reached
        check(&[0xeb, 0xfe, 0xe8, 0xf9, 0x0f, 0, 0], true);
        // jne self; jmp 0x2000
        check(&[0x75, 0xfe, 0xe9, 0xf9, 0x0f, 0, 0], true);
    }

    #[test]
    fn a_stub_is_a_jump_alone() {
        let target = |code: &[u8]| stub_target(Machine::X86_64, code, 0x1000);
        assert_eq!(target(&[0xe9, 0xfb, 0x0f, 0, 0]), Some(Transfer::Direct(0x2000)));
        // endbr64; jmp [rip + 0]
        let code = [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0, 0, 0, 0];
        assert_eq!(target(&code), Some(Transfer::Slot(0x100a)));
        assert_eq!(target(&[0x90, 0xe9, 0xfb, 0x0f, 0, 0]), None);
        assert_eq!(target(&[0x75, 0xfe]), None);
    }
}
