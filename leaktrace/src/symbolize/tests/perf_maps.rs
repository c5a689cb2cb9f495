//! Names of generated code, as the worker answers for them.

use super::*;

#[test]
fn generated_code_is_named_by_the_perf_map() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("perf-1.map");
    fs::write(&path, "1000 10 Builtin:leak\n").unwrap();
    let ask = |addresses: &[u64]| Request::PerfMap {
        path: path.to_str().unwrap().to_owned(),
        uid: 0,
        addresses: addresses.to_vec(),
    };
    let mut engine = worker::Engine::default();
    let answer = engine.answer(&ask(&[0x100f, 0x1010]));
    assert_eq!(answer.symbols[0][0].function, "Builtin:leak");
    assert!(answer.symbols[1].is_empty());
    fs::remove_file(&path).unwrap();
    let answer = engine.answer(&ask(&[0x1000]));
    assert_eq!(answer.symbols[0][0].function, "Builtin:leak", "the target is gone");
    let answer = worker::Engine::default().answer(&ask(&[0x1000]));
    assert!(answer.error.is_some() && answer.symbols == [[]]);
}
