//! What an ELF file says about itself that matters for finding names: where its code lies, its
//! build id, which tables it has and which other files it refers to.
//!
//! Hostile input: read in the worker only, by bounded reads rather than a mapping.

use std::fs::File;
use std::ops::Range;

use object::elf::{FileHeader64, NT_GNU_BUILD_ID, PF_X, PT_LOAD, Sym64};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader, SectionHeader, SectionTable};
use object::{Endianness, ReadCache, ReadRef};

use crate::target::debug_places::hex;

type Header = FileHeader64<Endianness>;

/// Longer ones are no build ids: SHA-1 has 20 bytes.
const LONGEST_BUILD_ID: usize = 64;
/// A path is not longer.
const LONGEST_LINK: u64 = 4096 + 8;

/// What an ELF file says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ElfFacts {
    segments: Vec<Segment>,
    /// The build id; `None` without one.
    pub(super) build_id: Option<Vec<u8>>,
    /// Whether it has DWARF.
    pub(super) has_debug_info: bool,
    /// Whether it has a full symbol table, not only the dynamic one.
    pub(super) has_symbols: bool,
    /// Where in the file its `.gnu_debugdata` lies.
    pub(super) mini_debug_info: Option<Range<u64>>,
    /// The separate debug file it names.
    pub(super) debug_link: Option<DebugLink>,
    /// Whether its DWARF goes on in another file (`dwz`).
    pub(super) has_supplement: bool,
}

/// A `.gnu_debuglink` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DebugLink {
    /// The debug file's name. Not checked.
    pub(super) name: String,
    /// The CRC-32 of its content.
    pub(super) crc: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    size: u64,
    address: u64,
    executable: bool,
}

impl ElfFacts {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// A sentence, if it is no 64-bit ELF file or has no readable program headers. Section headers
    /// that cannot be read count as missing: a program runs without them.
    pub(super) fn read(file: &File) -> Result<Self, String> {
        Self::parse(&ReadCache::new(file))
    }

    /// The same of the bytes of a file.
    pub(super) fn parse<'d, R: ReadRef<'d>>(data: R) -> Result<Self, String> {
        let header = Header::parse(data).map_err(|e| format!("it is no 64-bit ELF file ({e})"))?;
        let endian = header.endian().map_err(|e| format!("it is no ELF file ({e})"))?;
        let programs = header
            .program_headers(endian, data)
            .map_err(|e| format!("its program headers are damaged ({e})"))?;
        let mut facts = Self::default();
        for program in programs {
            if program.p_type(endian) == PT_LOAD {
                facts.segments.push(Segment {
                    offset: program.p_offset(endian),
                    size: program.p_filesz(endian),
                    address: program.p_vaddr(endian),
                    executable: program.p_flags(endian).contains(PF_X),
                });
            }
        }
        if let Ok(sections) = header.sections(endian, data) {
            facts.read_sections(&sections, endian, data);
        }
        if facts.build_id.is_none() {
            let notes = programs.iter().filter_map(|p| p.notes(endian, data).ok()?);
            facts.build_id = notes.into_iter().find_map(|notes| build_id(notes, endian));
        }
        Ok(facts)
    }

    fn read_sections<'d, R: ReadRef<'d>>(
        &mut self,
        sections: &SectionTable<'d, Header, R>,
        endian: Endianness,
        data: R,
    ) {
        // A symbol table's first entry is always an empty one.
        let no_symbols = size_of::<Sym64<Endianness>>() as u64;
        for section in sections.iter() {
            let range = section.file_range(endian);
            let is_in_file = range.is_some();
            match sections.section_name(endian, section).unwrap_or_default() {
                b".debug_info" | b".zdebug_info" => self.has_debug_info |= is_in_file,
                b".symtab" => {
                    self.has_symbols |= is_in_file && section.sh_size(endian) > no_symbols;
                }
                b".gnu_debugdata" => {
                    let range = range.filter(|&(_, size)| size > 0);
                    let range = range.and_then(|(from, size)| Some(from..from.checked_add(size)?));
                    self.mini_debug_info = self.mini_debug_info.take().or(range);
                }
                b".gnu_debugaltlink" | b".debug_sup" => self.has_supplement = true,
                b".gnu_debuglink" if section.sh_size(endian) <= LONGEST_LINK => {
                    let content = section.data(endian, data).unwrap_or_default();
                    self.debug_link = debug_link(content, endian);
                }
                _ => {}
            }
            if self.build_id.is_none()
                && let Ok(Some(notes)) = section.notes(endian, data)
            {
                self.build_id = build_id(notes, endian);
            }
        }
    }

    /// The address, as the file's symbols count, of what lies at an offset in it.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        // Segments share pages, and with them offsets, with their neighbours: code comes first.
        let holds = |s: &&Segment| offset.checked_sub(s.offset).is_some_and(|into| into < s.size);
        let code = self.segments.iter().filter(|s| s.executable).find(holds);
        let segment = code.or_else(|| self.segments.iter().find(holds))?;
        (offset - segment.offset).checked_add(segment.address)
    }

    /// The build id in hex.
    pub(super) fn build_id_hex(&self) -> Option<String> {
        self.build_id.as_deref().map(hex)
    }
}

fn build_id(mut notes: NoteIterator<'_, Header>, endian: Endianness) -> Option<Vec<u8>> {
    while let Ok(Some(note)) = notes.next() {
        let id = note.desc();
        if note.name() == b"GNU"
            && note.n_type(endian) == NT_GNU_BUILD_ID
            && (1..=LONGEST_BUILD_ID).contains(&id.len())
        {
            return Some(id.to_vec());
        }
    }
    None
}

/// A name, a zero byte, zero to three bytes up to a multiple of four, the CRC.
fn debug_link(content: &[u8], endian: Endianness) -> Option<DebugLink> {
    let length = content.iter().position(|&byte| byte == 0)?;
    let name = std::str::from_utf8(content.get(..length)?).ok()?.to_owned();
    let at = (length + 1).next_multiple_of(4);
    let crc: [u8; 4] = content.get(at..at + 4)?.try_into().ok()?;
    let crc = match endian {
        Endianness::Little => u32::from_le_bytes(crc),
        Endianness::Big => u32::from_be_bytes(crc),
    };
    Some(DebugLink { name, crc })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_this_very_program() {
        let file = File::open("/proc/self/exe").unwrap();
        let facts = ElfFacts::read(&file).unwrap();
        assert!(facts.has_debug_info && facts.has_symbols && !facts.has_supplement);
        assert!(facts.segments.iter().any(|s| s.executable));
    }

    #[test]
    fn code_wins_where_segments_share_a_page() {
        let data = Segment { offset: 0, size: 0x1800, address: 0, executable: false };
        let code = Segment { offset: 0x1400, size: 0x100, address: 0x2400, executable: true };
        let end = Segment { offset: 0x2000, size: 0x10, address: u64::MAX - 4, executable: true };
        let facts = ElfFacts { segments: vec![data, code, end], ..ElfFacts::default() };
        assert_eq!(facts.address_of(0x1410), Some(0x2410));
        assert_eq!(facts.address_of(0x1500), Some(0x1500));
        assert_eq!(facts.address_of(0x1800), None);
        assert_eq!(facts.address_of(0x200f), None, "wraps around");
    }

    #[test]
    fn debug_links() {
        let check = |content: &[u8], expected: Option<(&str, u32)>| {
            let found = debug_link(content, Endianness::Little);
            assert_eq!(found.as_ref().map(|l| (l.name.as_str(), l.crc)), expected);
        };
        check(b"a.debug\0\x01\x02\x03\x04", Some(("a.debug", 0x0403_0201)));
        check(b"a\0\0\0\x01\0\0\0", Some(("a", 1)));
        check(b"a\0\0\0\x01\0\0", None);
        check(b"a.debug", None);
        check(b"", None);
    }
}
