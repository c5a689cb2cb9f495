//! C++'s replaceable operators (C++23, 17.6.3), mangled by the Itanium C++ ABI for 64-bit machines,
//! whose `std::size_t` is `m`.

use leaktrace_ebpf::cookie::Form;

use super::Family::Cxx;
use super::{Entry, FREES, allocates};

const fn new(name: &'static str) -> Entry {
    Entry::new(Cxx, name, allocates(0).form(Form::New)).wrapping()
}

const fn new_array(name: &'static str) -> Entry {
    Entry::new(Cxx, name, allocates(0).form(Form::NewArray)).wrapping()
}

const fn delete(name: &'static str) -> Entry {
    Entry::new(Cxx, name, FREES.form(Form::New)).wrapping()
}

const fn delete_array(name: &'static str) -> Entry {
    Entry::new(Cxx, name, FREES.form(Form::NewArray)).wrapping()
}

pub(super) const OPERATORS: &[Entry] = &[
    new("_Znwm").throwing(),
    new_array("_Znam").throwing(),
    new("_ZnwmRKSt9nothrow_t"),
    new_array("_ZnamRKSt9nothrow_t"),
    new("_ZnwmSt11align_val_t").throwing(),
    new_array("_ZnamSt11align_val_t").throwing(),
    new("_ZnwmSt11align_val_tRKSt9nothrow_t"),
    new_array("_ZnamSt11align_val_tRKSt9nothrow_t"),
    delete("_ZdlPv"),
    delete_array("_ZdaPv"),
    delete("_ZdlPvm"),
    delete_array("_ZdaPvm"),
    delete("_ZdlPvRKSt9nothrow_t"),
    delete_array("_ZdaPvRKSt9nothrow_t"),
    delete("_ZdlPvSt11align_val_t"),
    delete_array("_ZdaPvSt11align_val_t"),
    delete("_ZdlPvmSt11align_val_t"),
    delete_array("_ZdaPvmSt11align_val_t"),
    delete("_ZdlPvSt11align_val_tRKSt9nothrow_t"),
    delete_array("_ZdaPvSt11align_val_tRKSt9nothrow_t"),
];
