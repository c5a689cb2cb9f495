//! `.gnu_debugdata`, the symbol table of a stripped program in an ELF file packed by xz (GDB's manual,
//! "Debugging information in a special section"), unpacked within bounds: of sizes, and of memory.

use std::io::Read;

use lzma_rust2::XzReader;

/// Packed, it may have so many bytes.
pub const MOST_PACKED_BYTES: u64 = 16 << 20;
/// Unpacked, it may have so many.
const MOST_BYTES: u64 = 64 << 20;
/// How far back the packed data may refer, and what the unpacking takes besides. `xz -9` asks for
/// 64 MiB.
const MOST_MEMORY_KIB: u32 = 65 << 10;

/// Unpacks the section.
///
/// # Errors
///
/// A sentence on what is wrong with it.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    unpack_within(packed, MOST_BYTES)
}

fn unpack_within(packed: &[u8], most_bytes: u64) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    XzReader::new_mem_limit(packed, true, MOST_MEMORY_KIB)
        .take(most_bytes + 1)
        .read_to_end(&mut unpacked)
        .map_err(|e| format!("it cannot be unpacked ({e})"))?;
    if unpacked.len() as u64 > most_bytes {
        return Err(format!("unpacked it is larger than {} MiB", most_bytes >> 20));
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "leak" 1000 times, packed by `xz --check=crc32`.
    const LEAKS: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x00, 0x21,
        0x01, 0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0xe0, 0x0f, 0x9f, 0x00, 0x1e, 0x5d,
        0x00, 0x36, 0x19, 0x48, 0x49, 0x17, 0x90, 0xf7, 0xcf, 0x89, 0x64, 0x21, 0xd1, 0x35, 0x6f,
        0x6b, 0xc8, 0xf2, 0xd6, 0x9e, 0x16, 0x70, 0x9b, 0x8c, 0x55, 0x6e, 0x40, 0xf3, 0x71, 0x09,
        0x00, 0x00, 0x00, 0x00, 0xb4, 0xbe, 0x82, 0xe7, 0x00, 0x01, 0x36, 0xa0, 0x1f, 0x00, 0x00,
        0x00, 0x32, 0xe8, 0x2b, 0x69, 0x3e, 0x30, 0x0d, 0x8b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01,
        0x59, 0x5a,
    ];

    #[test]
    fn no_more_is_unpacked_than_is_allowed() {
        assert_eq!(unpack_within(LEAKS, 4000).unwrap(), b"leak".repeat(1000));
        assert!(unpack_within(LEAKS, 3999).unwrap_err().contains("larger than"));
        let cut = &LEAKS[..LEAKS.len() - 20];
        assert!(unpack_within(cut, 4000).unwrap_err().contains("unpacked"));
        assert!(unpack(b"").is_err());
    }
}
