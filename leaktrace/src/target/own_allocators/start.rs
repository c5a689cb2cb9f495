//! Does a function begin at an address that the user gives? A probe on anything but the start of an
//! instruction would break the process, so nobody's word is taken for it.

use std::cell::OnceCell;

use crate::target::elf::{Elf, Function};
use crate::target::unwind;

/// What of a file's code is looked at for calls, in bytes.
const MOST_CODE: u64 = 256 << 20;
/// What is looked at in one go, in bytes.
const CHUNK: u64 = 1 << 20;
/// A call: its opcode, and the distance.
const CALL: usize = 5;
/// `endbr64`: only ever where an indirect call or jump leads to.
const LANDING: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// The function at `address`. Without a size where only calls lead there.
///
/// # Errors
///
/// Why none is known to begin there.
pub(super) fn function_at(
    elf: &Elf<'_>,
    known: &Known,
    name: String,
    address: u64,
) -> Result<Function, String> {
    if elf.file_offset(address).is_none() {
        return Err("there is no code at this address: give it as `nm` or `objdump -d` print it, \
                    which is not its place in the file or in memory"
            .to_owned());
    }
    let ranges = known.ranges.get_or_init(|| ranges(elf));
    let here = ranges.iter().filter(|(start, _)| *start == address);
    if let Some(size) = here.map(|(_, size)| *size).max() {
        return Ok(Function { name, address, size });
    }
    let covers = |(start, size): &&(u64, u64)| *start < address && address - start < *size;
    if let Some((start, _)) = ranges.iter().find(covers) {
        return Err(format!(
            "the address lies within the function that begins at {start:#x}: give the start"
        ));
    }
    if elf.code(address, LANDING.len() as u64).is_ok_and(|code| code == LANDING)
        || is_called(elf, address)
    {
        return Ok(Function { name, address, size: 0 });
    }
    Err("neither a symbol nor unwind data nor a call tells that a function begins there, and a probe \
         elsewhere could break the process: check the address, or use a build that is not stripped"
        .to_owned())
}

/// What the symbols and the unwind data of a file say of its functions, once anybody asks.
#[derive(Default)]
pub(super) struct Known {
    /// Address and size.
    ranges: OnceCell<Vec<(u64, u64)>>,
}

/// What cannot be read says nothing.
fn ranges(elf: &Elf<'_>) -> Vec<(u64, u64)> {
    let mut ranges = elf.function_ranges().unwrap_or_default();
    let described = unwind::described(elf).unwrap_or_default();
    ranges.extend(described.into_iter().map(|(start, end)| (start, end - start)));
    ranges
}

/// Whether a direct call in the file leads to `address`.
fn is_called(elf: &Elf<'_>, address: u64) -> bool {
    if cfg!(not(target_arch = "x86_64")) {
        return false;
    }
    let mut left = MOST_CODE;
    for segment in elf.segments().iter().filter(|segment| segment.executable) {
        let size = segment.size.min(left);
        left -= size;
        let mut at = 0;
        while at < size {
            // A call may lie across the end.
            let length = (size - at).min(CHUNK + CALL as u64 - 1);
            let Some(offset) = segment.offset.checked_add(at) else { break };
            let Ok(code) = elf.read(offset, length) else { break };
            let start = segment.address.wrapping_add(at);
            if calls(&code, start).any(|to| to == address) {
                return true;
            }
            at += CHUNK;
        }
    }
    false
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

    #[test]
    fn calls_lead_forward_and_back() {
        let code = [0x90, 0xe8, 0, 1, 0, 0, 0xe8, 0xf5, 0xff, 0xff, 0xff, 0xe8, 0, 0];
        assert_eq!(calls(&code, 0x1000).collect::<Vec<_>>(), [0x1106, 0x1000]);
        assert_eq!(calls(&[0xe8, 0, 0, 0, 0], u64::MAX).collect::<Vec<_>>(), [4]);
        assert_eq!(calls(&[], 0).count(), 0);
    }
}
