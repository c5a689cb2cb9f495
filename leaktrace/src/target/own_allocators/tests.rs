//! Which of a user's functions make sense together.

use super::*;
use crate::target::elf::Elf;
use crate::target::sites::Role;
use crate::target::tails::Bounds;
use crate::target::test_programs::{at_program_that_maps, build};
use crate::target::{Budget, Image, Plan};

fn allocates(name: &str, fixed_bytes: Option<u64>) -> OwnFunction {
    let place = Place::Symbol { name: name.to_owned(), object: None };
    OwnFunction {
        place,
        signature: Signature::of(Kind::Allocate),
        fixed_bytes,
        exceptions: Exceptions::NotSaid,
    }
}

#[test]
fn sizes_have_a_number_each() {
    let own = OwnAllocators::of(vec![
        allocates("a", Some(64)),
        allocates("b", Some(4096)),
        OwnFunction { signature: Signature::of(Kind::Allocate).size(0), ..allocates("c", None) },
        allocates("d", Some(64)),
        allocates("e", None),
        OwnFunction { signature: Signature::of(Kind::Free).pointer(0), ..allocates("f", None) },
    ])
    .unwrap();
    let numbers: Vec<u8> = own.functions.iter().map(|f| f.signature.fixed_size).collect();
    assert_eq!(numbers, [1, 2, 0, 1, 3, 0]);
    assert_eq!(own.fixed_sizes()[..5], [1, 64, 4096, 1, 0]);
    assert!(own.functions.iter().all(|f| f.signature.form == Form::Own));
    assert!(own.functions.iter().all(|f| f.signature.encloses));
    let [note] = own.notes().try_into().unwrap();
    assert!(note.starts_with("nothing says how large the blocks of e are"), "{note}");
    assert_eq!(OwnAllocators::default().notes(), [""; 0]);
    assert_eq!(OwnAllocators::default().fixed_sizes()[..2], [1, 0]);
}

#[test]
fn there_is_an_end_to_what_can_be_named() {
    let many = |n: u64| (1..=n).map(|n| allocates(&format!("f{n}"), Some(n))).collect();
    let of = |functions| OwnAllocators::of(functions).map(|own: OwnAllocators| own.functions.len());
    assert_eq!(of(many(63)), Ok(63));
    assert_eq!(of(many(64)), Err(OwnError::Sizes(64)));
    assert_eq!(of(many(257)), Err(OwnError::TooMany(257)));
    assert_eq!(of([many(2), many(1)].concat()), Err(OwnError::Twice("f1".to_owned())));
}

/// How the return of a function of this program is seen: at its return instruction, or by a return probe.
fn on_return_instruction(
    name: &str,
    by_address: bool,
    exceptions: Exceptions,
) -> Result<bool, String> {
    const SOURCE: &str = r#"
        #include <stddef.h>
        struct Pool { void *(*grow)(size_t); char *take(size_t), *first(); void *pass_on(size_t); };
        char *Pool::take(size_t size) { return (char *)grow(size) + 1; }
        char *Pool::first() { return (char *)this + 16; }
        void *Pool::pass_on(size_t size) { return grow(size); }
        extern "C" char *plain(Pool *pool, size_t size) { return (char *)pool->grow(size) + 1; }
    "#;
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("pool.cc");
    std::fs::write(&source, SOURCE).unwrap();
    let library = build("g++", &source, directory.path(), &["-O2", "-shared", "-fPIC"]);
    let file = std::fs::File::open(library).unwrap();
    let elf = Elf::open(&file).unwrap();
    let [function] = elf.functions(|symbol| symbol.contains(name)).unwrap().try_into().unwrap();
    let place = match by_address {
        true => Place::Address { object: "program".to_owned(), address: function.address },
        false => Place::Symbol { name: name.to_owned(), object: None },
    };
    let signature = Signature::of(Kind::Allocate).size(1);
    let own = OwnFunction { place, signature, fixed_bytes: None, exceptions };
    let bounds = Bounds::of(&elf);
    let throws = exceptions::may_pass(&bounds, &own, &function);
    let sites = exceptions::sites(&bounds, &own, throws, &function)?;
    let returns = sites.iter().filter(|site| site.role == Role::AllocReturn);
    let on_instruction: Vec<bool> = returns.map(|site| site.on_return_instruction).collect();
    let [on_instruction] = on_instruction[..] else { panic!("{name}: {on_instruction:?}") };
    assert_eq!(on_instruction, throws);
    Ok(on_instruction)
}

/// An exception that meets a return probe ends the process.
#[test]
fn what_an_exception_may_pass_has_no_return_probe_unless_the_user_says_so() {
    use Exceptions::{Never, NotSaid, Pass};
    for by_address in [false, true] {
        let check = |name, exceptions| on_return_instruction(name, by_address, exceptions);
        assert_eq!(check("take", NotSaid), Ok(true));
        assert_eq!(check("take", Pass), Ok(true));
        assert_eq!(check("take", Never), Ok(false));
        // It calls nothing that could throw.
        assert_eq!(check("first", NotSaid), Ok(false));
        // Of C, as far as anybody knows; an address has no name.
        assert_eq!(check("plain", NotSaid), Ok(by_address));
        assert_eq!(check("plain", Pass), Ok(true));
        // It ends in a jump to who knows where.
        let error = check("pass_on", NotSaid).unwrap_err();
        assert!(error.starts_with("an exception may pass through it, and it ends in"), "{error}");
        assert!(error.contains("`nothrow`"), "{error}");
        let error = check("pass_on", Pass).unwrap_err();
        assert!(!error.contains("`nothrow`"), "{error}");
        assert_eq!(check("pass_on", Never), Ok(false));
    }
}

/// The program has the function, and the library so many names like it that not all are looked at.
#[test]
fn giving_up_in_one_file_is_said_though_another_has_the_function() {
    let directory = tempfile::tempdir().unwrap();
    let names = directory.path().join("names.s");
    let name =
        |n| format!(".globl _Z5g{n:04}P1f\n.type _Z5g{n:04}P1f,@function\n_Z5g{n:04}P1f:ret\n");
    std::fs::write(&names, (0..4100).map(name).collect::<String>()).unwrap();
    let library = build("gcc", &names, directory.path(), &["-shared", "-nostdlib"]);
    let function = "__attribute__((noipa)) void *f(void) __asm__(\"_Z1fv\");
        void *f(void) { return 0; }";
    at_program_that_maps(&library, function, |pid| {
        let image = Image::capture(pid).unwrap();
        let own = OwnAllocators::of(vec![allocates("f", Some(8))]).unwrap();
        let mut plan = Plan::default();
        add_to(&mut plan, &image, &own, &Budget::for_plan());
        assert_eq!(plan.probes.iter().filter(|probe| probe.function == "f").count(), 2);
        let [failure] = &plan.failures[..] else { panic!("{:?}", plan.failures) };
        assert_eq!(failure.module, library.to_str().unwrap());
        assert!(failure.error.starts_with("too many symbols contain its name"), "{failure:?}");
    });
}
