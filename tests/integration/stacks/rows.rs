//! The matrix: a test for each shape in each program that has it.
//!
//! Shape first, program last: so tests that run side by side look at programs side by side.

use super::Expect::{CutShort, ToMain, Whole, WholeAndNamed};
use super::{check, check_counts, recipes};

/// A module for a shape, with a test for each program, named for how that is built.
macro_rules! row {
    ($shape:ident: $($program:ident $subject:ident $expect:ident,)+) => {
        mod $shape {
            use super::*;
            $(
                #[test]
                fn $program() {
                    check(&recipes::$subject, stringify!($shape), $expect);
                }
            )+
        }
    };
}

/// What the books say of each program as a whole: how many stacks are cut short, and the others.
macro_rules! counts {
    ($($program:ident $subject:ident $cut_short:literal $others:ident,)+) => {
        mod all_are_counted {
            use super::*;
            $(
                #[test]
                fn $program() {
                    check_counts(&recipes::$subject, $cut_short, $others);
                }
            )+
        }
    };
}

mod c {
    use super::*;

    /// With glibc.
    macro_rules! glibc_row {
        ($shape:ident $expect:ident $($more:tt)*) => {
            row! { $shape:
                o0_with_frame_pointers C_O0_KEEP $expect,
                o0_without_frame_pointers C_O0_OMIT $expect,
                o2_with_frame_pointers C_O2_KEEP $expect,
                o2_without_frame_pointers C_O2_OMIT $expect,
                glibc_static STATIC $expect,
                glibc_static_pie STATIC_PIE $expect,
                $($more)*
            }
        };
    }

    /// With musl too: nothing in it needs musl's own frames but what calls `main`.
    macro_rules! any_libc_row {
        ($shape:ident $expect:ident, with musl $by_musl:ident) => {
            glibc_row! { $shape $expect
                musl MUSL $by_musl,
                musl_static MUSL_STATIC $by_musl,
            }
        };
    }

    any_libc_row!(chain Whole, with musl ToMain);
    any_libc_row!(tail_call Whole, with musl ToMain);
    any_libc_row!(inlined WholeAndNamed, with musl ToMain);
    any_libc_row!(deep_100 Whole, with musl ToMain);
    any_libc_row!(deep_1000 CutShort, with musl CutShort);
    any_libc_row!(large_frames Whole, with musl ToMain);
    any_libc_row!(alloca_often Whole, with musl ToMain);
    any_libc_row!(aligned_array Whole, with musl ToMain);
    any_libc_row!(realigned_entry Whole, with musl ToMain);
    any_libc_row!(noreturn_call Whole, with musl ToMain);
    any_libc_row!(cold_part Whole, with musl ToMain);
    any_libc_row!(asm_pushes Whole, with musl ToMain);
    any_libc_row!(asm_rbx Whole, with musl ToMain);
    any_libc_row!(asm_realigned Whole, with musl ToMain);
    any_libc_row!(asm_expression Whole, with musl ToMain);
    glibc_row!(qsort_callback Whole);
    glibc_row!(strdup_in_libc Whole);
    glibc_row!(signal_raised Whole);
    glibc_row!(signal_altstack Whole);
    glibc_row!(signal_timer Whole);
    glibc_row!(signal_timer_altstack Whole);
    glibc_row!(thread Whole);

    row! { dlopened:
        o0_with_frame_pointers C_O0_KEEP Whole,
        o0_without_frame_pointers C_O0_OMIT Whole,
        o2_with_frame_pointers C_O2_KEEP Whole,
        o2_without_frame_pointers C_O2_OMIT Whole,
    }

    counts! {
        o0_with_frame_pointers C_O0_KEEP 1 Whole,
        o0_without_frame_pointers C_O0_OMIT 1 Whole,
        o2_with_frame_pointers C_O2_KEEP 1 Whole,
        o2_without_frame_pointers C_O2_OMIT 1 Whole,
        glibc_static STATIC 1 Whole,
        glibc_static_pie STATIC_PIE 1 Whole,
        musl MUSL 1 ToMain,
        musl_static MUSL_STATIC 1 ToMain,
    }
}

/// The library of C++ has no frame pointers, however the program is built.
mod cxx {
    use super::*;

    macro_rules! cxx_row {
        ($shape:ident $expect:ident) => {
            row! { $shape:
                o0_with_frame_pointers CXX_O0_KEEP $expect,
                o0_without_frame_pointers CXX_O0_OMIT $expect,
                o2_with_frame_pointers CXX_O2_KEEP $expect,
                o2_without_frame_pointers CXX_O2_OMIT $expect,
            }
        };
    }

    cxx_row!(new_array Whole);
    cxx_row!(vector_reserve Whole);
    cxx_row!(string_append Whole);
    cxx_row!(strdup_from_cxx Whole);
    cxx_row!(inlined WholeAndNamed);
    cxx_row!(std_function Whole);
    cxx_row!(sort_comparator Whole);
    cxx_row!(in_destructor Whole);
    cxx_row!(in_catch Whole);
    cxx_row!(std_thread Whole);

    counts! {
        o0_with_frame_pointers CXX_O0_KEEP 0 Whole,
        o0_without_frame_pointers CXX_O0_OMIT 0 Whole,
        o2_with_frame_pointers CXX_O2_KEEP 0 Whole,
        o2_without_frame_pointers CXX_O2_OMIT 0 Whole,
    }
}

mod rust {
    use super::*;

    macro_rules! rust_row {
        ($shape:ident $expect:ident) => {
            row! { $shape:
                o0_with_frame_pointers RUST_O0_KEEP $expect,
                o0_without_frame_pointers RUST_O0_OMIT $expect,
                o2_with_frame_pointers RUST_O2_KEEP $expect,
                o2_without_frame_pointers RUST_O2_OMIT $expect,
            }
        };
    }

    rust_row!(chain Whole);
    rust_row!(inlined WholeAndNamed);
    rust_row!(deep_100 Whole);
    rust_row!(deep_1000 CutShort);
    rust_row!(large_frames Whole);
    rust_row!(vec_reserve Whole);
    rust_row!(boxed_closure Whole);
    rust_row!(sort_comparator Whole);
    rust_row!(in_drop Whole);
    rust_row!(std_thread Whole);

    counts! {
        o0_with_frame_pointers RUST_O0_KEEP 1 Whole,
        o0_without_frame_pointers RUST_O0_OMIT 1 Whole,
        o2_with_frame_pointers RUST_O2_KEEP 1 Whole,
        o2_without_frame_pointers RUST_O2_OMIT 1 Whole,
    }
}
