//! Is every allocator traced exactly, whichever a program uses and however it came by it?

mod matrix;
mod programs;
mod table;
