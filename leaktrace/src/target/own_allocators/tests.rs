//! Which of a user's functions make sense together.

use super::*;

fn allocates(name: &str, fixed_bytes: Option<u64>) -> OwnFunction {
    let place = Place::Symbol { name: name.to_owned(), object: None };
    OwnFunction { place, signature: Signature::of(Kind::Allocate), fixed_bytes, throws: false }
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
    assert!(own.functions.iter().all(|f| f.signature.encloses != f.frees()));
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
