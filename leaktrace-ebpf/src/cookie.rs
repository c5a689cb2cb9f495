//! What a probe's attach cookie says: which argument means what, and whose probe it is.
//!
//! One entry handler serves every allocation function; the cookie makes it `malloc` or
//! `posix_memalign`. The catalogue of functions is in userspace (`target::allocators`).

/// No such argument.
pub const NO_ARGUMENT: u8 = 0xf;

/// What a function does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Returns a new block.
    Allocate = 0,
    /// Takes a block and returns one, perhaps the same.
    Reallocate = 1,
    /// Takes a block.
    Free = 2,
}

/// How a function of an allocator is called: indices of its integer arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What it does.
    pub kind: Kind,
    /// The argument with the size in bytes; [`NO_ARGUMENT`] for a free.
    pub size: u8,
    /// The argument to multiply the size with, as in `calloc`.
    pub count: u8,
    /// The argument with the block that goes in, as in `free` and `realloc`.
    pub pointer: u8,
    /// The argument that says where the new pointer is written, as in `posix_memalign`, whose
    /// return value is then 0 on success.
    pub out: u8,
}

/// An attach cookie: 64 bits that come with each hit of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(pub u64);

impl Cookie {
    /// The cookie of a probe.
    ///
    /// `function` tells the functions of one target apart; `slot` is the target's; `stepped` says
    /// that the kernel single-steps the instruction under the probe.
    pub const fn new(signature: Signature, function: u16, slot: u16, stepped: bool) -> Self {
        Self(
            signature.kind as u64
                | (signature.size as u64 & 0xf) << 4
                | (signature.count as u64 & 0xf) << 8
                | (signature.pointer as u64 & 0xf) << 12
                | (signature.out as u64 & 0xf) << 16
                | (stepped as u64) << 20
                | (function as u64) << 32
                | (slot as u64) << 48,
        )
    }

    /// Whether this is a function of [`Kind::Reallocate`].
    #[inline(always)]
    pub const fn reallocates(self) -> bool {
        self.0 & 0xf == Kind::Reallocate as u64
    }

    /// Whether the kernel single-steps the instruction under the probe: such a hit costs more.
    #[inline(always)]
    pub const fn stepped(self) -> bool {
        self.0 >> 20 & 1 != 0
    }

    /// The index of the size argument.
    #[inline(always)]
    pub const fn size(self) -> u8 {
        (self.0 >> 4 & 0xf) as u8
    }

    /// The index of the count argument.
    #[inline(always)]
    pub const fn count(self) -> u8 {
        (self.0 >> 8 & 0xf) as u8
    }

    /// The index of the pointer argument.
    #[inline(always)]
    pub const fn pointer(self) -> u8 {
        (self.0 >> 12 & 0xf) as u8
    }

    /// The index of the out-pointer argument.
    #[inline(always)]
    pub const fn out(self) -> u8 {
        (self.0 >> 16 & 0xf) as u8
    }

    /// Function and slot together: what must agree between an entry and its return.
    #[inline(always)]
    pub const fn function_and_slot(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The target's slot.
    #[inline(always)]
    pub const fn slot(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_gives_back_what_went_in() {
        let signature =
            Signature { kind: Kind::Reallocate, size: 2, count: 1, pointer: 0, out: NO_ARGUMENT };
        let cookie = Cookie::new(signature, 0xabcd, 0x1234, true);
        assert!(cookie.reallocates() && cookie.stepped());
        assert_eq!((cookie.size(), cookie.count(), cookie.pointer()), (2, 1, 0));
        assert_eq!(cookie.out(), NO_ARGUMENT);
        assert_eq!(cookie.slot(), 0x1234);
        assert_eq!(cookie.function_and_slot(), 0x1234_abcd);
    }
}
