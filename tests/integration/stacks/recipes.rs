//! Which programs have shapes, and how are they built?
//!
//! With few flags: what compilers do by themselves is what is asked about.

use crate::programs::Recipe;

/// A program of shapes.
pub(super) struct Subject {
    pub(super) recipe: Recipe,
    /// What it loads when it starts.
    pub(super) library: Option<&'static Recipe>,
}

/// Sources in C, with functions by hand; in C++; in Rust.
const C: &[&str] = &["stacks/shapes.c", "stacks/odd_frames.S"];
const CXX: &[&str] = &["stacks/shapes.cc"];
const RUST: &[&str] = &["stacks/shapes.rs"];

const KEEP: &str = "-fno-omit-frame-pointer";
const OMIT: &str = "-fomit-frame-pointer";

pub(super) static LIBRARY: Recipe = Recipe {
    name: "shapes_library.so",
    compiler: "gcc",
    flags: &["-g", "-O2", OMIT, "-shared", "-fPIC"],
    sources: &["stacks/library.c"],
};

pub(super) static C_O0_KEEP: Subject =
    c("shapes_c_o0_keep", "gcc", &["-g", "-pthread", "-O0", KEEP]).loads(&LIBRARY);
pub(super) static C_O0_OMIT: Subject =
    c("shapes_c_o0_omit", "gcc", &["-g", "-pthread", "-O0", OMIT]).loads(&LIBRARY);
pub(super) static C_O2_KEEP: Subject =
    c("shapes_c_o2_keep", "gcc", &["-g", "-pthread", "-O2", KEEP]).loads(&LIBRARY);
pub(super) static C_O2_OMIT: Subject =
    c("shapes_c_o2_omit", "gcc", &["-g", "-pthread", "-O2", OMIT]).loads(&LIBRARY);

pub(super) static STATIC: Subject =
    c("shapes_static", "gcc", &["-g", "-pthread", "-O2", OMIT, "-static"]);
pub(super) static STATIC_PIE: Subject =
    c("shapes_static_pie", "gcc", &["-g", "-pthread", "-O2", OMIT, "-static-pie"]);
pub(super) static MUSL: Subject = c("shapes_musl", "musl-gcc", &["-g", "-O2", OMIT]);
pub(super) static MUSL_STATIC: Subject =
    c("shapes_musl_static", "musl-gcc", &["-g", "-O2", OMIT, "-static"]);

pub(super) static LOADS_LATER: Subject =
    subject("loads_later", "gcc", &["-g", "-O2", OMIT], &["stacks/loads_later.c"]).loads(&LIBRARY);

pub(super) static CXX_O0_KEEP: Subject =
    subject("shapes_cxx_o0_keep", "g++", &["-g", "-pthread", "-O0", KEEP], CXX);
pub(super) static CXX_O0_OMIT: Subject =
    subject("shapes_cxx_o0_omit", "g++", &["-g", "-pthread", "-O0", OMIT], CXX);
pub(super) static CXX_O2_KEEP: Subject =
    subject("shapes_cxx_o2_keep", "g++", &["-g", "-pthread", "-O2", KEEP], CXX);
pub(super) static CXX_O2_OMIT: Subject =
    subject("shapes_cxx_o2_omit", "g++", &["-g", "-pthread", "-O2", OMIT], CXX);

pub(super) static RUST_O0_KEEP: Subject = rust(
    "shapes_rust_o0_keep",
    &["-g", "--edition=2024", "-Copt-level=0", "-Cforce-frame-pointers=yes"],
);
pub(super) static RUST_O0_OMIT: Subject = rust(
    "shapes_rust_o0_omit",
    &["-g", "--edition=2024", "-Copt-level=0", "-Cforce-frame-pointers=no"],
);
pub(super) static RUST_O2_KEEP: Subject = rust(
    "shapes_rust_o2_keep",
    &["-g", "--edition=2024", "-Copt-level=2", "-Cforce-frame-pointers=yes"],
);
pub(super) static RUST_O2_OMIT: Subject = rust(
    "shapes_rust_o2_omit",
    &["-g", "--edition=2024", "-Copt-level=2", "-Cforce-frame-pointers=no"],
);

const fn c(name: &'static str, compiler: &'static str, flags: &'static [&'static str]) -> Subject {
    subject(name, compiler, flags, C)
}

const fn rust(name: &'static str, flags: &'static [&'static str]) -> Subject {
    subject(name, "rustc", flags, RUST)
}

const fn subject(
    name: &'static str,
    compiler: &'static str,
    flags: &'static [&'static str],
    sources: &'static [&'static str],
) -> Subject {
    Subject { recipe: Recipe { name, compiler, flags, sources }, library: None }
}

impl Subject {
    const fn loads(mut self, library: &'static Recipe) -> Self {
        self.library = Some(library);
        self
    }
}
