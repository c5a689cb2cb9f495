//! Following instructions through the functions of a file: what leads where, and with which frame.

use std::collections::HashMap;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
};

use super::frame::{Frame, Lost};
use super::{Derived, Piece, piece_at};

/// The most instructions of a file that are followed: five times musl's.
const MOST_INSTRUCTIONS: usize = 1 << 19;
/// How often a byte may be followed, on average: again when less of it is known than was
/// thought, or when the function it was followed for turned out not to be understood.
const MOST_VISITS: usize = 2;
/// Functions and loops begin at multiples of this, with padding before.
const ALIGNMENT: u64 = 16;
/// More padding than this is none, in instructions.
const MOST_PADDING: usize = 64;

/// A function.
struct Function {
    /// Where its symbol says that it ends; its start where there is none.
    end: u64,
    /// Whether it does what is not followed here.
    is_lost: bool,
    /// The frame at its jumps through tables.
    at_tables: Table,
}

/// The frame at the indirect jumps of a function.
#[derive(Clone, Copy)]
enum Table {
    /// It has none.
    None,
    /// They all have this one.
    One(Frame),
    /// They have several.
    Many,
}

/// An instruction that was followed.
struct Step {
    /// The frame before it.
    frame: Frame,
    size: u8,
    function: usize,
}

pub(super) struct Walk<'a> {
    pieces: &'a [Piece],
    functions: Vec<Function>,
    entries: HashMap<u64, usize>,
    steps: HashMap<u64, Step>,
    /// What is to be followed: address, frame and function. What lies behind calls comes last, for
    /// a call may never return.
    next: Vec<(u64, Frame, usize)>,
    behind_calls: Vec<(u64, Frame, usize)>,
    pointed_to: Vec<u64>,
    visits_left: usize,
    factory: InstructionInfoFactory,
}

impl<'a> Walk<'a> {
    pub(super) fn new(pieces: &'a [Piece]) -> Self {
        let bytes = pieces.iter().map(|piece| piece.code.len()).fold(0, usize::saturating_add);
        Self {
            pieces,
            functions: Vec::new(),
            entries: HashMap::new(),
            steps: HashMap::new(),
            next: Vec::new(),
            behind_calls: Vec::new(),
            pointed_to: Vec::new(),
            visits_left: MOST_VISITS * bytes.min(MOST_INSTRUCTIONS),
            factory: InstructionInfoFactory::new(),
        }
    }

    /// A function begins here, if there is code.
    pub(super) fn enter(&mut self, address: u64, end: u64) {
        let code = piece_at(self.pieces, address).and_then(|piece| piece.from(address));
        if code.is_some() && !self.entries.contains_key(&address) {
            let function = self.functions.len();
            self.functions.push(Function { end, is_lost: false, at_tables: Table::None });
            self.entries.insert(address, function);
            self.next.push((address, Frame::ENTRY, function));
        }
    }

    /// Follows functions that are only pointed to.
    pub(super) fn follow_pointers(&mut self) {
        for address in std::mem::take(&mut self.pointed_to) {
            if !self.steps.contains_key(&address) {
                self.enter(address, address);
                self.run();
            }
        }
    }

    pub(super) fn run(&mut self) {
        loop {
            if let Some((address, frame, function)) = self.next.pop() {
                if self.follow(address, frame, function) == Err(Lost) {
                    self.lose(function);
                }
            } else if let Some((address, frame, function)) = self.behind_calls.pop() {
                // Where padding follows, the call hardly returns; what comes then is another
                // function, or a loop that something else leads to as well.
                let at = self.behind_padding(address);
                let is_end = at != address && at.is_multiple_of(ALIGNMENT);
                if !is_end && !self.steps.contains_key(&at) {
                    self.next.push((at, frame, function));
                }
            } else {
                return;
            }
        }
    }

    /// The first address from here on that is no padding.
    fn behind_padding(&self, mut address: u64) -> u64 {
        for _ in 0..MOST_PADDING {
            match self.decode(address).map(|i| (i.mnemonic(), i.next_ip())) {
                Some((Mnemonic::Nop | Mnemonic::Int3, next)) => address = next,
                _ => break,
            }
        }
        address
    }

    /// The instruction at an address, which may be an invalid one; `None` outside of the pieces.
    fn decode(&self, address: u64) -> Option<Instruction> {
        let code = piece_at(self.pieces, address)?.from(address)?;
        Some(Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode())
    }

    fn lose(&mut self, function: usize) {
        if let Some(function) = self.functions.get_mut(function) {
            function.is_lost = true;
        }
    }

    fn is_lost(&self, function: usize) -> bool {
        self.functions.get(function).is_none_or(|function| function.is_lost)
    }

    /// Follows the straight line from here on.
    fn follow(&mut self, mut address: u64, mut frame: Frame, function: usize) -> Result<(), Lost> {
        while !self.is_lost(function) {
            let step = self.steps.get(&address);
            // A function that is lost knows nothing.
            if let Some(step) = step.filter(|step| !self.is_lost(step.function)) {
                let Some(met) = step.frame.meet(frame) else {
                    let other = step.function;
                    self.lose(other);
                    return Err(Lost);
                };
                if met == step.frame {
                    return Ok(());
                }
                frame = met;
            }
            if self.steps.len() >= MOST_INSTRUCTIONS || self.visits_left == 0 {
                return Err(Lost);
            }
            self.visits_left -= 1;
            let Some(instruction) = self.decode(address) else { return Ok(()) };
            if instruction.is_invalid() {
                return Err(Lost);
            }
            let size = instruction.len() as u8;
            self.steps.insert(address, Step { frame, size, function });
            let after = frame.after(&instruction, &mut self.factory)?;
            if !self.flow(&instruction, after, function)? {
                return Ok(());
            }
            (address, frame) = (instruction.next_ip(), after);
            // Not the same function any more: what was before does not come here.
            if self.entries.contains_key(&address) && frame != Frame::ENTRY {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Notes where else the instruction leads; whether it goes on right behind it.
    fn flow(
        &mut self,
        instruction: &Instruction,
        after: Frame,
        function: usize,
    ) -> Result<bool, Lost> {
        match instruction.flow_control() {
            FlowControl::Next => {
                if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand()
                {
                    self.point_to(instruction.ip_rel_memory_address());
                }
                Ok(instruction.mnemonic() != Mnemonic::Hlt)
            }
            FlowControl::ConditionalBranch => {
                self.jump(instruction.near_branch_target(), after, function)?;
                Ok(true)
            }
            FlowControl::UnconditionalBranch => {
                self.jump(instruction.near_branch_target(), after, function)?;
                Ok(false)
            }
            FlowControl::IndirectBranch => {
                if let Some(function) = self.functions.get_mut(function) {
                    function.at_tables = match function.at_tables {
                        // A call of another function in place of a return.
                        table if after == Frame::ENTRY && !matches!(table, Table::None) => table,
                        Table::One(frame) if frame != after && frame != Frame::ENTRY => Table::Many,
                        Table::Many => Table::Many,
                        Table::None | Table::One(_) => Table::One(after),
                    };
                }
                Ok(false)
            }
            FlowControl::Return if after == Frame::ENTRY => Ok(false),
            FlowControl::Call | FlowControl::IndirectCall => {
                let behind = instruction.next_ip();
                if !self.entries.contains_key(&behind) {
                    self.behind_calls.push((behind, after, function));
                }
                Ok(false)
            }
            FlowControl::Interrupt | FlowControl::Exception => Ok(false),
            FlowControl::Return | FlowControl::XbeginXabortXend => Err(Lost),
        }
    }

    fn jump(&mut self, target: u64, frame: Frame, function: usize) -> Result<(), Lost> {
        if self.entries.contains_key(&target) && frame != Frame::ENTRY {
            return Err(Lost);
        }
        self.next.push((target, frame, function));
        Ok(())
    }

    fn point_to(&mut self, address: u64) {
        let is_code = piece_at(self.pieces, address).and_then(|p| p.from(address)).is_some();
        if is_code && self.pointed_to.len() < MOST_INSTRUCTIONS {
            self.pointed_to.push(address);
        }
    }

    /// Follows what is only reached through a table of jumps: code amid a function that nothing
    /// else leads to. The frame there is that of the jump.
    pub(super) fn follow_tables(&mut self) {
        let mut known: Vec<(u64, u64, usize)> = self
            .steps
            .iter()
            .map(|(&address, step)| {
                (address, address.saturating_add(step.size.into()), step.function)
            })
            .collect();
        known.sort_unstable();
        let behind = known.iter().skip(1).map(|&(start, _, function)| (start, Some(function)));
        let behind = behind.chain([(u64::MAX, None)]);
        for (&(_, end, function), (next, next_function)) in known.iter().zip(behind) {
            let Some(of) = self.functions.get(function).filter(|f| !f.is_lost) else { continue };
            let hole_end = if next_function == Some(function) { next } else { next.min(of.end) };
            let Table::One(frame) = of.at_tables else { continue };
            self.follow_hole(end, hole_end, frame, function);
        }
    }

    fn follow_hole(&mut self, mut at: u64, end: u64, frame: Frame, function: usize) {
        while at < end {
            if let Some(step) = self.steps.get(&at) {
                at = at.saturating_add(step.size.into());
                continue;
            }
            at = self.behind_padding(at);
            if at < end && !self.steps.contains_key(&at) {
                self.next.push((at, frame, function));
                self.run();
                if !self.steps.contains_key(&at) {
                    return;
                }
            }
        }
    }

    pub(super) fn into_rules(self) -> Vec<Derived> {
        let lost: Vec<bool> = self.functions.iter().map(|function| function.is_lost).collect();
        let known = self.steps.into_iter().filter(|(_, s)| lost.get(s.function) == Some(&false));
        let mut all: Vec<Derived> = known
            .map(|(start, step)| Derived {
                start,
                end: start.saturating_add(step.size.into()),
                rule: step.frame.rule(),
            })
            .collect();
        all.sort_unstable_by_key(|derived| derived.start);
        all.dedup_by(|later, earlier| {
            let goes_on = later.start == earlier.end && later.rule == earlier.rule;
            if goes_on {
                earlier.end = later.end;
            }
            goes_on
        });
        all
    }
}
