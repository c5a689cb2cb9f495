//! Where a module's debug information is: in itself, or in a separate file found by build id or by
//! `.gnu_debuglink` (GDB's manual, "Debugging Information in Separate Files").
//!
//! Runs in the worker only. A target can put any file at the places that are searched, so a debug
//! file counts only if its build id, or without one its CRC, is the module's; and only files of
//! leaktrace's own system directory may refer to further files, which blazesym would open blindly.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::elf_facts::{DebugLink, ElfFacts};
use crate::target::debug_places::{self, Place, crc32};
use crate::target::regular_file::{self, Links};

/// A separate debug file.
#[derive(Debug)]
pub(super) struct DebugFile {
    /// The file, open.
    pub(super) file: File,
    /// Whether its DWARF may be read: it does not refer to other files, or it may.
    pub(super) dwarf: bool,
}

/// The separate debug file of a module: the one at `path` as the target sees it, whose root
/// directory is `root`.
pub(super) fn find(facts: &ElfFacts, path: &str, root: &Path) -> Option<DebugFile> {
    let link = facts.debug_link.as_ref().map(|link| link.name.as_str());
    let places = debug_places::of(facts.build_id.as_deref(), link, path, root);
    places.iter().find_map(|place| open_if_it_belongs(facts, place))
}

/// Whether DWARF in a target's file may be read: blazesym opens whatever other file it names.
pub(super) fn stands_alone(facts: &ElfFacts) -> bool {
    facts.debug_link.is_none() && !facts.has_supplement
}

fn open_if_it_belongs(module: &ElfFacts, place: &Place) -> Option<DebugFile> {
    let file = regular_file::open(&place.path, Links::Follow).ok()?;
    let facts = ElfFacts::read(&file).ok()?;
    let belongs = match (&module.build_id, &module.debug_link) {
        (Some(_), _) => facts.build_id == module.build_id,
        (None, Some(DebugLink { crc, .. })) => crc32(&file).ok()? == *crc,
        (None, None) => false,
    };
    if !belongs || !(facts.has_debug_info || facts.has_symbols) {
        return None;
    }
    let trusted = place.trusted && file.metadata().ok()?.uid() == 0;
    Some(DebugFile { file, dwarf: facts.has_debug_info && (trusted || stands_alone(&facts)) })
}
