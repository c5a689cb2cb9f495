//! Where a program's names are: in itself, in a separate file, in what stripping has left.

use super::*;

#[test]
fn where_the_debug_information_is() {
    let check = |compiler: &[&str], steps: &[&[&str]], expected: &[_], warning: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        let program = compile(dir.path(), compiler);
        for step in steps {
            run(step[0], &step[1..], dir.path());
        }
        let running = Running::start(&program);
        let mut symbolizer = in_process();
        let frames = frames_of(&mut symbolizer, &running);
        assert_eq!(outline(&frames), expected, "{compiler:?} {steps:?}");
        let warnings = symbolizer.warnings().join("\n");
        assert_eq!(!warnings.is_empty(), warning.is_some(), "{warnings}");
        assert!(warnings.contains(warning.unwrap_or("")), "{warnings}");
    };
    let separate: &[&str] = &["objcopy", "--only-keep-debug", "leak", "leak.debug"];
    let strip: &[&str] = &["strip", "--strip-all", "leak"];
    let link: &[&str] = &["objcopy", "--add-gnu-debuglink=leak.debug", "leak"];
    let id: &[&str] = &["-g", "-Wl,--build-id=sha1"];
    let no_id: &[&str] = &["-g", "-Wl,--build-id=none"];
    check(&["-g", "-gz=zlib"], &[], INLINED, None);
    check(&[], &[], NAME_ONLY, None);
    check(id, &[separate, strip], NOTHING, Some("it is stripped"));
    check(id, &[separate, strip, link], INLINED, None);
    check(no_id, &[separate, strip, link], INLINED, None);
    let move_it: &[&str] = &["sh", "-c", "mkdir .debug && mv leak.debug .debug"];
    check(id, &[separate, strip, link, move_it], INLINED, None);
    // A debug file of another program: by build id, by CRC.
    let other: &[&str] = &[
        "sh",
        "-c",
        "sed s/outer/wrong/ leak.c >x.c && gcc -g -O2 x.c -o x -Wl,--build-id=sha1 && \
         objcopy --only-keep-debug x leak.debug",
    ];
    check(id, &[separate, strip, link, other], NOTHING, Some("it is stripped"));
    check(no_id, &[separate, strip, link, other], NOTHING, Some("it is stripped"));
    // Something that must not be opened in its place.
    let fifo: &[&str] = &["sh", "-c", "rm leak.debug && mkfifo leak.debug"];
    check(id, &[separate, strip, link, fifo], NOTHING, Some("it is stripped"));
    // With its own debug information and a link: what blazesym would make of it is up to the target.
    check(id, &[separate, link], INLINED, None);
    let remove: &[&str] = &["rm", "leak.debug"];
    check(id, &[separate, link, remove], NAME_ONLY, Some("refers to another file"));
}

/// What Fedora makes of a program (RPM's `find-debuginfo`, "add_minidebug"): its symbols but those
/// that `.dynsym` has, in an ELF file with nothing else, packed.
const MINI: &str = r"set -e
nm -D leak --format=posix --defined-only | awk '{ print $1 }' | sort >dynamic
nm leak --format=posix --defined-only | awk '$2 ~ /[TtD]/ { print $1 }' | sort >all
comm -13 dynamic all >kept
objcopy --only-keep-debug leak leak.debug
objcopy -S --remove-section .comment --keep-symbols=kept leak.debug mini
strip --strip-all -R .comment leak
xz mini
objcopy --add-section .gnu_debugdata=mini.xz leak";

#[test]
fn mini_debug_information_and_exported_functions_name_a_stripped_program() {
    let check = |options: &[&str], more: &str, expected: &[_], warning: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        let program = compile(dir.path(), &[&["-g", "-Wl,--build-id=sha1"], options].concat());
        run("sh", &["-c", &format!("{MINI}\n{more}")], dir.path());
        let running = Running::start(&program);
        let mut symbolizer = in_process();
        let frames = frames_of(&mut symbolizer, &running);
        assert_eq!(outline(&frames), expected, "{options:?} {more}");
        let warnings = symbolizer.warnings().join("\n");
        assert_eq!(!warnings.is_empty(), warning.is_some(), "{warnings}");
        assert!(warnings.contains(warning.unwrap_or("")), "{warnings}");
    };
    let exported: &[&str] = &["-rdynamic"];
    let replace =
        |with: &str| format!("{with} | cat >x; objcopy --update-section .gnu_debugdata=x leak");
    check(&[], "rm leak.debug", NAME_ONLY, None);
    check(exported, "rm leak.debug; ! grep outer kept", NAME_ONLY, None);
    // The separate file has more.
    check(&[], "objcopy --add-gnu-debuglink=leak.debug leak", INLINED, None);
    // What is damaged costs only its own names.
    let unreadable = Some("its mini debug information cannot be read");
    check(&[], &replace("echo nonsense"), NOTHING, unreadable);
    check(exported, &replace("head -c 100 mini.xz"), NAME_ONLY, unreadable);
    check(exported, &replace("echo no ELF file | xz"), NAME_ONLY, unreadable);
    check(exported, &replace("head -c 65M /dev/zero | xz"), NAME_ONLY, Some("than 64 MiB"));
    check(exported, &replace("xz --lzma2=dict=128MiB <all"), NAME_ONLY, unreadable);
}
