//! `.gnu_debugdata`, the symbol table of a stripped program in an ELF file packed by xz (GDB's manual,
//! "Debugging information in a special section"), unpacked within bounds: of sizes, and of memory.

use std::io::{self, Read};

use lzma_rust2::XzReader;
use thiserror::Error;

use super::budget::Budget;

/// Packed, it may have so many bytes.
pub const MOST_PACKED_BYTES: u64 = 16 << 20;
/// Unpacked, it may have so many.
const MOST_BYTES: u64 = 64 << 20;
/// How far back the packed data may refer, and what the unpacking takes besides. `xz -9` asks for
/// 64 MiB.
const MOST_MEMORY_KIB: u32 = 65 << 10;

/// What is unpacked in one go, in bytes.
const CHUNK: u64 = 64 << 10;
/// Unpacking a byte, or to one, takes as long as reading so many.
const UNPACKING: u64 = 16;

/// Why a section could not be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// It is none, or damaged.
    #[error("it cannot be unpacked ({0})")]
    Broken(#[from] io::Error),
    /// There is more in it than is looked at.
    #[error("unpacked it is larger than {} MiB", MOST_BYTES >> 20)]
    TooLarge,
    /// There is more in it than the budget has left.
    #[error("unpacked it is too large, or what was unpacked before it was")]
    OverBudget,
}

/// Unpacks the section.
///
/// # Errors
///
/// [`UnpackError`]: what is wrong with it.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
    unpack_up_to(MOST_BYTES, packed, None)
}

/// The same, for one of several files: what all of them take comes out of `budget`, before the time is
/// spent.
///
/// # Errors
///
/// As [`unpack`]; [`UnpackError::OverBudget`].
pub fn unpack_within(packed: &[u8], budget: &Budget) -> Result<Vec<u8>, UnpackError> {
    unpack_up_to(MOST_BYTES, packed, Some(budget))
}

fn unpack_up_to(
    most_bytes: u64,
    packed: &[u8],
    budget: Option<&Budget>,
) -> Result<Vec<u8>, UnpackError> {
    let charge = |bytes: u64| match budget {
        Some(budget) if !budget.take(bytes.saturating_mul(UNPACKING)) => {
            Err(UnpackError::OverBudget)
        }
        _ => Ok(()),
    };
    // Many empty blocks take their time, too.
    charge(packed.len() as u64)?;
    let mut reader = XzReader::new_mem_limit(packed, true, MOST_MEMORY_KIB);
    let mut unpacked = Vec::new();
    loop {
        charge(CHUNK)?;
        let more = reader.by_ref().take(CHUNK).read_to_end(&mut unpacked)?;
        if unpacked.len() as u64 > most_bytes {
            return Err(UnpackError::TooLarge);
        }
        if (more as u64) < CHUNK {
            return Ok(unpacked);
        }
    }
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
        let up_to = |most, packed| unpack_up_to(most, packed, None);
        assert_eq!(up_to(4000, LEAKS).unwrap(), b"leak".repeat(1000));
        assert!(matches!(up_to(3999, LEAKS), Err(UnpackError::TooLarge)));
        let cut = &LEAKS[..LEAKS.len() - 20];
        assert!(matches!(up_to(4000, cut), Err(UnpackError::Broken(_))));
        assert!(unpack(b"").is_err());
    }

    /// A few KiB may be 64 MiB, and a process may map thousands of such files.
    #[test]
    fn what_is_unpacked_comes_out_of_the_budget_not_only_what_is_packed() {
        let streams = LEAKS.repeat(64);
        assert_eq!(unpack(&streams).unwrap().len(), 64 * 4000);
        let enough = Budget::of(UNPACKING * (streams.len() as u64 + 4 * CHUNK));
        assert_eq!(unpack_within(&streams, &enough).unwrap().len(), 64 * 4000);
        assert!(matches!(unpack_within(LEAKS, &enough), Err(UnpackError::OverBudget)));
        let too_little = Budget::of(UNPACKING * (streams.len() as u64 + 3 * CHUNK));
        assert!(matches!(unpack_within(&streams, &too_little), Err(UnpackError::OverBudget)));
    }
}
