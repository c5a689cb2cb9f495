//! The programs, and what they stand on.

pub(crate) mod allocation;
pub(crate) mod checked;
pub(crate) mod clock;
pub(crate) mod follow;
pub(crate) mod free;
pub(crate) mod globals;
pub(crate) mod hits;
pub(crate) mod lifecycle;
pub(crate) mod mappings;
pub(crate) mod maps;
pub(crate) mod registers;
pub(crate) mod session;
pub(crate) mod store;
pub(crate) mod thread;
pub(crate) mod unwind;
pub(crate) mod verifier;
