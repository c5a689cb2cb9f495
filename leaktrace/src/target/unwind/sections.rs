//! Where a file keeps its unwind data.

use std::io::Read;

use flate2::read::ZlibDecoder;
use gimli::{BaseAddresses, EhFrameHdr, LittleEndian};
use object::LittleEndian as LE;
use object::elf::{CompressionHeader64, ELFCOMPRESS_ZLIB};
use object::pod::from_bytes;

use super::UnwindError;
use crate::target::elf::Elf;

/// The most bytes of a section: twenty times libLLVM's.
const LARGEST: u64 = 128 << 20;
/// What of the index is read: its head.
const INDEX_HEAD: u64 = 32;

/// The unwind data of a file.
#[derive(Debug, Default)]
pub(super) struct Sections {
    /// The bytes of `.eh_frame`.
    pub(super) eh_frame: Vec<u8>,
    /// Whether they end where the section does; else it ends before, with an empty entry.
    pub(super) is_exact: bool,
    /// The bytes of `.debug_frame`.
    pub(super) debug_frame: Vec<u8>,
    /// What addresses are relative to.
    pub(super) bases: BaseAddresses,
}

impl Sections {
    pub(super) fn read(elf: &Elf<'_>) -> Result<Self, UnwindError> {
        let names = [".eh_frame", ".eh_frame_hdr", ".debug_frame", ".text", ".got"];
        let [eh_frame, index, debug_frame, text, got] = elf.sections(names)?;
        let mut this = Self::default();
        let mut bases = BaseAddresses::default();
        bases.eh_frame.text = text.map(|s| s.address);
        bases.eh_frame.data = got.or(index).map(|s| s.address);
        if let Some(section) = eh_frame.filter(|s| s.size != 0 && !s.compressed) {
            this.eh_frame = read(elf, section.offset, section.size)?;
            this.is_exact = true;
            bases.eh_frame.section = Some(section.address);
        } else if let Some((address, bytes)) = through_index(elf)? {
            this.eh_frame = bytes;
            bases.eh_frame.section = Some(address);
        }
        this.bases = bases;
        // What is too large, or compressed in an unknown way, is as good as absent.
        this.debug_frame = debug_frame
            .and_then(|section| {
                let bytes = read(elf, section.offset, section.size).ok()?;
                if section.compressed { decompress(&bytes) } else { Some(bytes) }
            })
            .unwrap_or_default();
        Ok(this)
    }
}

fn read(elf: &Elf<'_>, offset: u64, size: u64) -> Result<Vec<u8>, UnwindError> {
    if size > LARGEST {
        return Err(UnwindError::OverBudget);
    }
    Ok(elf.read(offset, size)?)
}

/// The `.eh_frame` of a file without section headers, by the index that its program headers know:
/// its address, and the bytes up to the end of its segment.
fn through_index(elf: &Elf<'_>) -> Result<Option<(u64, Vec<u8>)>, UnwindError> {
    let Some(index) = elf.frame_header() else { return Ok(None) };
    let head = elf.read(index.offset, index.size.min(INDEX_HEAD))?;
    let bases = BaseAddresses::default().set_eh_frame_hdr(index.address);
    let Ok(head) = EhFrameHdr::new(&head, LittleEndian).parse(&bases, 8) else {
        return Err(UnwindError::Corrupt("the index of unwind data is of no known kind"));
    };
    let address = head.eh_frame_ptr().pointer();
    let mut segments = elf.segments().iter();
    let Some((segment, within)) = segments.find_map(|segment| {
        let within = address.checked_sub(segment.address)?;
        (within < segment.size).then_some((segment, within))
    }) else {
        return Err(UnwindError::Corrupt("the index of unwind data points nowhere"));
    };
    let offset = segment.offset.saturating_add(within);
    let size = (segment.size - within).min(elf.size().saturating_sub(offset)).min(LARGEST);
    Ok(Some((address, read(elf, offset, size)?)))
}

/// Go's linker compresses its debug information, and so may others.
fn decompress(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, stream) = from_bytes::<CompressionHeader64<LE>>(bytes).ok()?;
    let size = header.ch_size.get(LE);
    if header.ch_type.get(LE) != ELFCOMPRESS_ZLIB || size > LARGEST {
        return None;
    }
    let mut out = Vec::new();
    ZlibDecoder::new(stream).take(size).read_to_end(&mut out).ok()?;
    Some(out)
}
