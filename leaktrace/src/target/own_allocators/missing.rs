//! What is said of a function that no file has, and which names come close to its.

use std::sync::Arc;

use super::find::Wish;
use super::names::{DEMANGLING, LONGEST_SYMBOL, Wanted, is_mangled};
use crate::model::{ProbeFailure, Unprobed, printable};
use crate::target::budget::Budget;
use crate::target::demangle::demangled;
use crate::target::elf::Elf;
use crate::target::entry_points::frees;
use crate::target::image::Image;
use crate::target::object_file::ObjectFile;

/// So many names are told that come close.
const CLOSE_NAMES: usize = 3;

/// Says that a function is nowhere.
pub(super) fn failure(wish: &Wish<'_>, image: &Image, budget: &Budget) -> ProbeFailure {
    let files: Vec<_> = image.files().filter(|file| wish.is_in(file)).collect();
    let object = wish.function.place.object().map(printable);
    let module = object.clone().unwrap_or_else(|| match files.len() {
        1 => "the one mapped file".to_owned(),
        n => format!("any of the {n} mapped files"),
    });
    let error = match (&wish.wanted, object) {
        (_, Some(object)) if files.is_empty() => format!(
            "the process has mapped no file whose path ends with `{object}`: look into \
             /proc/{}/maps",
            image.pid
        ),
        (Some(wanted), object) => {
            let in_libraries = match object {
                None => {
                    "; `@OBJECT` behind it has the `.gnu_debugdata` of a library looked into, too"
                }
                Some(_) => "",
            };
            format!(
                "no symbol has this name{}; a function that the compiler inlined has none, and a \
                 stripped file without debug symbols has only those that it exports: there, name it by \
                 OBJECT+0xADDRESS{in_libraries}",
                close_names(wanted, &files, budget)
            )
        }
        (None, _) => "it could not be looked into".to_owned(),
    };
    let function = printable(&wish.function.place.function());
    let about = Unprobed::Missing {
        frees: frees(wish.function.signature.kind),
        object: wish.function.place.object().map(str::to_owned),
    };
    ProbeFailure { function, module, error, about }
}

fn close_names(wanted: &Wanted<'_>, files: &[&Arc<ObjectFile>], budget: &Budget) -> String {
    let mut close: Vec<(usize, String)> = Vec::new();
    for file in files {
        let Ok(elf) = Elf::open_within(file.file(), budget) else { continue };
        let is_close = |symbol: &str| wanted.distance(symbol).is_some();
        let Ok(found) = elf.functions_called(LONGEST_SYMBOL, is_close) else { continue };
        close.extend(found.iter().filter_map(|f| {
            let is_unreadable = is_mangled(&f.name) && budget.take(DEMANGLING);
            let name = if is_unreadable { demangled(&f.name) } else { (&f.name).into() };
            Some((wanted.distance(&f.name)?, printable(&name)))
        }));
    }
    close.sort();
    close.dedup();
    let names: Vec<String> =
        close.into_iter().take(CLOSE_NAMES).map(|(_, name)| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!(" (near: {})", names.join(", ")),
    }
}
