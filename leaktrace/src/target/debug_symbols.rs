//! Functions that a stripped file's own tables do not name: from its separate debug file, or from its
//! mini debug information.

use std::fs::File;

use super::budget::Budget;
use super::debug_places::{self, Place, crc32};
use super::elf::{Elf, ElfError, Function};
use super::mini_debug_info::{self, MOST_PACKED_BYTES};
use super::object_file::ObjectFile;
use super::regular_file::{self, Links};

/// The functions of a file without `.symtab` whose name is `wanted`, as its debug file or else its
/// `.gnu_debugdata` has them. The latter is only unpacked for programs: Fedora has it in each library.
///
/// # Errors
///
/// [`ElfError`] when the file itself cannot be read. What cannot be read of the others is not there.
pub(super) fn functions(
    elf: &Elf<'_>,
    file: &ObjectFile,
    budget: &Budget,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Function>, ElfError> {
    let build_id = elf.build_id()?;
    let link = elf.debug_link()?;
    let name = link.as_ref().map(|(name, _)| name.as_str());
    let places = debug_places::of(build_id.as_deref(), name, &file.raw_path, &file.root);
    for place in places {
        let Some(found) = open(&place) else { continue };
        let Ok(debug) = Elf::open_within(&found, budget) else { continue };
        let belongs = match (&build_id, &link) {
            (Some(_), _) => debug.build_id().is_ok_and(|id| id == build_id),
            (None, Some((_, crc))) => {
                budget.take(debug.size()) && crc32(&found).is_ok_and(|found| found == *crc)
            }
            (None, None) => false,
        };
        if belongs
            && debug.has_symbol_table()
            && let Ok(functions) = debug.functions(&wanted)
        {
            log::debug!("the symbols of {} are in {}", file.path, place.path.display());
            return Ok(functions);
        }
    }
    let [section] = elf.sections([".gnu_debugdata"])?;
    let is_program = elf.entry() != 0;
    let Some(section) = section.filter(|s| is_program && s.size <= MOST_PACKED_BYTES) else {
        return Ok(Vec::new());
    };
    let packed = elf.read(section.offset, section.size)?;
    let unpacked = mini_debug_info::unpack(&packed).unwrap_or_else(|error| {
        log::debug!("the mini debug information of {} is of no use: {error}", file.path);
        Vec::new()
    });
    let inner = Elf::in_memory(&unpacked, budget);
    Ok(inner.and_then(|inner| inner.functions(wanted)).unwrap_or_default())
}

fn open(place: &Place) -> Option<File> {
    regular_file::open(&place.path, Links::Follow).ok()
}
