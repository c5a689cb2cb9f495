//! The entries of a section of unwind data: which pieces of code it describes, and the rows of
//! each. An entry that makes no sense is left out, and counted.

use std::collections::HashMap;

use gimli::{BaseAddresses, CommonInformationEntry, FrameDescriptionEntry, UnwindSection};
use leaktrace_ebpf::unwind::{Kind, Rule};

use super::machine::{Bad, Machine, State};
use super::rows::Rows;
use super::spans::{Source, Span};
use super::{Bytes, UnwindError};

/// The most pieces of code of a section: fifteen times libLLVM's.
const MOST_FUNCTIONS: usize = 2 << 20;
/// The most CIEs of a section: a large program has one for each of its source files.
const MOST_CIES: usize = 1 << 18;

/// What a function's entry is based on, and the state behind its instructions.
type Cie<'a> = (CommonInformationEntry<Bytes<'a>>, State);

/// A section of unwind data.
pub(super) struct Frames<'a, S> {
    section: &'a S,
    bases: &'a BaseAddresses,
    cies: HashMap<usize, Cie<'a>>,
    /// How many entries were left out.
    pub(super) skipped: u64,
    /// How many bytes of instructions may still be run: what covers a function in part has it run
    /// for each of the parts.
    left: usize,
}

impl<'a, S: UnwindSection<Bytes<'a>>> Frames<'a, S> {
    /// Goes through the entries; the pieces of code that they describe are in the order in which
    /// the file has them.
    ///
    /// # Errors
    ///
    /// [`UnwindError::OverBudget`] when they are too many.
    pub(super) fn read(
        section: &'a S,
        bases: &'a BaseAddresses,
        bytes: &[u8],
        layout: Layout,
    ) -> Result<(Self, Vec<Span>), UnwindError> {
        let mut this =
            Self { section, bases, cies: HashMap::new(), skipped: 0, left: bytes.len() * 2 };
        let mut spans = Vec::new();
        let mut at = 0;
        while let Some((entry, next)) = entry_at(bytes, at, layout) {
            match entry {
                // Where it makes no sense, the functions that need it are counted.
                Entry::Cie => _ = this.read_cie(at).map(|cie| this.cies.insert(at, cie)),
                Entry::Fde => match this.fde(at) {
                    Ok(fde) => {
                        if spans.len() >= MOST_FUNCTIONS {
                            return Err(UnwindError::OverBudget);
                        }
                        let start = fde.initial_address();
                        let source = (layout.source)(at as u32);
                        spans.push(Span { start, end: start.saturating_add(fde.len()), source });
                    }
                    Err(Bad) => this.skipped += 1,
                },
                Entry::Empty => {}
            }
            at = next;
        }
        Ok((this, spans))
    }

    fn read_cie(&self, offset: usize) -> Result<Cie<'a>, Bad> {
        let cie = self.section.cie_from_offset(self.bases, offset.into())?;
        if cie.address_size() != 8 || self.cies.len() >= MOST_CIES {
            return Err(Bad);
        }
        let mut machine = Machine::of_cie(self.section, factors(&cie));
        let mut instructions = cie.instructions(self.section, self.bases);
        while let Some(instruction) = instructions.next()? {
            machine.step(instruction)?;
        }
        let state = machine.state;
        Ok((cie, state))
    }

    fn fde(&self, offset: usize) -> Result<FrameDescriptionEntry<Bytes<'a>>, Bad> {
        let fde = self.section.fde_from_offset(self.bases, offset.into(), |_, _, cie| {
            let cie = gimli::UnwindOffset::into(cie);
            let known =
                self.cies.get(&cie).ok_or(gimli::Error::NoEntryAtGivenOffset(cie as u64))?;
            Ok(known.0.clone())
        })?;
        Ok(fde)
    }

    /// Writes the rows of the function at this offset of the section, as far as they lie in `span`.
    ///
    /// # Errors
    ///
    /// [`UnwindError::OverBudget`] when there are too many rows.
    pub(super) fn write(
        &mut self,
        offset: u32,
        span: Span,
        rows: &mut Rows,
    ) -> Result<(), UnwindError> {
        let mut from = span.start;
        let Ok(fde) = self.fde(offset as usize) else { return Ok(()) };
        let cie = self.cies.get(&fde.cie().offset());
        let left = self.left.checked_sub(fde.entry_len());
        let (Some((cie, initial)), Some(left)) = (cie, left) else {
            self.skipped += 1;
            return rows.put(from, Rule::of(Kind::Unsupported));
        };
        self.left = left;
        let is_signal = cie.is_signal_trampoline();
        let mut machine =
            Machine::of_function(self.section, factors(cie), *initial, fde.initial_address());
        let mut instructions = fde.instructions(self.section, self.bases);
        loop {
            let before = machine.state;
            let step = match instructions.next() {
                Ok(Some(instruction)) => machine.step(instruction),
                Ok(None) => break,
                Err(_) => Err(Bad),
            };
            if step.is_err() {
                // What was said up to here holds.
                self.skipped += 1;
                return rows.put(from, Rule::of(Kind::Unsupported));
            }
            let location = machine.location.min(span.end);
            if location > from {
                rows.put(from, before.rule(is_signal))?;
                from = location;
            }
            if location == span.end {
                return Ok(());
            }
        }
        rows.put(from, machine.state.rule(is_signal))
    }
}

fn factors(cie: &CommonInformationEntry<Bytes<'_>>) -> (u64, i64) {
    (cie.code_alignment_factor(), cie.data_alignment_factor())
}

/// What `.eh_frame` and `.debug_frame` do differently.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// How a span says where its entry is.
    pub(super) source: fn(u32) -> Source,
    /// Whether the identifier of a CIE is 0; else it is the largest.
    pub(super) zero_is_cie: bool,
    /// Whether an empty entry is the last.
    pub(super) empty_is_last: bool,
}

enum Entry {
    Cie,
    Fde,
    Empty,
}

/// The entry at an offset, and where the next one is. `None` behind the last.
fn entry_at(bytes: &[u8], at: usize, layout: Layout) -> Option<(Entry, usize)> {
    const IS_64_BIT: u32 = u32::MAX;
    const RESERVED: u32 = 0xffff_fff0;
    let rest = bytes.get(at..)?;
    let (&length, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(length);
    if length == 0 {
        return (!layout.empty_is_last).then_some((Entry::Empty, at + 4));
    }
    let (length, rest, head) = if length == IS_64_BIT {
        let (&length, rest) = rest.split_first_chunk()?;
        (usize::try_from(u64::from_le_bytes(length)).ok()?, rest, 12)
    } else if length < RESERVED {
        (length as usize, rest, 4)
    } else {
        return None;
    };
    let content = rest.get(..length)?;
    let next = at + head + length;
    // Of the 64-bit form, `.debug_frame` has longer identifiers.
    let is_cie = if layout.zero_is_cie {
        content.starts_with(&[0; 4])
    } else {
        content.starts_with(if head == 4 { &[0xff; 4] } else { &[0xff; 8] })
    };
    Some((if is_cie { Entry::Cie } else { Entry::Fde }, next))
}
