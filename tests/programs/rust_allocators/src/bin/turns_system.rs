//! The turns with the system's allocator.

fn main() {
    rust_allocators::main();
}
