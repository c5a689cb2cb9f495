//! What an instruction of x86-64 does to a function's frame: how deep the stack is, and where the
//! caller's frame pointer is.

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
    UsedRegister,
};
use leaktrace_ebpf::unwind::{Kind, Rule};

/// The frame at a place in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// CFA less stack pointer, in bytes, if it is known.
    pub(super) depth: Option<i32>,
    /// CFA less frame pointer, in bytes, where that points into the frame.
    pub(super) pointer: Option<i32>,
    /// Where the caller's frame pointer is saved: CFA + this; 0 when it is in its register.
    pub(super) saved: i32,
}

/// The instructions do something to the frame that is not followed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

impl Frame {
    /// Right after the call: nothing but the return address.
    pub(super) const ENTRY: Self = Self { depth: Some(8), pointer: None, saved: 0 };

    /// The rule for the caller.
    pub(super) fn rule(self) -> Rule {
        let (kind, offset) = match (self.depth, self.pointer) {
            (Some(depth), _) => (Kind::Sp, depth),
            (None, Some(pointer)) => (Kind::Fp, pointer),
            (None, None) => return Rule::of(Kind::Unsupported),
        };
        Rule::new(kind, offset.into(), self.saved.into()).unwrap_or(Rule::of(Kind::Unsupported))
    }

    /// What holds of both, if they agree on what is needed.
    pub(super) fn meet(self, other: Self) -> Option<Self> {
        let pointer = self.pointer.filter(|_| self.pointer == other.pointer);
        let depth = self.depth.filter(|_| self.depth == other.depth);
        let is_known = depth.is_some() || pointer.is_some();
        (self.saved == other.saved && is_known).then_some(Self { depth, pointer, ..self })
    }

    /// The frame behind an instruction. Behind a call or a jump it is as before.
    ///
    /// # Errors
    ///
    /// [`Lost`] when it is not known.
    pub(super) fn after(
        mut self,
        instruction: &Instruction,
        factory: &mut InstructionInfoFactory,
    ) -> Result<Self, Lost> {
        if instruction.flow_control() != FlowControl::Next {
            return Ok(self);
        }
        let size = instruction.stack_pointer_increment();
        match instruction.mnemonic() {
            Mnemonic::Push | Mnemonic::Pushfq => {
                self.grow(size.checked_neg().ok_or(Lost)?)?;
                if is_register(instruction, 0, Register::RBP) && self.saved == 0 {
                    self.saved = -self.depth.ok_or(Lost)?;
                }
            }
            Mnemonic::Pop | Mnemonic::Popfq => {
                if is_register(instruction, 0, Register::RBP) {
                    self.load_pointer(self.depth.map(|depth| -depth))?;
                } else if instruction.op0_register().full_register() == Register::RSP {
                    return Err(Lost);
                }
                self.grow(size.checked_neg().ok_or(Lost)?)?;
            }
            Mnemonic::Leave => {
                self.depth = Some(self.pointer.ok_or(Lost)?);
                self.load_pointer(self.depth.map(|depth| -depth))?;
                self.grow(-8)?;
            }
            Mnemonic::Sub | Mnemonic::Add if is_register(instruction, 0, Register::RSP) => {
                match immediate(instruction) {
                    Some(bytes) if instruction.mnemonic() == Mnemonic::Sub => self.grow(bytes)?,
                    Some(bytes) => self.grow(bytes.checked_neg().ok_or(Lost)?)?,
                    None => self.forget_depth()?,
                }
            }
            Mnemonic::Mov
                if is_register(instruction, 0, Register::RBP)
                    && is_register(instruction, 1, Register::RSP) =>
            {
                self.set_pointer(self.depth)?;
            }
            Mnemonic::Mov
                if is_register(instruction, 0, Register::RSP)
                    && is_register(instruction, 1, Register::RBP) =>
            {
                self.depth = Some(self.pointer.ok_or(Lost)?);
            }
            Mnemonic::Mov if is_register(instruction, 0, Register::RBP) => {
                self.load_pointer(self.slot(instruction))?;
            }
            Mnemonic::Mov if is_register(instruction, 1, Register::RBP) && self.saved == 0 => {
                if let Some(slot) = self.slot(instruction).filter(|&slot| slot < -8) {
                    self.saved = slot;
                }
            }
            Mnemonic::Lea if is_register(instruction, 0, Register::RSP) => {
                match self.slot(instruction) {
                    Some(slot) => self.depth = Some(-slot),
                    None => self.forget_depth()?,
                }
            }
            Mnemonic::Lea if is_register(instruction, 0, Register::RBP) => {
                self.set_pointer(self.slot(instruction).map(|slot| -slot))?;
            }
            _ => {
                for used in factory.info(instruction).used_registers() {
                    match used.register().full_register() {
                        Register::RSP if is_written(used) => self.forget_depth()?,
                        Register::RBP if is_written(used) => self.set_pointer(None)?,
                        _ => {}
                    }
                }
            }
        }
        // The return address is not the function's own.
        if self.depth.is_some_and(|depth| depth < 8) { Err(Lost) } else { Ok(self) }
    }

    fn grow(&mut self, bytes: i32) -> Result<(), Lost> {
        if let Some(depth) = &mut self.depth {
            *depth = depth.checked_add(bytes).ok_or(Lost)?;
        }
        Ok(())
    }

    fn forget_depth(&mut self) -> Result<(), Lost> {
        self.depth = None;
        self.pointer.map(|_| ()).ok_or(Lost)
    }

    /// The frame pointer gets another value, of which this is known.
    fn set_pointer(&mut self, pointer: Option<i32>) -> Result<(), Lost> {
        self.pointer = pointer;
        let is_known = self.depth.is_some() || self.pointer.is_some();
        if self.saved != 0 && is_known { Ok(()) } else { Err(Lost) }
    }

    /// The frame pointer gets what is saved at CFA + `slot`.
    fn load_pointer(&mut self, slot: Option<i32>) -> Result<(), Lost> {
        self.set_pointer(None)?;
        if slot == Some(self.saved) {
            self.saved = 0;
        }
        Ok(())
    }

    /// The place in the frame, from the CFA, that the instruction's memory operand is.
    fn slot(&self, instruction: &Instruction) -> Option<i32> {
        let is_plain = instruction.memory_index() == Register::None
            && instruction.segment_prefix() == Register::None
            && (0..2).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        let below = match instruction.memory_base() {
            Register::RSP => self.depth?,
            Register::RBP => self.pointer?,
            _ => return None,
        };
        let displacement = i32::try_from(instruction.memory_displacement64() as i64).ok()?;
        displacement.checked_sub(below).filter(|_| is_plain)
    }
}

fn is_register(instruction: &Instruction, operand: u32, register: Register) -> bool {
    operand < instruction.op_count()
        && instruction.op_kind(operand) == OpKind::Register
        && instruction.op_register(operand) == register
}

fn immediate(instruction: &Instruction) -> Option<i32> {
    let is_immediate = matches!(
        instruction.op_kind(1),
        OpKind::Immediate8to64 | OpKind::Immediate32to64 | OpKind::Immediate64
    );
    is_immediate.then(|| i32::try_from(instruction.immediate(1) as i64).ok()).flatten()
}

fn is_written(used: &UsedRegister) -> bool {
    !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
}
