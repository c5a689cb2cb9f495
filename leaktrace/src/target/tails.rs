//! The parts of a function that lie elsewhere in its file: cold ones, and functions that it ends in a
//! jump to, which return in its place.

use std::cell::OnceCell;
use std::collections::HashSet;

use super::decode::{self, Exit, Machine, Part, Transfer};
use super::elf::{Elf, Function};
use super::sites::LONGEST_FUNCTION;
use super::unwind::{self, Described};

/// The most parts of one function.
const MOST_PARTS: usize = 16;
/// The most jumps out of its parts that are followed.
const MOST_JUMPS: usize = 256;

/// A file's functions, as its symbols and its unwind data have them.
pub(super) struct Bounds<'e, 'f> {
    pub(super) elf: &'e Elf<'f>,
    known: OnceCell<Known>,
}

#[derive(Default)]
struct Known {
    /// First address, size.
    symbols: Vec<(u64, u64)>,
    /// First address, first behind; in order.
    entries: Vec<(u64, u64)>,
    /// Whether `entries` are all of the file's unwind data.
    is_all: bool,
}

impl<'e, 'f> Bounds<'e, 'f> {
    pub(super) fn of(elf: &'e Elf<'f>) -> Self {
        Self { elf, known: OnceCell::new() }
    }

    fn known(&self) -> &Known {
        self.known.get_or_init(|| {
            let described = unwind::described(self.elf);
            let is_all = described.as_ref().is_ok_and(|d| d.skipped == 0 && !d.pieces.is_empty());
            let Described { pieces: mut entries, .. } = described.unwrap_or_default();
            entries.sort_unstable();
            let symbols = self.elf.function_ranges().unwrap_or_default();
            Known { symbols, entries, is_all }
        })
    }

    /// The entry of the unwind data that an address lies in.
    fn entry(&self, address: u64) -> Option<(u64, u64)> {
        let entries = &self.known().entries;
        let after = entries.partition_point(|&(start, _)| start <= address);
        let entry = after.checked_sub(1).and_then(|before| entries.get(before));
        entry.copied().filter(|&(_, end)| address < end)
    }

    /// The function that an address lies in: the first address, and the first behind.
    fn around(&self, address: u64) -> Option<(u64, u64)> {
        self.entry(address).or_else(|| {
            let mut symbols = self.known().symbols.iter();
            let &(start, size) =
                symbols.find(|&&(start, size)| address.wrapping_sub(start) < size)?;
            Some((start, start.checked_add(size)?))
        })
    }

    /// The size of the function that begins at an address, as the file's symbols or its unwind data say;
    /// 0 if neither does. `None` when no function is known to begin there.
    pub(super) fn size_at(&self, address: u64) -> Option<u64> {
        let Known { symbols, entries, .. } = self.known();
        let by_symbol =
            symbols.iter().filter(|(start, _)| *start == address).map(|(_, size)| *size);
        let at = entries.partition_point(|&(start, _)| start < address);
        let entries = entries.iter().skip(at).take_while(|(start, _)| *start == address);
        by_symbol.chain(entries.map(|(start, end)| end - start)).max()
    }

    /// Where the function begins that an address lies within, behind its start.
    pub(super) fn start_before(&self, address: u64) -> Option<u64> {
        let Known { symbols, entries, .. } = self.known();
        let entries = entries.iter().map(|(start, end)| (*start, end - start));
        let covers = |&(start, size): &(u64, u64)| start < address && address - start < size;
        symbols.iter().copied().chain(entries).find(covers).map(|(start, _)| start)
    }

    /// Whether the file has unwind data, and none for the code at an address: an exception that gets there
    /// ends the process, whatever sits on its way.
    pub(super) fn stops_exceptions(&self, address: u64) -> bool {
        self.known().is_all && self.entry(address).is_none()
    }
}

/// All return instructions of a function that an exception may leave.
///
/// # Errors
///
/// Why they may not be all of its ways out.
pub(super) fn exits(
    bounds: &Bounds<'_, '_>,
    function: &Function,
    code: Vec<u8>,
) -> Result<Vec<Exit>, String> {
    let elf = bounds.elf;
    let mut parts = vec![Part { address: function.address, code }];
    let mut followed = HashSet::new();
    let mut at = 0;
    while let Some(part) = parts.get(at) {
        at += 1;
        for jump in decode::ways_out(Machine::HOST, part)? {
            let Some(to) = destination(elf, jump) else { continue };
            if followed.len() >= MOST_JUMPS {
                return Err("it jumps to too many places".to_owned());
            }
            followed.insert(jump);
            if parts.iter().any(|part| part.holds(to)) {
                continue;
            }
            let Some((start, end)) = bounds.around(to) else {
                followed.remove(&jump);
                continue;
            };
            let size = end - start;
            if size > LONGEST_FUNCTION || parts.len() >= MOST_PARTS {
                return Err("what it ends in a jump to is too long".to_owned());
            }
            let code = elf.code(start, size).map_err(|e| e.to_string())?;
            parts.push(Part { address: start, code });
        }
    }
    decode::exits(Machine::HOST, &parts, |jump| followed.contains(&jump))
}

/// Where in this file a jump leads, also through its procedure linkage table.
fn destination(elf: &Elf<'_>, jump: Transfer) -> Option<u64> {
    let through = |slot| Some(elf.function_in_slot(slot).ok()??.0);
    match jump {
        Transfer::Slot(slot) => through(slot),
        Transfer::Direct(to) => {
            let stub = elf.code(to, 32).ok()?;
            match decode::plt_slot(Machine::HOST, &stub, to) {
                Some(slot) => through(slot),
                None => Some(to),
            }
        }
    }
}
