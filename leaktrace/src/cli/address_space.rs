//! The address space of a process under trace: what is mapped in it, looked at again when there is
//! a reason, and told to the kernel half.

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
    /// Libraries have come or gone: the sooner that is looked at, the less of what they do is missed.
    urgent: bool,
    /// How long urgent looks took in the second that began then.
    hurry: (Instant, Duration),
    looked: Instant,
    look_took: Duration,
    /// Code was mapped or has gone since that was asked for last.
    has_news: bool,
    /// The kernel half has not been told of all that is mapped.
    untold: bool,
    chunk: Option<MappingsChunk>,
}

/// How often the mappings are read because of a stack that leads out of them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// The same, where reading them takes long: one part in so many of leaktrace's time.
const LOOK_SHARE: u32 = 20;
/// Looks at once because of libraries take at most so long in a second.
const MOST_HURRY: Duration = Duration::from_millis(50);

impl AddressSpace {
    /// A new one; its unwind tables are asked for.
    pub fn new(image: Image, unwinding: &mut Unwinding) -> Self {
        unwinding.request(&image);
        Self {
            image,
            stale: false,
            urgent: false,
            hurry: (Instant::now(), Duration::ZERO),
            looked: Instant::now(),
            look_took: Duration::ZERO,
            has_news: false,
            untold: true,
            chunk: None,
        }
    }

    /// Leaves the chunk that it was told of in.
    pub fn take_chunk(&mut self) -> Option<MappingsChunk> {
        self.chunk.take()
    }

    /// A process has replaced its address space by this one.
    pub fn replace(&mut self, image: Image, unwinding: &mut Unwinding) {
        let chunk = self.chunk;
        *self = Self { chunk, ..Self::new(image, unwinding) };
    }

    /// Takes note of libraries that were loaded or unloaded.
    pub fn libraries_changed(&mut self) {
        // A file may be another now, at the same place.
        (self.stale, self.urgent, self.untold) = (true, true, true);
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
        if !self.stale {
            return;
        }
        if self.hurry.0.elapsed() >= Duration::from_secs(1) {
            self.hurry = (Instant::now(), Duration::ZERO);
        }
        let in_haste = self.urgent && self.hurry.1 < MOST_HURRY;
        if in_haste || self.looked.elapsed() >= BETWEEN_LOOKS.max(self.look_took * LOOK_SHARE) {
            self.look();
            self.hurry.1 += self.look_took;
        }
    }

    /// Whether code was mapped or has gone since the last call.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Looks again.
    pub fn look(&mut self) {
        (self.stale, self.urgent) = (false, false);
        self.looked = Instant::now();
        match self.image.refresh() {
            Ok(changed) => {
                self.untold |= changed;
                self.has_news |= changed;
            }
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
        self.untold = false;
        // A slot may have been another's before: its generations are none of this one's.
        maps.set_mappings(slot, chunk, unwinding.new_generation())
    }

    /// Gives back what only it needed.
    pub fn retire(self, unwinding: &mut Unwinding) {
        unwinding.give_back(self.chunk);
    }

    /// Has the kernel half told again: there are more tables.
    pub fn retell(&mut self) {
        self.untold = true;
    }
}
