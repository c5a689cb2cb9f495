//! The address space of a process under trace: what is mapped in it, looked at again when there is
//! a reason, and told to the kernel half.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::unwinding::Unwinding;
use crate::collect::KernelMaps;
use crate::collect::unwind_tables::MappingsChunk;
use crate::model::{Ending, Slot, StackFrames};
use crate::target::Image;

/// An address space.
pub struct AddressSpace {
    /// What is mapped, as of the last look.
    pub image: Image,
    /// There is a reason to look again.
    stale: bool,
    looked: Instant,
    look_took: Duration,
    /// The kernel half has not been told of all that is mapped.
    untold: bool,
    chunk: Option<MappingsChunk>,
    generation: u32,
}

static GENERATIONS: AtomicU32 = AtomicU32::new(0);

/// How often the mappings are read because of a stack that leads out of them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// The same, where reading them takes long: one part in so many of leaktrace's time.
const LOOK_SHARE: u32 = 20;

impl AddressSpace {
    /// A new one; its unwind tables are asked for.
    pub fn new(image: Image, unwinding: &mut Unwinding) -> Self {
        unwinding.request(&image);
        Self {
            image,
            stale: false,
            looked: Instant::now(),
            look_took: Duration::ZERO,
            untold: true,
            chunk: None,
            // Slots are given out again: what was remembered of an earlier one is void.
            generation: GENERATIONS.fetch_add(1 << 12, Ordering::Relaxed),
        }
    }

    /// The same, told of in a chunk that another has left.
    pub fn in_chunk(image: Image, unwinding: &mut Unwinding, chunk: Option<MappingsChunk>) -> Self {
        Self { chunk, ..Self::new(image, unwinding) }
    }

    /// Leaves the chunk that it was told of in.
    pub fn take_chunk(&mut self) -> Option<MappingsChunk> {
        self.chunk.take()
    }

    /// A process has replaced its address space by this one.
    pub fn replace(&mut self, image: Image, unwinding: &mut Unwinding) {
        let (chunk, generation) = (self.chunk, self.generation);
        *self = Self { chunk, generation, ..Self::new(image, unwinding) };
    }

    /// Takes note of libraries that were loaded or unloaded.
    pub fn libraries_changed(&mut self) {
        // A file may be another now, at the same place.
        (self.stale, self.untold) = (true, true);
    }

    /// Takes note of a stack: code that is not known has to be looked at.
    pub fn notice(&mut self, stack: &StackFrames) {
        if let (Ending::Unmapped, Some(last)) = (stack.ending, stack.frames.last()) {
            let known = self.image.locate(last.instruction());
            self.stale |= known.is_none_or(|located| !located.mapping.executable);
        }
    }

    /// Looks again if a stack asked for it, but not too often: a stack that leads into no code at
    /// all asks as well.
    pub fn look_if_stale(&mut self) {
        if self.stale && self.looked.elapsed() >= BETWEEN_LOOKS.max(self.look_took * LOOK_SHARE) {
            self.look();
        }
    }

    /// Looks again.
    pub fn look(&mut self) {
        self.stale = false;
        self.looked = Instant::now();
        match self.image.refresh() {
            Ok(changed) => self.untold |= changed,
            Err(error) => {
                log::info!("process {}: {:#}", self.image.pid, anyhow::Error::from(error));
            }
        }
        self.look_took = self.looked.elapsed();
    }

    /// Tells the kernel half of what is mapped since, but for what has no unwind table yet; waits for
    /// those if `wait`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn tell(
        &mut self,
        slot: Slot,
        unwinding: &mut Unwinding,
        maps: &mut KernelMaps,
        wait: bool,
    ) -> Result<()> {
        if !self.untold {
            return Ok(());
        }
        unwinding.request(&self.image);
        if wait {
            unwinding.wait_for(&self.image);
            unwinding.take_built();
        }
        let chunk = unwinding.map(self.chunk, &self.image)?;
        self.chunk = Some(chunk);
        self.generation += 1;
        self.untold = false;
        maps.set_mappings(slot, chunk, self.generation)
    }

    /// Has the kernel half told again: there are more tables.
    pub fn retell(&mut self) {
        self.untold = true;
    }
}
