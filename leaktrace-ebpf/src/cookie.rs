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
    /// Takes a block and returns one, perhaps the same; leaves the old one alone if it fails.
    Reallocate = 1,
    /// Takes a block.
    Free = 2,
    /// Changes a block where it lies, and returns its size then: jemalloc's `xallocx`. Less than was
    /// asked for: it is as it was.
    Resize = 3,
    /// As [`Kind::Reallocate`], but frees the old block if it fails: `reallocf`.
    ReallocateOrFree = 4,
}

/// The family of functions that a block must be freed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// `malloc` and its like.
    #[default]
    Plain = 0,
    /// `operator new`.
    New = 1,
    /// `operator new[]`.
    NewArray = 2,
    /// Any other, whose blocks only go together with its own frees.
    Own = 3,
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
    /// Which frees its blocks go together with.
    pub form: Form,
    /// Whatever is allocated inside a call that allocates is part of it, and whatever is freed inside
    /// one that frees, whoever calls: a project's own allocator, whose code is not apart from the rest.
    pub encloses: bool,
    /// Where no argument says the size: the index of the fixed sizes that the object was loaded
    /// with, below [`FIXED_SIZES`]; 0 for none.
    pub fixed_size: u8,
    /// An exception may leave it.
    pub throws: bool,
}

/// How many fixed sizes there are; the first stands for none.
pub const FIXED_SIZES: usize = 64;

impl Signature {
    /// Of a function that none of its arguments matters of yet.
    pub const fn of(kind: Kind) -> Self {
        Self {
            kind,
            size: NO_ARGUMENT,
            count: NO_ARGUMENT,
            pointer: NO_ARGUMENT,
            out: NO_ARGUMENT,
            form: Form::Plain,
            encloses: false,
            fixed_size: 0,
            throws: false,
        }
    }

    /// With its size in an argument.
    #[must_use]
    pub const fn size(self, size: u8) -> Self {
        Self { size, ..self }
    }

    /// With a count in an argument.
    #[must_use]
    pub const fn count(self, count: u8) -> Self {
        Self { count, ..self }
    }

    /// With a block in an argument.
    #[must_use]
    pub const fn pointer(self, pointer: u8) -> Self {
        Self { pointer, ..self }
    }

    /// With the place of the result in an argument.
    #[must_use]
    pub const fn out(self, out: u8) -> Self {
        Self { out, ..self }
    }

    /// That an exception may leave.
    #[must_use]
    pub const fn throws(self, throws: bool) -> Self {
        Self { throws, ..self }
    }

    /// Of a form.
    #[must_use]
    pub const fn form(self, form: Form) -> Self {
        Self { form, ..self }
    }
}

/// Functions of one target are told apart by so many bits; the rest of `function` in
/// [`Cookie::new`] says whose implementation it is.
pub const FUNCTION_BITS: u32 = 10;

/// An attach cookie: 64 bits that come with each hit of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(pub u64);

impl Cookie {
    /// The cookie of a probe.
    ///
    /// `function` tells the functions of one target apart (see [`FUNCTION_BITS`]); `slot` is the
    /// target's; `stepped` says that the kernel single-steps the instruction under the probe.
    pub const fn new(signature: Signature, function: u16, slot: u16, stepped: bool) -> Self {
        Self(
            signature.kind as u64
                | (signature.size as u64 & 0xf) << 4
                | (signature.count as u64 & 0xf) << 8
                | (signature.pointer as u64 & 0xf) << 12
                | (signature.out as u64 & 0xf) << 16
                | (stepped as u64) << 20
                | (signature.encloses as u64) << 21
                | (signature.form as u64) << 22
                | (signature.fixed_size as u64 & 0x3f) << 24
                | (signature.throws as u64) << 30
                | (function as u64) << 32
                | (slot as u64) << 48,
        )
    }

    /// The same for the target in another slot.
    #[inline(always)]
    #[must_use]
    pub const fn of_slot(self, slot: u16) -> Self {
        Self(self.0 & !(0xffff << 48) | (slot as u64) << 48)
    }

    /// Whether a block goes into this function and one comes out.
    #[inline(always)]
    pub const fn reallocates(self) -> bool {
        let kind = self.0 & 0xf;
        kind == Kind::Reallocate as u64
            || kind == Kind::Resize as u64
            || kind == Kind::ReallocateOrFree as u64
    }

    /// Whether this is a function of [`Kind::Resize`].
    #[inline(always)]
    pub const fn resizes(self) -> bool {
        self.0 & 0xf == Kind::Resize as u64
    }

    /// Whether this is a function of [`Kind::ReallocateOrFree`].
    #[inline(always)]
    pub const fn frees_on_failure(self) -> bool {
        self.0 & 0xf == Kind::ReallocateOrFree as u64
    }

    /// See [`Signature::encloses`].
    #[inline(always)]
    pub const fn encloses(self) -> bool {
        self.0 >> 21 & 1 != 0
    }

    /// [`Signature::form`], as a number.
    #[inline(always)]
    pub const fn form(self) -> u8 {
        (self.0 >> 22 & 3) as u8
    }

    /// See [`Signature::fixed_size`].
    #[inline(always)]
    pub const fn fixed_size(self) -> u8 {
        (self.0 >> 24 & 0x3f) as u8
    }

    /// See [`Signature::throws`].
    #[inline(always)]
    pub const fn throws(self) -> bool {
        self.0 >> 30 & 1 != 0
    }

    /// Whose implementation the function is: a number below 64 within the target.
    #[inline(always)]
    pub const fn implementation(self) -> u8 {
        (self.0 >> (32 + FUNCTION_BITS) & 0x3f) as u8
    }

    /// The family of what it allocates or frees: see [`crate::family`].
    #[inline(always)]
    pub const fn family(self) -> u8 {
        self.implementation() << 2 | self.form()
    }

    /// The function's number within the target; what [`Cookie::new`] was told, but for whose
    /// implementation it is.
    #[inline(always)]
    pub const fn function(self) -> u16 {
        (self.0 >> 32 & ((1 << FUNCTION_BITS) - 1)) as u16
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
        let signature = Signature {
            encloses: true,
            fixed_size: 63,
            throws: true,
            ..Signature::of(Kind::Reallocate).size(2).count(1).pointer(0).form(Form::NewArray)
        };
        let cookie = Cookie::new(signature, 0xabcd, 0x1234, true);
        assert!(cookie.reallocates() && cookie.stepped() && cookie.encloses());
        assert!(cookie.throws());
        assert!(!cookie.resizes() && !cookie.frees_on_failure());
        assert_eq!((cookie.form(), cookie.fixed_size()), (Form::NewArray as u8, 63));
        assert_eq!(cookie.implementation(), (0xabcd_u16 >> 10) as u8);
        assert_eq!((cookie.size(), cookie.count(), cookie.pointer()), (2, 1, 0));
        assert_eq!(cookie.out(), NO_ARGUMENT);
        assert_eq!(cookie.slot(), 0x1234);
        assert_eq!(cookie.function_and_slot(), 0x1234_abcd);
    }
}
