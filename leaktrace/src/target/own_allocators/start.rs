//! Does a function begin at an address that the user gives? A probe on anything but the start of an
//! instruction would break the process, so nobody's word is taken for it.

use std::cell::OnceCell;
use std::collections::HashSet;

use crate::target::elf::{Elf, Function};
use crate::target::tails::Bounds;

/// What of a file's code is looked at for calls, in bytes.
const MOST_CODE: u64 = 256 << 20;
/// What is looked at in one go, in bytes.
const CHUNK: u64 = 1 << 20;
/// A call: its opcode, and the distance.
const CALL: usize = 5;
/// `endbr64`: only ever where an indirect call or jump leads to.
const LANDING: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// Where the functions of one file begin, as far as its symbols, its unwind data and its code tell.
pub(super) struct Starts<'b, 'e, 'f> {
    pub(super) bounds: &'b Bounds<'e, 'f>,
    /// What is asked for.
    addresses: HashSet<u64>,
    /// Which of them are called, once anybody has to know: one look at the code is for all.
    called: OnceCell<Called>,
}

/// What the calls in a file say.
#[derive(Default)]
struct Called {
    addresses: HashSet<u64>,
    /// Why not all of the code was looked at.
    unfinished: Option<String>,
}

impl<'b, 'e, 'f> Starts<'b, 'e, 'f> {
    /// For these addresses, and no others.
    pub(super) fn of(bounds: &'b Bounds<'e, 'f>, addresses: HashSet<u64>) -> Self {
        Self { bounds, addresses, called: OnceCell::new() }
    }

    /// The function at `address`. Without a size where only calls lead there.
    ///
    /// # Errors
    ///
    /// Why none is known to begin there.
    pub(super) fn function_at(&self, name: String, address: u64) -> Result<Function, String> {
        let elf = self.bounds.elf;
        if elf.file_offset(address).is_none() {
            return Err(
                "there is no code at this address: give it as `nm` or `objdump -d` print it, \
                        which is not its place in the file or in memory"
                    .to_owned(),
            );
        }
        if let Some(size) = self.bounds.size_at(address) {
            return Ok(Function { name, address, size });
        }
        if let Some(start) = self.bounds.start_before(address) {
            return Err(format!(
                "the address lies within the function that begins at {start:#x}: give the start"
            ));
        }
        if elf.code(address, LANDING.len() as u64).is_ok_and(|code| code == LANDING) {
            return Ok(Function { name, address, size: 0 });
        }
        let called = self.called.get_or_init(|| called(elf, &self.addresses));
        if called.addresses.contains(&address) {
            return Ok(Function { name, address, size: 0 });
        }
        if let Some(why) = &called.unfinished {
            return Err(format!(
                "neither a symbol nor unwind data tells that a function begins there, and not all \
                 calls were looked at ({why}): use a build that is not stripped"
            ));
        }
        Err("neither a symbol nor unwind data nor a call tells that a function begins there, and a \
             probe elsewhere could break the process: check the address, or use a build that is not \
             stripped"
            .to_owned())
    }
}

/// Which of these addresses a direct call in the file leads to.
fn called(elf: &Elf<'_>, wanted: &HashSet<u64>) -> Called {
    let mut called = Called::default();
    if cfg!(not(target_arch = "x86_64")) {
        return called;
    }
    let mut left = MOST_CODE;
    for segment in elf.segments().iter().filter(|segment| segment.executable) {
        let size = segment.size.min(left);
        if size < segment.size {
            called.unfinished =
                Some(format!("there are more than {} MiB of code", MOST_CODE >> 20));
        }
        left -= size;
        let mut at = 0;
        while at < size {
            // A call may lie across the end.
            let length = (size - at).min(CHUNK + CALL as u64 - 1);
            let code = match segment.offset.checked_add(at).map(|offset| elf.read(offset, length)) {
                Some(Ok(code)) => code,
                Some(Err(error)) => {
                    called.unfinished = Some(error.to_string());
                    return called;
                }
                None => break,
            };
            let start = segment.address.wrapping_add(at);
            called.addresses.extend(calls(&code, start).filter(|to| wanted.contains(to)));
            at += CHUNK;
        }
    }
    called
}

/// Where the calls lead that the bytes may be.
fn calls(code: &[u8], start: u64) -> impl Iterator<Item = u64> {
    (0..).zip(code.windows(CALL)).filter_map(move |(offset, bytes)| match bytes {
        [0xe8, distance @ ..] => {
            let at = start.wrapping_add(offset);
            let distance = i32::from_le_bytes(distance.try_into().ok()?);
            Some(at.wrapping_add(CALL as u64).wrapping_add_signed(distance.into()))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::budget::Budget;

    /// An ELF file of one segment: 1 MiB of code at 0x100000, where each of the first instructions calls
    /// one of these addresses.
    fn file_that_calls(addresses: &[u64]) -> Vec<u8> {
        const CODE: u64 = 1 << 20;
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64 + 56, 0);
        bytes[18] = 62; // x86-64
        bytes[32] = 64; // where the program headers are, of which size, and how many
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 1; // loadable
        bytes[68] = 5; // readable, executable
        for (at, value) in [(72, 4096), (80, CODE), (96, CODE), (104, CODE)] {
            bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        bytes.resize(4096, 0);
        for (number, address) in (1..).zip(addresses) {
            let distance = address.wrapping_sub(CODE + number * CALL as u64) as u32;
            bytes.push(0xe8);
            bytes.extend(distance.to_le_bytes());
        }
        bytes.resize(4096 + CODE as usize, 0x90);
        bytes
    }

    #[test]
    fn one_look_at_the_code_is_for_all_addresses() {
        let addresses: Vec<u64> = (0..100).map(|n| 0x11_0000 + 16 * n).collect();
        let file = file_that_calls(&addresses);
        // For the code once, and for a look at each of the addresses.
        let budget = Budget::of(3 << 20);
        let elf = Elf::in_memory(&file, &budget).unwrap();
        let bounds = Bounds::of(&elf);
        let starts = Starts::of(&bounds, addresses.iter().copied().chain([0x11_0004]).collect());
        for &address in &addresses {
            let function = starts.function_at("f".to_owned(), address).unwrap();
            assert_eq!((function.address, function.size), (address, 0));
        }
        let error = starts.function_at("f".to_owned(), 0x11_0004).unwrap_err();
        assert!(error.contains("nor a call tells"), "{error}");
    }

    #[test]
    fn a_call_that_could_not_be_looked_for_is_not_said_to_be_none() {
        let file = file_that_calls(&[0x11_0000]);
        let budget = Budget::of(1 << 20);
        let elf = Elf::in_memory(&file, &budget).unwrap();
        let bounds = Bounds::of(&elf);
        let starts = Starts::of(&bounds, HashSet::from([0x11_0000]));
        let error = starts.function_at("f".to_owned(), 0x11_0000).unwrap_err();
        assert!(
            error.contains("not all calls were looked at (its tables are too large"),
            "{error}"
        );
    }

    #[test]
    fn calls_lead_forward_and_back() {
        let code = [0x90, 0xe8, 0, 1, 0, 0, 0xe8, 0xf5, 0xff, 0xff, 0xff, 0xe8, 0, 0];
        assert_eq!(calls(&code, 0x1000).collect::<Vec<_>>(), [0x1106, 0x1000]);
        assert_eq!(calls(&[0xe8, 0, 0, 0, 0], u64::MAX).collect::<Vec<_>>(), [4]);
        assert_eq!(calls(&[], 0).count(), 0);
    }
}
