//! Real programs, and files made to harm, through the whole room.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;

use super::asker::{Backend, MOST_FAILURES};
use super::client::Client;
use super::*;
use crate::model::Addr;

mod debug_files;
mod perf_maps;

/// Prints the address behind the call in `inner`, which is inlined into `outer`, then waits for its
/// standard input to be closed.
const PROGRAM: &str = r#"#include <stdio.h>
__attribute__((noinline)) void *here(void) { return __builtin_return_address(0); }
static inline __attribute__((always_inline)) void *inner(int *x) {
    void *p = here();
    *x += 1;
    return p;
}
__attribute__((noinline)) void *outer(int *x) {
    void *p = inner(x);
    *x += 2;
    return p;
}
int main(void) {
    int x = 0;
    printf("%p\n", outer(&x));
    fflush(stdout);
    return getchar() == 'x';
}
"#;

fn run(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn compile(dir: &Path, options: &[&str]) -> PathBuf {
    fs::write(dir.join("leak.c"), PROGRAM).unwrap();
    run("gcc", &[&["-O2", "leak.c", "-o", "leak"], options].concat(), dir);
    dir.join("leak")
}

/// A running program and the return address it printed; it ends with this value.
struct Running {
    child: Child,
    image: Image,
    address: Addr,
}

impl Running {
    fn start(program: &Path) -> Self {
        let mut child =
            Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).unwrap();
        let image = Image::capture(Pid::new(child.id()).unwrap()).unwrap();
        Self { child, image, address: Addr(address) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

fn in_process() -> Symbolizer {
    let engine = Box::new(worker::Engine::default());
    let backend = Backend::InProcess(engine);
    Symbolizer::with_asker(Asker::with_backend(backend, Duration::from_secs(60)))
}

fn frames_of(symbolizer: &mut Symbolizer, running: &Running) -> Vec<Frame> {
    symbolizer.symbolize(&running.image, &[CodeAddr::returning_to(running.address)]).remove(0)
}

/// Function, file name, line, inlined.
fn outline(frames: &[Frame]) -> Vec<(&str, &str, Option<u32>, bool)> {
    let file = |f: &str| f.len() - f.rsplit('/').next().map_or(0, str::len);
    let outline = frames.iter().map(|f| {
        let path = f.file.as_deref().unwrap_or("");
        (f.function.as_deref().unwrap_or(""), &path[file(path)..], f.line, f.inlined)
    });
    outline.collect()
}

const INLINED: &[(&str, &str, Option<u32>, bool)] =
    &[("inner", "leak.c", Some(4), true), ("outer", "leak.c", Some(9), false)];
const NAME_ONLY: &[(&str, &str, Option<u32>, bool)] = &[("outer", "", None, false)];
const NOTHING: &[(&str, &str, Option<u32>, bool)] = &[("", "", None, false)];

#[test]
fn functions_lines_and_inlined_frames() {
    let dir = tempfile::tempdir().unwrap();
    let program = compile(dir.path(), &["-g"]);
    let running = Running::start(&program);
    let mut symbolizer = in_process();
    let frames = frames_of(&mut symbolizer, &running);
    assert_eq!(outline(&frames), INLINED);
    for frame in &frames {
        assert_eq!(frame.ip, running.address);
        assert_eq!(frame.module.as_deref(), program.to_str());
        assert_eq!(frame.build_id.as_ref().map(String::len), Some(40));
        let located = running.image.locate(running.address).unwrap();
        assert_eq!(frame.module_offset, Some(located.file_offset));
    }
    assert_eq!(symbolizer.warnings(), Vec::<String>::new());
    assert_eq!(culprit(&frames), Some(0));
}

#[test]
fn names_are_remembered_when_the_target_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(&compile(dir.path(), &["-g"]));
    let mut symbolizer = in_process();
    let before = frames_of(&mut symbolizer, &running);
    symbolizer.asker.backend = Backend::Worker(Client::new(broken_worker("exit 1")));
    assert_eq!(frames_of(&mut symbolizer, &running), before);
    assert!(symbolizer.warnings().is_empty());
}

#[test]
fn a_file_that_makes_the_worker_fail_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(&compile(dir.path(), &["-g"]));
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(20));
    let scripts = [("exec sleep 100", short), ("exit 1", long), ("read x; echo garbage", long)];
    for (script, answer_time) in scripts {
        let options = Options { answer_time, ..broken_worker(script) };
        let mut symbolizer = Symbolizer::new(options);
        for _ in 0..3 {
            assert_eq!(outline(&frames_of(&mut symbolizer, &running)), NOTHING);
        }
        assert_eq!(symbolizer.asker.failures, 2, "{script}");
        let warnings = symbolizer.warnings();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("debug information of /"), "{warnings:?}");
        assert!(warnings[0].ends_with("; its frames have no lines"), "{warnings:?}");
        assert!(warnings[1].starts_with("symbols of /"), "{warnings:?}");
        assert!(warnings[1].ends_with("; its frames have no names"), "{warnings:?}");
        assert!(symbolizer.warnings().is_empty(), "said once");
    }
}

#[test]
fn debug_information_that_makes_the_worker_fail_costs_only_the_lines() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(&compile(dir.path(), &["-g"]));
    let script = r#"while read x; do case $x in
        *'"dwarf":true'*) exit 1;;
        *) echo '{"symbols":[[{"function":"outer"}]]}';;
    esac; done"#;
    let mut symbolizer = Symbolizer::new(broken_worker(script));
    for _ in 0..2 {
        assert_eq!(outline(&frames_of(&mut symbolizer, &running)), NAME_ONLY);
    }
    let warnings = symbolizer.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].ends_with("; its frames have no lines"), "{warnings:?}");
    let file = running.image.locate(running.address).unwrap().file.unwrap();
    let answer = worker::Engine::default().answer(&Request::Module {
        open: file.proc_path().to_str().unwrap().to_owned(),
        path: file.raw_path.clone(),
        root: "/".to_owned(),
        offsets: vec![running.image.locate(running.address).unwrap().file_offset - 1],
        dwarf: false,
    });
    assert_eq!(answer.symbols[0].len(), 1);
    assert_eq!(
        (answer.symbols[0][0].function.as_str(), answer.symbols[0][0].line),
        ("outer", None)
    );
}

#[test]
fn without_a_worker_frames_have_no_names() {
    let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
    let code: Vec<CodeAddr> = image
        .files()
        .flat_map(|file| image.code_of(file.id))
        .map(|m| CodeAddr::returning_to(Addr(m.start.0 + 1)))
        .collect();
    let options = Options { program: "/none".into(), ..Options::default() };
    let mut symbolizer = Symbolizer::new(options);
    for frames in symbolizer.symbolize(&image, &code) {
        assert!(frames[0].function.is_none() && frames[0].module.is_some());
    }
    let warnings = symbolizer.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("/none cannot be started"), "{warnings:?}");
}

#[test]
fn after_many_failures_no_more_files_are_tried() {
    let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
    let file = image.files().next().unwrap();
    let mut symbolizer = Symbolizer::new(broken_worker("exit 1"));
    let until = Instant::now() + Duration::from_secs(60);
    let request = Request::Module {
        open: file.proc_path().to_str().unwrap().to_owned(),
        path: file.raw_path.clone(),
        root: "/".to_owned(),
        offsets: vec![0],
        dwarf: true,
    };
    for number in 0..2 * MOST_FAILURES {
        assert!(
            symbolizer
                .asker
                .ask(&request, &format!("symbols of {number}"), "names", until)
                .is_err()
        );
    }
    assert_eq!(symbolizer.asker.failures, MOST_FAILURES);
    let warnings = symbolizer.warnings();
    assert_eq!(warnings.len(), MOST_FAILURES + 1);
    assert!(warnings[MOST_FAILURES].contains("given up"), "{warnings:?}");
}

fn broken_worker(script: &str) -> Options {
    Options {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        ..Options::default()
    }
}

#[test]
fn names_that_would_harm_a_terminal_are_made_printable() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(&compile(dir.path(), &["-g"]));
    let script =
        r#"read x; printf '%s\n' '{"symbols":[[{"function":"\u001b[2J","file":"\u202e"}]]}'"#;
    let frames = frames_of(&mut Symbolizer::new(broken_worker(script)), &running);
    assert_eq!(frames[0].function.as_deref(), Some("\u{fffd}[2J"));
    assert_eq!(frames[0].file.as_deref(), Some("\u{fffd}"));
}

#[test]
fn places_without_a_file() {
    let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
    let vdso = image.mappings().iter().find(|m| m.path == "[vdso]").unwrap();
    let mut symbolizer = in_process();
    let found = symbolizer.symbolize(
        &image,
        &[vdso.start.0 + 16, 0, u64::MAX >> 1].map(|a| CodeAddr::returning_to(Addr(a))),
    );
    assert_eq!(found[0][0].module.as_deref(), Some("[vdso]"));
    assert_eq!(found[0][0].function, None);
    for (frames, ip) in [(&found[1], Addr(0)), (&found[2], Addr(u64::MAX >> 1))] {
        assert_eq!(frames, &[Frame { ip, ..Frame::default() }]);
    }
}

#[test]
fn an_address_in_the_stack_asks_for_no_perf_map() {
    let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
    let stack = image.mappings().iter().find(|m| m.path == "[stack]").unwrap();
    let mut symbolizer = in_process();
    let found = symbolizer.symbolize(&image, &[CodeAddr::returning_to(Addr(stack.start.0 + 16))]);
    assert_eq!(found[0][0].module.as_deref(), Some("[stack]"));
    assert_eq!(symbolizer.warnings(), Vec::<String>::new());
}

#[test]
fn a_c_function_named_f_is_not_float() {
    let dir = tempfile::tempdir().unwrap();
    for (options, lines) in [(&["-g"][..], true), (&[], false)] {
        for name in ["a", "b", "f", "w"] {
            let define = format!("-Douter={name}");
            let running = Running::start(&compile(dir.path(), &[options, &[&define]].concat()));
            let mut symbolizer = in_process();
            let frames = frames_of(&mut symbolizer, &running);
            assert_eq!(frames.last().unwrap().function.as_deref(), Some(name));
            assert_eq!(frames.last().unwrap().line.is_some(), lines);
        }
    }
}

#[test]
fn this_very_program() {
    let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
    let entry = this_very_program as fn() as usize as u64;
    let frames =
        in_process().symbolize(&image, &[CodeAddr::returning_to(Addr(entry + 1))]).remove(0);
    let name = frames.last().unwrap().function.as_deref().unwrap();
    assert!(name.ends_with("symbolize::tests::this_very_program"), "{name}");
    assert!(frames[0].file.as_deref().unwrap().ends_with("src/symbolize/tests.rs"));
}

/// What the worker says about a file.
fn answer_for(path: &Path, offsets: &[u64]) -> Answer {
    worker::Engine::default().answer(&Request::Module {
        open: path.to_str().unwrap().to_owned(),
        path: path.to_str().unwrap().to_owned(),
        root: "/".to_owned(),
        offsets: offsets.to_vec(),
        dwarf: true,
    })
}

#[test]
fn truncated_files_answer_without_harm() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(compile(dir.path(), &["-g"])).unwrap();
    let path = dir.path().join("cut");
    for length in (0..whole.len()).step_by(whole.len() / 40) {
        fs::write(&path, &whole[..length]).unwrap();
        let answer = answer_for(&path, &[0x1000, 0x1100, u64::MAX >> 1]);
        assert_eq!(answer.symbols.len(), 3);
        if length < 64 {
            assert!(answer.error.unwrap().contains("64-bit ELF"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_files_answer_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("random");
        let magic = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        fs::write(&path, [&magic, bytes.as_slice()].concat()).unwrap();
        prop_assert_eq!(answer_for(&path, &[0, 64, 1 << 40]).symbols.len(), 3);
    }
}
