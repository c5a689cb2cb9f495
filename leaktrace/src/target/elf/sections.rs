//! The sections of an ELF file, by name.

use object::LittleEndian as LE;
use object::elf::{self, SectionHeader64};

use super::{Elf, ElfError, Segment};

/// A section that has bytes in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its virtual address; 0 when it is not loaded.
    pub address: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes in the file.
    pub size: u64,
    /// Whether they are compressed, behind a header of their own.
    pub compressed: bool,
}

impl Elf<'_> {
    /// The first sections of these names.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when the names cannot be read.
    pub fn sections<const N: usize>(
        &self,
        wanted: [&str; N],
    ) -> Result<[Option<Section>; N], ElfError> {
        let mut found = [None; N];
        let Some(names) = self.sections.get(usize::from(self.section_names)) else {
            return Ok(found);
        };
        let names = self.read(names.sh_offset.get(LE), names.sh_size.get(LE))?;
        for header in &self.sections {
            let Some(name) = names.get(header.sh_name.get(LE) as usize..) else { continue };
            let kind = header.sh_type.get(LE);
            if kind == elf::SHT_NULL || kind == elf::SHT_NOBITS {
                continue;
            }
            for (section, wanted) in found.iter_mut().zip(wanted) {
                let same =
                    name.strip_prefix(wanted.as_bytes()).is_some_and(|t| t.first() == Some(&0));
                if section.is_none() && same {
                    *section = Some(Section {
                        address: header.sh_addr.get(LE),
                        offset: header.sh_offset.get(LE),
                        size: header.sh_size.get(LE),
                        compressed: header.sh_flags.get(LE).contains(elf::SHF_COMPRESSED),
                    });
                }
            }
        }
        Ok(found)
    }

    /// The sections with code, as they are loaded; none when the file has no section headers.
    pub fn code_sections(&self) -> Vec<Segment> {
        let sections = self.sections.iter().filter(|s| {
            let flags = s.sh_flags.get(LE);
            flags.contains(elf::SHF_ALLOC)
                && flags.contains(elf::SHF_EXECINSTR)
                && s.sh_type.get(LE) != elf::SHT_NOBITS
        });
        let loaded = |s: &SectionHeader64<LE>| Segment {
            address: s.sh_addr.get(LE),
            offset: s.sh_offset.get(LE),
            size: s.sh_size.get(LE),
            executable: true,
        };
        sections.map(loaded).collect()
    }
}
