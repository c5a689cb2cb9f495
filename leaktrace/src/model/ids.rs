//! Identifiers that cannot be mixed up.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// A process id, as leaktrace's own PID namespace counts: never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(NonZeroU32);

impl Pid {
    /// The process with this id; `None` for 0 and for what no kernel gives out.
    pub fn new(id: u32) -> Option<Self> {
        if id > i32::MAX as u32 {
            return None;
        }
        NonZeroU32::new(id).map(Self)
    }

    /// As the kernel's interfaces take it.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The same, not zero by type.
    pub fn non_zero(self) -> NonZeroU32 {
        self.0
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Pid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim()
            .parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| format!("`{text}` is not a process id: give a number from 1 up"))
    }
}

/// An address in a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub u64);

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Where in the code a frame is: its return address, or, if a signal interrupted it, the address
/// of the next instruction to run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeAddr(u64);

impl CodeAddr {
    const INTERRUPTED: u64 = 1 << 63;

    /// A frame that has called another, which returns to `ip`.
    pub fn returning_to(ip: Addr) -> Self {
        Self(ip.0 & !Self::INTERRUPTED)
    }

    /// A frame that a signal interrupted before the instruction at `ip`.
    pub fn interrupted_at(ip: Addr) -> Self {
        Self(ip.0 | Self::INTERRUPTED)
    }

    /// The frame's instruction pointer.
    pub fn ip(self) -> Addr {
        Addr(self.0 & !Self::INTERRUPTED)
    }

    /// An address inside the instruction that the frame is at: a return address can already be
    /// another function's, or outside the mapping, behind a call that does not return.
    pub fn instruction(self) -> Addr {
        let is_return = u64::from(self.0 & Self::INTERRUPTED == 0);
        Addr(self.ip().0.saturating_sub(is_return))
    }
}

impl fmt::Debug for CodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.0 & Self::INTERRUPTED == 0 { "" } else { " interrupted" };
        write!(f, "{}{mark}", self.ip())
    }
}

/// A stack: a 64-bit hash of its frames and its address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(pub u64);

impl StackId {
    /// What is booked without a stack.
    pub const UNKNOWN: Self = Self(0);
}

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One address space under trace: a process, from its start or its last exec on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_lies_before_its_return_address() {
        let called = CodeAddr::returning_to(Addr(0x1000));
        let interrupted = CodeAddr::interrupted_at(Addr(0x1000));
        assert_eq!((called.ip(), called.instruction()), (Addr(0x1000), Addr(0xfff)));
        assert_eq!((interrupted.ip(), interrupted.instruction()), (Addr(0x1000), Addr(0x1000)));
        assert_ne!(called, interrupted);
    }

    #[test]
    fn pids_are_positive_numbers() {
        assert_eq!("42".parse::<Pid>().map(Pid::get), Ok(42));
        for wrong in ["0", "-1", "4294967295", "self", "", "1.5"] {
            assert!(wrong.parse::<Pid>().is_err(), "{wrong}");
        }
    }
}
