//! Which mapping each part of an address space belongs to.

use std::collections::BTreeMap;
use std::ops::Range;

/// A part of a mapping: the addresses, and the mapping's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) range: Range<u64>,
    pub(super) mapping: u64,
}

/// Pieces that don't overlap.
#[derive(Clone, Debug, Default)]
pub(super) struct MappedRanges {
    /// By the first address: the first behind it, and the mapping.
    pieces: BTreeMap<u64, (u64, u64)>,
}

impl MappedRanges {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Puts a piece where nothing is.
    pub(super) fn insert(&mut self, piece: Piece) {
        self.pieces.insert(piece.range.start, (piece.range.end, piece.mapping));
    }

    /// Takes out what lies in a range; what reaches beyond it is cut.
    pub(super) fn take(&mut self, range: &Range<u64>) -> Vec<Piece> {
        let mut taken = Vec::new();
        if range.is_empty() {
            return taken;
        }
        let before = self.pieces.range_mut(..range.start).next_back();
        if let Some((_, (end, mapping))) = before
            && *end > range.start
        {
            let (old_end, mapping) = (std::mem::replace(end, range.start), *mapping);
            taken.push(Piece { range: range.start..old_end.min(range.end), mapping });
            if old_end > range.end {
                self.pieces.insert(range.end, (old_end, mapping));
            }
        }
        let inside: Vec<u64> = self.pieces.range(range.clone()).map(|(start, _)| *start).collect();
        for start in inside {
            let Some((end, mapping)) = self.pieces.remove(&start) else { continue };
            taken.push(Piece { range: start..end.min(range.end), mapping });
            if end > range.end {
                self.pieces.insert(range.end, (end, mapping));
            }
        }
        taken
    }

    /// Whether anything lies in a range.
    pub(super) fn any_in(&self, range: &Range<u64>) -> bool {
        let last = self.pieces.range(..range.end).next_back();
        last.is_some_and(|(_, (end, _))| *end > range.start)
    }

    /// The parts of a range that nothing lies in.
    pub(super) fn gaps(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let before = self.pieces.range(..range.start).next_back();
        if let Some((_, (end, _))) = before {
            at = at.max(*end);
        }
        for (start, (end, _)) in self.pieces.range(range.clone()) {
            if *start > at {
                gaps.push(at..*start);
            }
            at = at.max(*end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }
}
