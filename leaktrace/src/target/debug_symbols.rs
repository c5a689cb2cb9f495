//! Functions that a stripped file's own tables do not name: from its separate debug file, or from its
//! mini debug information.

use std::fs::File;

use super::budget::Budget;
use super::debug_places::{self, Place, crc32};
use super::elf::{Elf, ElfError, Function};
use super::mini_debug_info::{self, MOST_PACKED_BYTES, UnpackError};
use super::object_file::ObjectFile;
use super::regular_file::{self, Links};

/// Which functions are looked for.
pub(super) struct Sought<F> {
    /// Those of these names,
    pub(super) is_wanted: F,
    /// which have so many bytes at most.
    pub(super) longest: usize,
    /// Whether the mini debug information of a library is unpacked, too: Fedora has it in each.
    pub(super) in_libraries: bool,
}

/// The functions of a file without `.symtab` that are sought, as its debug file or else its
/// `.gnu_debugdata` has them.
///
/// # Errors
///
/// [`ElfError`] when the file itself cannot be read, and [`ElfError::OverBudget`] when that is why
/// nothing was found. What else cannot be read of the others is not there.
pub(super) fn functions<F: Fn(&str) -> bool>(
    elf: &Elf<'_>,
    file: &ObjectFile,
    budget: &Budget,
    sought: &Sought<F>,
) -> Result<Vec<Function>, ElfError> {
    let build_id = elf.build_id()?;
    let link = elf.debug_link()?;
    let name = link.as_ref().map(|(name, _)| name.as_str());
    let places = debug_places::of(build_id.as_deref(), name, &file.raw_path, &file.root);
    let mut is_over_budget = false;
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
        if !belongs || !debug.has_symbol_table() {
            continue;
        }
        match debug.functions_called(sought.longest, &sought.is_wanted) {
            Ok(functions) => {
                log::debug!("the symbols of {} are in {}", file.path, place.path.display());
                return Ok(functions);
            }
            Err(error) => is_over_budget |= matches!(error, ElfError::OverBudget),
        }
    }
    let [section] = elf.sections([".gnu_debugdata"])?;
    let is_looked_into = sought.in_libraries || elf.entry() != 0;
    if let Some(section) = section.filter(|s| is_looked_into && s.size <= MOST_PACKED_BYTES) {
        let packed = elf.read(section.offset, section.size)?;
        match mini_debug_info::unpack_within(&packed, budget) {
            Ok(unpacked) => {
                let inner = Elf::in_memory(&unpacked, budget)
                    .and_then(|inner| inner.functions_called(sought.longest, &sought.is_wanted));
                match inner {
                    Ok(functions) => return Ok(functions),
                    Err(error) => is_over_budget |= matches!(error, ElfError::OverBudget),
                }
            }
            Err(UnpackError::OverBudget) => is_over_budget = true,
            Err(error) => {
                log::debug!("the mini debug information of {} is of no use: {error}", file.path);
            }
        }
    }
    if is_over_budget { Err(ElfError::OverBudget) } else { Ok(Vec::new()) }
}

fn open(place: &Place) -> Option<File> {
    regular_file::open(&place.path, Links::Follow).ok()
}
