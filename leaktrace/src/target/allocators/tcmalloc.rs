//! gperftools' tcmalloc under its own names: `gperftools/tcmalloc.h`.

use leaktrace_ebpf::cookie::{Form, Signature};

use super::Family::Tcmalloc;
use super::{Entry, FREES, allocates, allocates_many, reallocates};

const fn function(name: &'static str, signature: Signature) -> Entry {
    Entry::new(Tcmalloc, name, signature)
}

const fn new(name: &'static str) -> Entry {
    function(name, allocates(0).form(Form::New))
}

const fn new_array(name: &'static str) -> Entry {
    function(name, allocates(0).form(Form::NewArray))
}

const fn delete(name: &'static str) -> Entry {
    function(name, FREES.form(Form::New)).wrapping()
}

const fn delete_array(name: &'static str) -> Entry {
    function(name, FREES.form(Form::NewArray)).wrapping()
}

pub(super) const TABLE: &[Entry] = &[
    function("tc_malloc", allocates(0)),
    function("tc_malloc_skip_new_handler", allocates(0)),
    function("tc_calloc", allocates_many(0, 1)),
    function("tc_realloc", reallocates(0, 1)),
    function("tc_memalign", allocates(1)),
    function("tc_posix_memalign", allocates(2).out(0)),
    function("tc_valloc", allocates(0)),
    function("tc_pvalloc", allocates(0)),
    function("tc_free", FREES),
    function("tc_free_sized", FREES).wrapping(),
    function("tc_free_aligned_sized", FREES).wrapping(),
    function("tc_cfree", FREES).wrapping(),
    new("tc_new").throwing(),
    new_array("tc_newarray").throwing(),
    new("tc_new_nothrow"),
    new_array("tc_newarray_nothrow"),
    new("tc_new_aligned").throwing(),
    new_array("tc_newarray_aligned").throwing(),
    new("tc_new_aligned_nothrow"),
    new_array("tc_newarray_aligned_nothrow"),
    delete("tc_delete"),
    delete_array("tc_deletearray"),
    delete("tc_delete_sized"),
    delete_array("tc_deletearray_sized"),
    delete("tc_delete_nothrow"),
    delete_array("tc_deletearray_nothrow"),
    delete("tc_delete_aligned"),
    delete_array("tc_deletearray_aligned"),
    delete("tc_delete_sized_aligned"),
    delete_array("tc_deletearray_sized_aligned"),
    delete("tc_delete_aligned_nothrow"),
    delete_array("tc_deletearray_aligned_nothrow"),
];
