//! The dynamic loader's hook for debuggers: a function that it calls whenever its list of libraries
//! changes (`r_brk` in `struct r_debug` of <link.h>).

use std::sync::Arc;

use super::budget::Budget;
use super::elf::Elf;
use super::image::Image;
use super::object_file::ObjectFile;

/// The hook's name, in glibc and in musl.
pub const HOOK: &str = "_dl_debug_state";

/// A process has one; a hostile one may call other files so.
const MOST_LOADERS: usize = 4;

/// Where the hook is.
#[derive(Clone, Debug)]
pub struct LoaderHook {
    /// The dynamic loader.
    pub file: Arc<ObjectFile>,
    /// Where in it the hook begins, in bytes.
    pub file_offset: u64,
}

impl LoaderHook {
    /// Finds it. `None` in a static program, and where the loader does not name it.
    /// What is read for that comes out of `budget`.
    pub fn find(image: &Image, budget: &Budget) -> Option<Self> {
        image.files().filter(|file| is_loader(file)).take(MOST_LOADERS).find_map(|file| {
            let elf = Elf::open_within(file.file(), budget).ok()?;
            let functions = elf.functions(|name| name == HOOK).ok()?;
            let file_offset = elf.file_offset(functions.first()?.address)?;
            Some(Self { file: Arc::clone(file), file_offset })
        })
    }
}

/// glibc's is called ld-linux-x86-64.so.2, musl's ld-musl-x86_64.so.1, or libc.so behind a link.
fn is_loader(file: &ObjectFile) -> bool {
    let name = file.name();
    name.starts_with("ld-") || name.starts_with("ld.so") || name == "libc.so"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;

    #[test]
    fn this_process_has_one() {
        let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
        let hook = LoaderHook::find(&image, &Budget::for_plan()).unwrap();
        assert!(hook.file.name().starts_with("ld-"), "{}", hook.file.path);
        assert_ne!(hook.file_offset, 0);
    }
}
