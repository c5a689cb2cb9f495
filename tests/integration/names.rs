//! Do live programs show the best names there are for them: stripped, deleted, replaced, in another
//! mount namespace, of a language that mangles, made by a JIT?

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::processes::{Target, need_root};
use crate::programs::{copy, variant};
use crate::report::{Held, Report, frame, names};
use crate::trace::{Trace, trace_program};

const THREE_BLOCKS: Held = Held { bytes: 12_288, blocks: 3 };

fn shell(dir: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

/// The first frame of a report whose function has `part` in its name.
fn first_frame<'a>(report: &'a Report, part: &str) -> &'a Value {
    let found = report.stacks().iter().find_map(|stack| frame(stack, part));
    found.unwrap_or_else(|| panic!("no {part}: {:#}", report.0))
}

fn file_name(frame: &Value) -> &str {
    frame["file"].as_str().and_then(|path| path.rsplit('/').next()).unwrap_or("")
}

/// Lets a target that is traced do all its work, and gives the report: complete.
fn finish(target: &mut Target, mut trace: Trace) -> Report {
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    report
}

/// As Fedora and its kin build a program (RPM's `find-debuginfo`): its full symbol table is gone,
/// `.dynsym` has what it exports, `.gnu_debugdata` has the other functions.
#[test]
fn a_stripped_program_is_named_by_its_mini_debug_information() {
    let dir = tempfile::tempdir().unwrap();
    let whole = variant("leak_three.c", "leak_three_exporting", &["-rdynamic"]);
    copy(&whole, dir.path().join("whole"));
    shell(
        dir.path(),
        "nm -D whole --format=posix --defined-only | awk '{ print $1 }' | sort >dynamic
         nm whole --format=posix --defined-only | awk '$2 ~ /[TtD]/ { print $1 }' | sort >all
         comm -13 dynamic all >kept
         objcopy --only-keep-debug whole debug
         objcopy -S --remove-section .comment --keep-symbols=kept debug mini
         xz mini
         strip --strip-all -o stripped whole
         objcopy --add-section .gnu_debugdata=mini.xz stripped leaker",
    );
    let report = trace_program(&dir.path().join("leaker"));
    assert_eq!(report.held_by("leak_here"), THREE_BLOCKS, "{:#}", report.0);
    assert_eq!(first_frame(&report, "leak_here")["line"], Value::Null);
    let stack = report.stacks().iter().find(|stack| frame(stack, "leak_here").is_some()).unwrap();
    assert_eq!(names(stack)[..2], ["leak_here", "main"], "main is in .dynsym only");
}

/// The files are no longer what their paths say: only the kernel still has them.
#[test]
fn a_deleted_program_and_a_replaced_library_keep_their_names() {
    let shared = ["-DLIBRARY", "-shared", "-fPIC", "-Wl,-soname,libleaks.so"];
    let library = variant("in_library.c", "libleaks.so", &shared);
    let decoy = [&shared[..], &["-Dleak_in_library=wrong", "-Dopen_page=wrong_too"]].concat();
    let decoy = variant("in_library.c", "libdecoy.so", &decoy);
    let flags = [library.to_str().unwrap(), "-Wl,-rpath,$ORIGIN"];
    let program = variant("in_library.c", "in_library", &flags);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    copy(&program, at("leaker"));
    copy(&library, at("libleaks.so"));
    copy(&decoy, at("decoy"));
    let mut target = Target::start::<&str>(&at("leaker"), &[]);
    fs::remove_file(at("leaker")).unwrap();
    fs::rename(at("decoy"), at("libleaks.so")).unwrap();
    let trace = Trace::attach(&target, &[]);
    let report = finish(&mut target, trace);
    assert_eq!(report.held_by("open_page"), Held { bytes: 5000, blocks: 5 }, "{:#}", report.0);
    assert_eq!(report.held_by("leak_in_program"), Held { bytes: 14_000, blocks: 7 });
    let inlined = first_frame(&report, "open_page");
    assert_eq!(inlined["inlined"], true);
    for (function, line) in [("open_page", 10), ("leak_in_library", 15), ("leak_in_program", 20)] {
        let frame = first_frame(&report, function);
        assert_eq!((file_name(frame), &frame["line"]), ("in_library.c", &line.into()), "{frame}");
    }
}

/// A container: the program, its debug file and its root directory are in a mount namespace that
/// leaktrace is not in.
#[test]
fn debug_files_are_found_in_the_targets_own_mount_namespace() {
    need_root();
    let check = |strip: &str, enter: &str| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let whole = variant("leak_three.c", "leak_three_with_id", &["-Wl,--build-id=sha1"]);
        copy(&whole, dir.path().join("leaker"));
        let script = format!(
            "mount -t tmpfs none root
             mkdir -p root/lib root/lib64 root/opt/.debug root/usr/lib/debug
             mount --bind /lib root/lib
             mount --bind /lib64 root/lib64
             mv leaker root/opt
             cd root
             objcopy --only-keep-debug opt/leaker opt/.debug/leaker.debug
             {strip}
             {enter}"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &script]).current_dir(dir.path());
        let mut target = Target::spawn(&mut command);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing of it is to be seen here");
        let trace = Trace::attach(&target, &[]);
        let report = finish(&mut target, trace);
        assert_eq!(report.held_by("leak_here"), THREE_BLOCKS, "{strip}: {:#}", report.0);
        let frame = first_frame(&report, "leak_here");
        assert_eq!((file_name(frame), &frame["line"]), ("leak_three.c", &7.into()), "{frame}");
    };
    // A container's, and that of a mere chroot, whose files have whole paths.
    let pivot = "mkdir old; pivot_root . old; exec /opt/leaker";
    let chroot = "exec chroot . /opt/leaker";
    let link = "strip --strip-all opt/leaker
         objcopy --add-gnu-debuglink=opt/.debug/leaker.debug opt/leaker";
    check(link, pivot);
    check(link, chroot);
    check(
        "id=$(readelf -n opt/leaker | awk '/Build ID/ { print $3 }')
         rest=${id#??}
         mkdir -p usr/lib/debug/.build-id/${id%$rest}
         mv opt/.debug/leaker.debug usr/lib/debug/.build-id/${id%$rest}/$rest.debug
         strip --strip-all opt/leaker",
        pivot,
    );
}

/// Names from symbol tables alone: DWARF would have them unmangled.
#[test]
fn mangled_names_are_read_back_without_debug_information() {
    let check = |report: &Report, function: &str, held: Held| {
        assert_eq!(report.held_under(function), held, "{function}: {:#}", report.0);
        let frame = first_frame(report, function);
        assert_eq!((&frame["function"], &frame["line"]), (&function.into(), &Value::Null));
    };
    let invoices = Held { bytes: 75_025, blocks: 25 };
    // Mangled as the compiler does by default, which is the older way in Rust 1.95.
    let kinds: [(&str, &[&str]); 2] =
        [("rust_leak_bare", &[]), ("rust_leak_v0", &["-Csymbol-mangling-version=v0"])];
    for (name, mangling) in kinds {
        let flags = [&["-Cstrip=debuginfo"], mangling].concat();
        let report = trace_program(&variant("rust_leak.rs", name, &flags));
        check(&report, "rust_leak::billing::forget_invoice", invoices);
    }
    let report = trace_program(&variant("cxx_leak.cc", "cxx_leak_bare", &["-g0"]));
    check(&report, "shop::Ledger::pages(int)", Held { bytes: 16_000, blocks: 20 });
    let receipts = Held { bytes: 6000, blocks: 50 };
    check(&report, "shop::Cache<shop::Receipt>::remember(int)", receipts);
}

/// The only child of a process.
fn only_child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("not one child of {pid}: {children:?}"))
}

/// Node.js in a container, whose perf map is that of process 1 in a `/tmp` of its own. V8's names
/// have a kind before them, which is another in each version. It leaves a log where it runs.
#[test]
fn javascript_is_named_by_the_perf_map_of_a_container() {
    need_root();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/node_leak.js");
    let in_container = "exec 3<$0
         mount -t tmpfs none /tmp
         cd /tmp
         cat <&3 >/tmp/shop.js
         exec 3<&-
         exec node --perf-basic-prof --interpreted-frames-native-stack /tmp/shop.js";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", in_container]);
    let mut target = Target::spawn(command.arg(script));
    let trace = Trace::attach_pids(&[only_child(target.pid())], &[]);
    let report = finish(&mut target, trace);
    // The buffers and what V8 keeps of each; see node_leak.js for why some can be missing.
    for (function, least_bytes) in [("leakBuffers", 4_500_000), ("handleRequest", 5_000_000)] {
        let held = report.held_under(&format!("{function} /tmp/shop.js:"));
        let bytes = least_bytes..5_100_000;
        assert!(bytes.contains(&held.bytes), "{function}: {held:?} {:#}", report.0);
        assert_eq!(first_frame(&report, function)["module"], "[jit]");
    }
    assert!(target.end().success());
}
