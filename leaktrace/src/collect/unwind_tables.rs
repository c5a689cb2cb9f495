//! Unwind tables on their way into the kernel half, in the layout of [`leaktrace_ebpf::unwind`].

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::Map;
use leaktrace_ebpf::records::MAX_TARGETS;
use leaktrace_ebpf::unwind::{
    CHUNK_WORDS, MAPPING_WORDS, MAX_CHUNKS, MAX_MAPPINGS, NO_MAPPING, SILENT_FILE, Words,
};

use super::chunk_map::{self, Chunk, ChunkMap};
use crate::model::{Addr, UnwindTable};

/// The kernel half's unwind tables. They only grow.
pub struct UnwindTables {
    /// The array of chunks.
    outer: OwnedFd,
    /// The chunk that is being filled, and how many of its words are.
    filling: Option<Filling>,
    /// Chunks that are not in the array yet.
    unpublished: Vec<(u32, ChunkMap)>,
    next_chunk: u32,
}

struct Filling {
    number: u32,
    map: ChunkMap,
    words: Box<Chunk>,
    used: usize,
    is_published: bool,
}

/// Where a table is.
#[derive(Clone, Copy, Debug)]
pub struct Placed(Words);

/// Executable memory of an address space.
#[derive(Clone, Copy, Debug)]
pub struct CodeMapping {
    /// Where it starts.
    pub start: Addr,
    /// Where it ends.
    pub end: Addr,
    /// How its frames are unwound.
    pub unwound: Unwound,
}

/// How the frames of a mapping are unwound.
#[derive(Clone, Copy, Debug)]
pub enum Unwound {
    /// By this table, whose page 0 would lie at this address.
    By(Placed, u64),
    /// By frame pointers: generated code, of which nothing else is known.
    ByFramePointers,
    /// By frame pointers, though the file does not say that it keeps any.
    ByFramePointersIfAny,
}

/// The chunk that holds the mappings of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingsChunk(pub(super) u32);

/// Each chunk holds a descriptor until it is published.
const MOST_UNPUBLISHED: usize = 256;

/// There is no more room for tables.
#[derive(Debug, thiserror::Error)]
#[error("the unwind tables of all files take more than {} MiB", (MAX_CHUNKS - MAX_TARGETS) / 16)]
pub struct NoRoom;

impl UnwindTables {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    ///
    /// When the object lacks it, which a matching object does not.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let map = ebpf.take_map("TABLES").context("the BPF object lacks the map TABLES")?;
        let Map::ArrayOfMaps(data) = map else { anyhow::bail!("TABLES is no array of maps") };
        let outer = data.fd().as_fd().try_clone_to_owned().context("no more descriptors")?;
        Ok(Self { outer, filling: None, unpublished: Vec::new(), next_chunk: 0 })
    }

    /// Adds a table; the kernel half does not see it before [`UnwindTables::set_mappings`].
    ///
    /// # Errors
    ///
    /// [`NoRoom`], or what the kernel refuses; what was added of it stays unused.
    pub fn add(&mut self, table: &UnwindTable) -> Result<Placed> {
        let mut directory = Vec::new();
        for rows in table.pages() {
            let first = if rows.is_empty() { 0 } else { self.put_together(rows)? };
            directory.push(Words::new(first, rows.len() as u32).0);
        }
        let count = directory.len() as u32;
        if directory.len() > self.room()? {
            // From here on the chunks that it takes follow one another.
            self.begin_chunk()?;
        }
        let mut first = None;
        let mut rest = directory.as_slice();
        while !rest.is_empty() {
            let room = self.room()?;
            let (part, later) = rest.split_at(rest.len().min(room));
            let at = self.put_together(part)?;
            first.get_or_insert(at);
            rest = later;
        }
        Ok(Placed(Words::new(first.unwrap_or(0), count)))
    }

    /// Tells the mappings of an address space, whose tables are all published with them; `before` is the chunk that held them so far.
    /// Returns the chunk that holds them from now on, and how many found no room.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub fn set_mappings(
        &mut self,
        before: Option<MappingsChunk>,
        mappings: &[CodeMapping],
    ) -> Result<(MappingsChunk, usize)> {
        // What the kernel maps into its own half (`[vsyscall]`) calls nobody.
        let ours = |mapping: &&CodeMapping| mapping.start.0 < NO_MAPPING;
        let mut sorted: Vec<CodeMapping> = mappings.iter().filter(ours).copied().collect();
        sorted.sort_unstable_by_key(|mapping| mapping.start);
        let mut words = empty_chunk();
        words.chunks_exact_mut(MAPPING_WORDS).for_each(|m| m.fill(NO_MAPPING));
        for (place, mapping) in words.chunks_exact_mut(MAPPING_WORDS).zip(&sorted) {
            let (directory, base) = match mapping.unwound {
                Unwound::By(placed, base) => (placed.0, base),
                Unwound::ByFramePointers => (Words::NONE, 0),
                Unwound::ByFramePointersIfAny => (Words::NONE, SILENT_FILE),
            };
            place.copy_from_slice(&[mapping.start.0, mapping.end.0, base, directory.0]);
        }
        let number = match before {
            Some(chunk) => chunk.0,
            None => self.take_chunk(),
        };
        // A new map takes the place of the old one at once: no walk sees half of it.
        let map = new_chunk()?;
        map.write(&words).context("cannot write an unwind table")?;
        self.unpublished.push((number, map));
        self.publish()?;
        Ok((MappingsChunk(number), sorted.len().saturating_sub(MAX_MAPPINGS)))
    }

    /// Puts words into one chunk, one behind another; returns the first one's number.
    fn put_together(&mut self, words: &[u64]) -> Result<u32> {
        if self.filling.as_ref().is_none_or(|filling| CHUNK_WORDS - filling.used < words.len()) {
            self.begin_chunk()?;
        }
        let filling = self.filling.as_mut().context("no chunk")?;
        let place = filling
            .words
            .get_mut(filling.used..filling.used + words.len())
            .context("a page with more rows than bytes")?;
        place.copy_from_slice(words);
        let first = filling.number * CHUNK_WORDS as u32 + filling.used as u32;
        filling.used += words.len();
        Ok(first)
    }

    /// How many words the chunk being filled has room for: not 0.
    fn room(&mut self) -> Result<usize> {
        let room = |this: &Self| this.filling.as_ref().map_or(0, |f| CHUNK_WORDS - f.used);
        if room(self) == 0 {
            self.begin_chunk()?;
        }
        Ok(room(self))
    }

    fn begin_chunk(&mut self) -> Result<()> {
        self.write_filling()?;
        if let Some(full) = self.filling.take()
            && !full.is_published
        {
            self.unpublished.push((full.number, full.map));
        }
        if self.unpublished.len() >= MOST_UNPUBLISHED {
            self.publish()?;
        }
        // What is left is kept for the mappings of as many targets as there can be.
        if self.next_chunk + MAX_TARGETS >= MAX_CHUNKS {
            return Err(NoRoom.into());
        }
        let number = self.take_chunk();
        self.filling = Some(Filling {
            number,
            map: new_chunk()?,
            words: empty_chunk(),
            used: 0,
            is_published: false,
        });
        Ok(())
    }

    fn take_chunk(&mut self) -> u32 {
        let number = self.next_chunk;
        self.next_chunk += 1;
        number
    }

    /// Writes what was put into the chunk being filled. Words that are there already are written once
    /// more as they are.
    fn write_filling(&mut self) -> Result<()> {
        let Some(filling) = &self.filling else { return Ok(()) };
        filling.map.write(&filling.words).context("cannot write an unwind table")
    }

    /// Lets the kernel half see all that was added.
    fn publish(&mut self) -> Result<()> {
        self.write_filling()?;
        let mut chunks: Vec<(u32, &ChunkMap)> =
            self.unpublished.iter().map(|(number, map)| (*number, map)).collect();
        if let Some(filling) = self.filling.as_ref().filter(|filling| !filling.is_published) {
            chunks.push((filling.number, &filling.map));
        }
        chunk_map::put(self.outer.as_fd(), &chunks).context("cannot add to the unwind tables")?;
        self.unpublished.clear();
        if let Some(filling) = &mut self.filling {
            filling.is_published = true;
        }
        Ok(())
    }
}

fn empty_chunk() -> Box<Chunk> {
    Box::new([0; CHUNK_WORDS])
}

fn new_chunk() -> Result<ChunkMap> {
    ChunkMap::create().context("cannot make room for unwind tables")
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, FromRawFd};

    use proptest::prelude::*;

    use super::super::batch::syscall;
    use super::*;

    /// An array of maps like the kernel half's.
    fn tables() -> UnwindTables {
        const BPF_MAP_CREATE: libc::c_long = 0;
        const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
        let inner = ChunkMap::create().expect("the tests run as root");
        let mut attr =
            [BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, MAX_CHUNKS, 0, inner.as_fd().as_raw_fd() as u32];
        let fd = syscall(BPF_MAP_CREATE, &mut attr).unwrap();
        // SAFETY: a descriptor that the kernel has just given out.
        #[expect(unsafe_code, reason = "see above")]
        let outer = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        UnwindTables { outer, filling: None, unpublished: Vec::new(), next_chunk: 0 }
    }

    /// A table of so many pages, each with so many rows; no two rows of all tables are equal.
    fn table(number: u64, pages: u32, rows: u32) -> UnwindTable {
        UnwindTable {
            first_address: 0,
            page_starts: (0..=pages).map(|page| page * rows).collect(),
            rows: (0..u64::from(pages * rows)).map(|row| number << 40 | row).collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
        #[test]
        fn every_row_is_where_the_directory_says(
            steps in prop::collection::vec((0u32..3000, 0u32..30, any::<bool>()), 1..12)
        ) {
            let mut tables = tables();
            let mut placed = Vec::new();
            for (number, (pages, rows, target)) in steps.into_iter().enumerate() {
                let table = table(number as u64, pages, rows);
                placed.push((tables.add(&table).unwrap(), table));
                if target {
                    // Takes a chunk between those of the tables.
                    tables.set_mappings(None, &[]).unwrap();
                }
            }
            tables.publish().unwrap();
            let chunks: Vec<Option<Box<Chunk>>> =
                (0..tables.next_chunk).map(|number| chunk_map::get(tables.outer.as_fd(), number).ok()).collect();
            let word = |at: u64| chunks[at as usize / CHUNK_WORDS].as_ref().unwrap()[at as usize % CHUNK_WORDS];
            for (Placed(directory), table) in placed {
                prop_assert_eq!(directory.count(), table.pages().count() as u64);
                for (page, rows) in table.pages().enumerate() {
                    let at = Words(word(directory.first() + page as u64));
                    let found: Vec<u64> = (0..at.count()).map(|row| word(at.first() + row)).collect();
                    prop_assert_eq!(found, rows.to_vec());
                    let ends = [at.first(), at.first() + at.count().saturating_sub(1)];
                    prop_assert_eq!(ends[0] as usize / CHUNK_WORDS, ends[1] as usize / CHUNK_WORDS);
                }
            }
        }
    }
}
