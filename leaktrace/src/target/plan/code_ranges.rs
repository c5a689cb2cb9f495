//! Where an allocator's own code lies in an address space: what it calls from there is part of its
//! calls.

use super::defined::{Defined, SortedOut};
use crate::model::Addr;
use crate::target::elf::Elf;
use crate::target::image::Image;
use crate::target::maps::FileId;

/// Functions of one source file lie together; between those of the catalogue lie others that they
/// call. Two are of one piece when at most so many bytes of others lie between them.
const GAP: u64 = 8 << 10;

/// Which of a file's bytes are an allocator's own code: offsets, start (inclusive), end (exclusive). A
/// library that is nothing but an allocator is that as a whole: such have it in their names. A program, a C
/// library or a plugin has much else, whose calls are its own (`strdup`): there it is the code around the
/// functions of the catalogue.
pub(super) fn of(
    elf: &Elf<'_>,
    file_name: &str,
    defined: &Defined,
    sorted_out: &SortedOut,
) -> Vec<(u64, u64)> {
    if elf.entry() == 0 && file_name.contains("malloc") {
        return vec![(0, u64::MAX)];
    }
    let is_probed =
        |address: u64| sorted_out.probed.iter().any(|chosen| chosen.function.address == address);
    let mut spans: Vec<(u64, u64)> = defined
        .functions
        .iter()
        // Operators are made of other functions; where they are not, they call none.
        .filter(|(entry, function)| !entry.is_operator() && is_probed(function.address))
        .filter_map(|(_, function)| {
            let start = elf.file_offset(function.address)?;
            Some((start, start.checked_add(function.size.max(1))?))
        })
        .collect();
    spans.sort_unstable();
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    for (start, end) in spans {
        match pieces.last_mut() {
            Some(last) if start <= last.1.saturating_add(GAP) => last.1 = last.1.max(end),
            _ => pieces.push((start, end)),
        }
    }
    pieces
}

/// Where such a piece is mapped.
pub(super) fn mapped(image: &Image, file: FileId, (start, end): (u64, u64)) -> Vec<(Addr, Addr)> {
    let pieces = image.code_of(file).filter_map(|mapping| {
        let at = |offset: u64| {
            let address = offset.saturating_sub(mapping.offset).saturating_add(mapping.start.0);
            address.min(mapping.end.0)
        };
        let (start, end) = (at(start), at(end));
        (start < end).then_some((Addr(start), Addr(end)))
    });
    pieces.collect()
}
