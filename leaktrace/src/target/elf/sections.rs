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

/// A build id, or the path of a debug file, with what is around it in its section, in bytes.
const LARGEST_NOTE: u64 = 4096 + 8;

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

    /// The build id; `None` without one.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when the section cannot be read.
    pub fn build_id(&self) -> Result<Option<Vec<u8>>, ElfError> {
        let [note] = self.sections([".note.gnu.build-id"])?;
        let Some(note) = note.filter(|note| note.size <= LARGEST_NOTE) else { return Ok(None) };
        Ok(build_id(&self.read(note.offset, note.size)?))
    }

    /// The name of the separate debug file, which nobody has checked, and its CRC.
    ///
    /// # Errors
    ///
    /// [`ElfError`] when the section cannot be read.
    pub fn debug_link(&self) -> Result<Option<(String, u32)>, ElfError> {
        let [link] = self.sections([".gnu_debuglink"])?;
        let Some(link) = link.filter(|link| link.size <= LARGEST_NOTE) else { return Ok(None) };
        Ok(debug_link(&self.read(link.offset, link.size)?))
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

/// A note: the sizes of its name and of the id, its type, the name, and the id.
fn build_id(note: &[u8]) -> Option<Vec<u8>> {
    const GNU_BUILD_ID: [u8; 8] = *b"\x03\0\0\0GNU\0";
    let (head, rest) = note.split_first_chunk::<8>()?;
    let size = u32::from_le_bytes(*head.last_chunk()?) as usize;
    let id = rest.strip_prefix(&GNU_BUILD_ID)?.get(..size)?;
    (head.starts_with(&[4, 0, 0, 0]) && (1..=64).contains(&size)).then(|| id.to_vec())
}

/// A name, a zero byte, zero to three bytes up to a multiple of four, the CRC.
fn debug_link(content: &[u8]) -> Option<(String, u32)> {
    let length = content.iter().position(|&byte| byte == 0)?;
    let name = std::str::from_utf8(content.get(..length)?).ok()?.to_owned();
    let at = (length + 1).next_multiple_of(4);
    let crc = content.get(at..)?.first_chunk()?;
    Some((name, u32::from_le_bytes(*crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_ids_and_debug_links() {
        let note = b"\x04\0\0\0\x03\0\0\0\x03\0\0\0GNU\0\xab\xcd\xef\0";
        assert_eq!(build_id(note), Some(vec![0xab, 0xcd, 0xef]));
        assert_eq!(build_id(&note[..18]), None);
        assert_eq!(build_id(b""), None);
        assert_eq!(debug_link(b"a.debug\0\x01\x02\x03\x04"), Some(("a.debug".into(), 0x0403_0201)));
        assert_eq!(debug_link(b"a\0\0\0\x01\0\0"), None);
    }
}
