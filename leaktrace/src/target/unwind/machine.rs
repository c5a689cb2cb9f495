//! What call frame instructions say of the values that matter: the CFA, the caller's frame pointer,
//! its rbx, and the return address. Takes time and memory in proportion to the instructions.

use gimli::{CallFrameInstruction, Register, UnwindExpression, UnwindSection};
use leaktrace_ebpf::unwind::{Kind, Rule};

use super::Bytes;
use super::expression::Expression;

/// DWARF's numbers of the registers of x86-64.
const BX: Register = Register(3);
const FP: Register = Register(6);
const SP: Register = Register(7);
const RETURN_ADDRESS: Register = Register(16);
/// Where the kernel saves the registers of an interrupted function, from the stack pointer of a
/// signal handler's return on (`struct rt_sigframe`, less the return address).
const SAVED_FP: i64 = 120;
const SAVED_SP: i64 = 160;
const SAVED_IP: i64 = 168;
/// How many states are remembered at once; compilers nest them one deep.
const MOST_REMEMBERED: usize = 16;

/// How the CFA is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cfa {
    Sum(Register, i64),
    Expression(Expression),
}

/// Where a value of the caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing was said.
    Unsaid,
    /// Nowhere: it is lost.
    Undefined,
    /// In its register.
    Same,
    /// In memory, at CFA + offset.
    AtCfa(i64),
    /// In memory, where the expression says.
    At(Expression),
    Elsewhere,
}

/// What is known at a place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    cfa: Cfa,
    fp: Place,
    bx: Place,
    return_address: Place,
}

impl State {
    /// Before any instruction.
    pub(super) const NONE: Self = Self {
        cfa: Cfa::Expression(Expression::Other),
        fp: Place::Unsaid,
        bx: Place::Unsaid,
        return_address: Place::Unsaid,
    };

    /// The rule for a caller; `is_signal` when the entry says that it is of a signal's frame.
    pub(super) fn rule(&self, is_signal: bool) -> Rule {
        let unsupported = Rule::of(Kind::Unsupported);
        if self.return_address == Place::Undefined {
            return Rule::of(Kind::End);
        }
        let of_signal = Self {
            cfa: Cfa::Expression(Expression::WordAt(SP.0, SAVED_SP, 0)),
            bx: self.bx,
            fp: Place::At(Expression::Sum(SP.0, SAVED_FP)),
            return_address: Place::At(Expression::Sum(SP.0, SAVED_IP)),
        };
        if *self == of_signal {
            return Rule::of(Kind::Signal);
        }
        if is_signal || self.return_address != Place::AtCfa(-8) {
            return unsupported;
        }
        let (kind, cfa) = match self.cfa {
            Cfa::Sum(SP, offset) => (Kind::Sp, offset),
            Cfa::Sum(FP, offset) => (Kind::Fp, offset),
            Cfa::Sum(BX, offset) => (Kind::Bx, offset),
            Cfa::Expression(Expression::WordAt(register, offset, _)) if register == SP.0 => {
                (Kind::SpDeref, offset)
            }
            Cfa::Expression(Expression::WordAt(register, offset, _)) if register == FP.0 => {
                (Kind::FpDeref, offset)
            }
            Cfa::Expression(Expression::Plt(threshold)) => (Kind::Plt, 8 * i64::from(threshold)),
            _ => return unsupported,
        };
        let fp = match (kind, self.fp) {
            (Kind::FpDeref, Place::At(Expression::Sum(register, offset))) if register == FP.0 => {
                offset
            }
            (Kind::FpDeref, _) => return unsupported,
            (_, Place::Unsaid | Place::Undefined | Place::Same) => 0,
            (Kind::Plt, _) | (_, Place::AtCfa(0)) => return unsupported,
            (_, Place::AtCfa(offset)) => offset,
            _ => return unsupported,
        };
        let third = match (self.cfa, self.bx) {
            (Cfa::Expression(Expression::WordAt(_, _, addend)), _) => i64::from(addend),
            (_, Place::AtCfa(offset)) => offset,
            // Too far off as well: the dynamic loader is who needs it, and it keeps it near.
            _ => 0,
        };
        let rule = Rule::new(kind, cfa, fp).unwrap_or(unsupported);
        rule.with_third(third).unwrap_or(rule)
    }
}

/// The instructions make no sense, or go too far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad;

impl From<gimli::Error> for Bad {
    fn from(_: gimli::Error) -> Self {
        Self
    }
}

/// Runs call frame instructions.
pub(super) struct Machine<'a, S> {
    /// What is known at `location`.
    pub(super) state: State,
    /// The address that the instructions have come to.
    pub(super) location: u64,
    section: &'a S,
    code_factor: u64,
    data_factor: i64,
    /// The state before the first instruction of a function; of a CIE's there is none.
    initial: Option<State>,
    remembered: Vec<State>,
}

impl<'a, S: UnwindSection<Bytes<'a>>> Machine<'a, S> {
    /// For the instructions of a CIE.
    pub(super) fn of_cie(section: &'a S, factors: (u64, i64)) -> Self {
        let (code_factor, data_factor) = factors;
        Self {
            state: State::NONE,
            location: 0,
            section,
            code_factor,
            data_factor,
            initial: None,
            remembered: Vec::new(),
        }
    }

    /// For the instructions of a function that starts at `location`, behind those of its CIE.
    pub(super) fn of_function(
        section: &'a S,
        factors: (u64, i64),
        initial: State,
        location: u64,
    ) -> Self {
        let machine = Self::of_cie(section, factors);
        Self { state: initial, location, initial: Some(initial), ..machine }
    }

    /// Runs one instruction.
    ///
    /// # Errors
    ///
    /// [`Bad`] when it cannot be run here.
    pub(super) fn step(&mut self, instruction: CallFrameInstruction<usize>) -> Result<(), Bad> {
        use CallFrameInstruction as I;
        match instruction {
            I::SetLoc { address } if address < self.location => return Err(Bad),
            I::SetLoc { address } => self.location = address,
            I::AdvanceLoc { delta } => {
                let delta = u64::from(delta).wrapping_mul(self.code_factor);
                self.location = self.location.checked_add(delta).ok_or(Bad)?;
            }
            I::DefCfa { register, offset } => self.state.cfa = Cfa::Sum(register, offset as i64),
            I::DefCfaSf { register, factored_offset } => {
                self.state.cfa = Cfa::Sum(register, self.factored(factored_offset));
            }
            I::DefCfaRegister { register } => {
                let Cfa::Sum(_, offset) = self.state.cfa else { return Err(Bad) };
                self.state.cfa = Cfa::Sum(register, offset);
            }
            I::DefCfaOffset { offset } => self.define_cfa_offset(offset as i64)?,
            I::DefCfaOffsetSf { factored_offset } => {
                self.define_cfa_offset(self.factored(factored_offset))?;
            }
            I::DefCfaExpression { expression } => {
                self.state.cfa = Cfa::Expression(self.recognise(expression)?);
            }
            I::Undefined { register } => self.place(register, Place::Undefined),
            I::SameValue { register } => self.place(register, Place::Same),
            I::Offset { register, factored_offset } => {
                self.place(register, Place::AtCfa(self.factored(factored_offset as i64)));
            }
            I::OffsetExtendedSf { register, factored_offset } => {
                self.place(register, Place::AtCfa(self.factored(factored_offset)));
            }
            I::Expression { register, expression } => {
                let expression = self.recognise(expression)?;
                self.place(register, Place::At(expression));
            }
            I::ValOffset { register, .. }
            | I::ValOffsetSf { register, .. }
            | I::Register { dest_register: register, .. }
            | I::ValExpression { register, .. } => self.place(register, Place::Elsewhere),
            I::Restore { register } => {
                let initial = self.initial.ok_or(Bad)?;
                match register {
                    FP => self.state.fp = initial.fp,
                    BX => self.state.bx = initial.bx,
                    RETURN_ADDRESS => self.state.return_address = initial.return_address,
                    _ => {}
                }
            }
            I::RememberState if self.remembered.len() >= MOST_REMEMBERED => return Err(Bad),
            I::RememberState => self.remembered.push(self.state),
            I::RestoreState => self.state = self.remembered.pop().ok_or(Bad)?,
            I::ArgsSize { .. } | I::Nop => {}
            _ => return Err(Bad),
        }
        Ok(())
    }

    fn factored(&self, offset: i64) -> i64 {
        offset.wrapping_mul(self.data_factor)
    }

    fn define_cfa_offset(&mut self, offset: i64) -> Result<(), Bad> {
        let Cfa::Sum(register, _) = self.state.cfa else { return Err(Bad) };
        self.state.cfa = Cfa::Sum(register, offset);
        Ok(())
    }

    fn recognise(&self, expression: UnwindExpression<usize>) -> Result<Expression, Bad> {
        Ok(Expression::recognise(expression.get(self.section)?.0))
    }

    fn place(&mut self, register: Register, place: Place) {
        match register {
            FP => self.state.fp = place,
            BX => self.state.bx = place,
            RETURN_ADDRESS => self.state.return_address = place,
            _ => {}
        }
    }
}
