//! Who maps memory: the program, or an allocator, the C library or the dynamic loader on its own
//! account? What these map is handed out in blocks that are counted one by one, or holds a thread's
//! stack, or a library.
//!
//! The first frame that is not one of the C library's functions for the system call tells. Where the
//! allocator is a part of the program (a static one, say), a frame inside a function that allocates
//! does.

use super::allocators;
use super::budget::Budget;
use super::elf::{Elf, ElfError, Function};
use super::image::Image;
use super::object_file::ObjectFile;
use super::plan::Plan;
use crate::model::{Addr, CodeAddr};

/// The C library's functions that only make the system call.
const WRAPPERS: &[&str] = &[
    "mmap", "mmap64", "munmap", "mremap", "brk", "sbrk", "syscall", "__mmap", "__mmap64",
    "__munmap", "__mremap", "__brk", "__sbrk",
];

/// What maps on its own account besides the functions of the catalogue, where it is a part of the
/// program: the stacks of threads, and allocators under names of their own.
const THREAD_STACKS: &[&str] =
    &["pthread_create", "__pthread_create", "__pthread_create_2_1", "allocate_stack"];
const OWN_NAMES: &[&str] = &["mi_", "_mi_", "_rjem_", "je_", "_ZN8tcmalloc", "_ZN7mozjemalloc"];

/// Where in an address space calls that map memory come from.
#[derive(Clone, Debug, Default)]
pub struct MappingCallers {
    wrappers: Ranges,
    /// Whole files that map on their own account.
    own_code: Ranges,
    /// Functions that do, wherever they are among the callers.
    own_functions: Ranges,
}

type Ranges = Vec<(Addr, Addr)>;

impl MappingCallers {
    /// Looks into the files of an address space.
    pub fn find(image: &Image, plan: &Plan) -> Self {
        let budget = Budget::for_plan();
        let mut callers = Self::default();
        for file in image.files() {
            let (is_whole, is_allocator) =
                (maps_for_itself(file), plan.allocators.contains(&file.path));
            if is_whole {
                callers.own_code.extend(image.code_of(file.id).map(|m| (m.start, m.end)));
            }
            if (is_whole || is_allocator)
                && let Err(error) = callers.add_functions(image, file, &budget, is_whole)
            {
                log::info!("{}: who maps memory there is not known: {error}", file.path);
            }
        }
        for ranges in [&mut callers.wrappers, &mut callers.own_code, &mut callers.own_functions] {
            ranges.sort_unstable();
        }
        callers
    }

    fn add_functions(
        &mut self,
        image: &Image,
        file: &ObjectFile,
        budget: &Budget,
        is_whole: bool,
    ) -> Result<(), ElfError> {
        let elf = Elf::open_within(file.file(), budget)?;
        let wrappers = elf.functions(|name| WRAPPERS.contains(&name))?;
        let places = wrappers.iter().filter_map(|function| place(image, file, &elf, function));
        self.wrappers.extend(places);
        if is_whole {
            return Ok(());
        }
        let is_in_catalogue = |name: &str| {
            allocators::find(name).is_some()
                || name.split_once('.').is_some_and(|(whole, _)| allocators::find(whole).is_some())
                || THREAD_STACKS.contains(&name)
        };
        let is_own = |name: &str| OWN_NAMES.iter().any(|own| name.starts_with(own));
        for functions in [elf.functions(is_in_catalogue)?, elf.functions(is_own)?] {
            let places = functions.iter().filter_map(|function| place(image, file, &elf, function));
            self.own_functions.extend(places);
        }
        Ok(())
    }

    /// Whether memory that was mapped under this stack is an allocator's, the C library's or the
    /// dynamic loader's own.
    pub fn map_for_themselves(&self, frames: &[CodeAddr]) -> bool {
        let mut calls = frames.iter().map(|frame| frame.instruction());
        let caller = calls.find(|address| !contains(&self.wrappers, *address));
        caller.is_some_and(|address| contains(&self.own_code, address))
            || frames.iter().any(|frame| contains(&self.own_functions, frame.instruction()))
    }
}

/// Whether all code of a file maps memory for its own ends: it has no program's code in it.
fn maps_for_itself(file: &ObjectFile) -> bool {
    let name = file.name();
    let is_library = name.contains(".so");
    let begins = ["ld-", "ld.so", "libc.so", "libc-", "libpthread"];
    begins.iter().any(|begin| name.starts_with(begin) && is_library)
        || is_library && name.starts_with("lib") && name.contains("malloc")
}

/// Where a function is mapped.
fn place(
    image: &Image,
    file: &ObjectFile,
    elf: &Elf<'_>,
    function: &Function,
) -> Option<(Addr, Addr)> {
    let offset = elf.file_offset(function.address)?;
    let mapping = image
        .code_of(file.id)
        .find(|m| offset >= m.offset && offset - m.offset < m.end.0.saturating_sub(m.start.0))?;
    let start = mapping.start.0.checked_add(offset - mapping.offset)?;
    Some((Addr(start), Addr(start.saturating_add(function.size))))
}

/// Whether an address lies in one of the ranges, which are sorted.
fn contains(ranges: &Ranges, address: Addr) -> bool {
    // Aliases of one function may differ in their size.
    let begun = ranges.partition_point(|(start, _)| *start <= address);
    ranges.iter().take(begun).rev().take(4).any(|(_, end)| address < *end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_caller_behind_the_wrapper_tells_or_a_function_that_allocates() {
        let callers = MappingCallers {
            wrappers: vec![(Addr(110), Addr(120)), (Addr(110), Addr(125))],
            own_code: vec![(Addr(100), Addr(200))],
            own_functions: vec![(Addr(310), Addr(320))],
        };
        let check = |frames: &[u64], expected: bool| {
            let frames: Vec<CodeAddr> =
                frames.iter().map(|at| CodeAddr::returning_to(Addr(*at + 1))).collect();
            assert_eq!(callers.map_for_themselves(&frames), expected, "{frames:?}");
        };
        check(&[], false);
        check(&[115], false);
        check(&[115, 300], false);
        check(&[124, 300, 150], false);
        check(&[115, 150, 300], true);
        check(&[150, 300], true);
        check(&[115, 111, 125], true);
        check(&[300, 305, 315, 400], true);
        check(&[300, 305, 320, 400], false);
    }

    #[test]
    fn the_files_that_map_for_themselves() {
        // What this very process maps: its libraries, and itself.
        let pid = crate::model::Pid::new(std::process::id()).unwrap();
        let image = Image::capture(pid).unwrap();
        let mut own: Vec<&str> =
            image.files().filter(|file| maps_for_itself(file)).map(|file| file.name()).collect();
        own.sort_unstable();
        assert_eq!(own, ["ld-linux-x86-64.so.2", "libc.so.6"]);
        let callers = MappingCallers::find(&image, &Plan::default());
        // mmap and mmap64 are two names of one function; sbrk and brk call the kernel, too.
        let mmap = libc::mmap as *const () as u64;
        assert!(contains(&callers.wrappers, Addr(mmap)));
        assert!(contains(&callers.wrappers, Addr(libc::sbrk as *const () as u64)));
        assert!(!contains(&callers.wrappers, Addr(libc::malloc as *const () as u64)));
        assert!(contains(&callers.own_code, Addr(libc::malloc as *const () as u64)));
    }
}
