//! Whether a breakpoint lies at a place in a process's code.

use std::os::unix::fs::FileExt;

use super::heap::{ForeignMemory, Memory};
use super::image::Image;
use super::maps::FileId;

/// A breakpoint changes so many bytes at the least.
#[cfg(target_arch = "x86_64")]
const BREAKPOINT: usize = 1;
/// A breakpoint changes so many bytes at the least.
#[cfg(target_arch = "aarch64")]
const BREAKPOINT: usize = 4;

/// Whether the code that is mapped from an offset of a file differs from that of the file; `None` where
/// it is not mapped, or cannot be read.
pub fn is_patched(
    image: &Image,
    memory: &ForeignMemory,
    file: FileId,
    offset: u64,
) -> Option<bool> {
    let mapping = image.code_of(file).find(|mapping| {
        let within = offset.checked_sub(mapping.offset);
        within.is_some_and(|within| within < mapping.end.0.saturating_sub(mapping.start.0))
    })?;
    let address = mapping.start.0.checked_add(offset.checked_sub(mapping.offset)?)?;
    let (mut mapped, mut filed) = ([0; BREAKPOINT], [0; BREAKPOINT]);
    image.file_of(mapping)?.file().read_exact_at(&mut filed, offset).ok()?;
    (memory.read(address, &mut mapped) == BREAKPOINT).then(|| mapped != filed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::test_programs::at_program;

    #[test]
    fn code_that_was_written_to_is_told_from_code_as_it_was_built() {
        // The second function becomes a breakpoint.
        let source = r#"
            #include <stdint.h>
            #include <sys/mman.h>
            #include <unistd.h>
            __attribute__((noipa, aligned(4096))) void as_built(void) {}
            __attribute__((noipa, aligned(4096))) void patched(void) {}
            int main(void) {
                mprotect((void *)patched, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
                *(uint32_t *)patched = 0xcccccccc;
                mprotect((void *)patched, 4096, PROT_READ | PROT_EXEC);
                write(1, "x", 1);
                for (;;) pause();
            }"#;
        at_program(source, |pid| {
            let image = Image::capture(pid).unwrap();
            let memory = ForeignMemory::open(pid).unwrap();
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
            let file = image.files().find(|file| file.path == exe.to_string_lossy()).unwrap();
            let elf = crate::target::elf::Elf::open(file.file()).unwrap();
            let found = |wanted: &str| {
                let functions = elf.functions(|name| name == wanted).unwrap();
                let offset = elf.file_offset(functions[0].address).unwrap();
                is_patched(&image, &memory, file.id, offset)
            };
            assert_eq!(found("as_built"), Some(false));
            assert_eq!(found("patched"), Some(true));
            assert_eq!(is_patched(&image, &memory, file.id, u64::MAX), None);
        });
    }
}
