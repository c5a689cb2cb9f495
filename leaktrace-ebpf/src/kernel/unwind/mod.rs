//! Walking the stack of a probed thread.
//!
//! Each way of unwinding is a module that fills `thread.stack` and returns its id.

pub(crate) mod frame_pointers;
