//! Is a process in namespaces of its own, with a root file system of its own, traced and named as one
//! outside? What is mounted for that goes with the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::groups::Group;
use crate::processes::{DEADLINE, Target, need_root, wait_for};
use crate::programs::{Recipe, program};
use crate::report::{Held, Report, frame, names};
use crate::trace::Trace;

const FLAGS: [&str; 6] =
    ["-O1", "-g", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-fno-builtin", "-w"];

const DYNAMIC: Recipe = Recipe {
    name: "leak_three_in_container",
    compiler: "musl-gcc",
    flags: &FLAGS,
    sources: &["leak_three.c"],
};

const STATIC: Recipe = Recipe {
    name: "leak_three_in_container_static",
    compiler: "musl-gcc",
    flags: &[
        "-O1",
        "-g",
        "-fomit-frame-pointer",
        "-fno-optimize-sibling-calls",
        "-fno-builtin",
        "-w",
        "-static",
        // It frees nothing, and musl would leave that out.
        "-Wl,-u,free",
    ],
    sources: &["leak_three.c"],
};

/// A root with a program and musl, on a tmpfs that this mount namespace has alone.
const ON_TMPFS: &str = r#"
    mount -t tmpfs none "$1"
    mkdir "$1/root" "$1/root/lib" "$1/root/proc" "$1/root/old"
    cp "$2" "$1/root/program"
    cp /usr/lib/x86_64-linux-musl/libc.so "$1/root/lib/ld-musl-x86_64.so.1"
"#;

const IN_CHROOT: &str = r#"
    mount -t proc proc "$1/root/proc"
    exec chroot "$1/root" /program
"#;

/// The same with the Debian at `$3` below, which is left as it is: the program finds its C library there.
const ON_DEBIAN: &str = r#"
    mount -t tmpfs none "$1"
    mkdir "$1/root" "$1/root/old"
    cp "$2" "$1/root/program"
    mkdir "$1/upper" "$1/work" "$1/merged"
    mount -t overlay overlay -o "lowerdir=$1/root:$3,upperdir=$1/upper,workdir=$1/work" "$1/merged"
    mount -t proc proc "$1/merged/proc"
    cd "$1/merged"
    pivot_root . old
    umount -l old
    exec /program
"#;

const ON_OVERLAYFS: &str = r#"
    mkdir "$1/upper" "$1/work" "$1/merged"
    mount -t overlay overlay -o "lowerdir=$1/root,upperdir=$1/upper,workdir=$1/work" "$1/merged"
    mount -t proc proc "$1/merged/proc"
    cd "$1/merged"
    pivot_root . old
    exec /program
"#;

fn debian_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/packages/debian-root")
}

/// A process in namespaces of its own, and its id outside.
fn contained(program: &Path, script: &str, more: &[&str]) -> (Target, u32, tempfile::TempDir) {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child"]).args(more);
    command.args(["sh", "-ec", script, "sh"]).arg(folder.path()).arg(program);
    command.arg(debian_root());
    let target = Target::spawn(&mut command);
    let pid = target.pid();
    let children = format!("/proc/{pid}/task/{pid}/children");
    let pid = wait_for(DEADLINE, "a child of unshare", || {
        fs::read_to_string(&children).unwrap().trim().parse().ok()
    });
    (target, pid, folder)
}

/// Traces it by `options`, and wants the same answer as for any process.
fn check(mut target: Target, options: &[&str], pid: u32) {
    let mut args = options.to_vec();
    args.extend(["-o", "report.json", "--top", "1000", "--exact"]);
    let mut trace = Trace::start(&args);
    let line = trace.wait_for_tracing();
    assert!(line.contains(&format!("tracing {pid} program")), "{line}");
    target.work();
    let report = trace.interrupt();
    check_report(&report);
    assert!(target.end().success());
}

fn check_report(report: &Report) {
    report.assert_complete();
    assert_eq!(report.held_by("leak_here"), Held { bytes: 12_288, blocks: 3 });
    assert_eq!(report.totals(), Held { bytes: 12_288, blocks: 3 });
    let stack = &report.stacks()[0];
    assert_eq!(names(stack)[..2], ["leak_here", "main"]);
    for function in ["leak_here", "main"] {
        let frame = frame(stack, function).unwrap();
        let file = Path::new(frame["file"].as_str().unwrap());
        assert!(file.ends_with("leak_three.c"), "{frame}");
        assert!(frame["line"].as_u64().unwrap() > 5, "{frame}");
    }
}

#[test]
fn a_process_in_a_chroot_on_a_tmpfs_is_traced() {
    let (target, pid, _folder) = contained(&DYNAMIC.made(), &[ON_TMPFS, IN_CHROOT].concat(), &[]);
    check(target, &["-p", &pid.to_string()], pid);
}

#[test]
fn a_process_in_a_user_namespace_is_traced() {
    let (target, pid, _folder) =
        contained(&DYNAMIC.made(), &[ON_TMPFS, IN_CHROOT].concat(), &["--user", "--map-root-user"]);
    check(target, &["-p", &pid.to_string()], pid);
}

#[test]
fn a_process_on_an_overlayfs_is_traced_by_its_control_group() {
    let group = Group::new(&Group::name("overlay"));
    let (target, pid, _folder) =
        contained(&DYNAMIC.made(), &[ON_TMPFS, ON_OVERLAYFS].concat(), &[]);
    group.add(pid);
    check(target, &["--cgroup", group.directory().to_str().unwrap()], pid);
}

/// As in a container of Debian: its root is made by `debootstrap`, and nothing of the host is in it.
#[test]
fn a_process_in_a_debian_of_its_own_is_traced() {
    let debian = debian_root();
    assert!(debian.join("etc/debian_version").exists(), "{debian:?}: `cargo xtask test` makes it");
    let (target, pid, _folder) =
        contained(&program("leak_three.c"), ON_DEBIAN, &["--uts", "--ipc", "--net"]);
    check(target, &["-p", &pid.to_string()], pid);
}

#[test]
fn a_static_process_on_an_overlayfs_is_traced_by_its_container() {
    let id = format!("{:08x}{}", std::process::id(), "5eed".repeat(14));
    let group = Group::new(&format!("docker-{id}.scope"));
    let (target, pid, _folder) = contained(&STATIC.made(), &[ON_TMPFS, ON_OVERLAYFS].concat(), &[]);
    group.add(pid);
    check(target, &["--container", &id[..12]], pid);
}

/// leaktrace and the process are in one PID namespace, and neither knows the ids outside.
#[test]
fn leaktrace_traces_a_process_beside_it_in_a_pid_namespace() {
    need_root();
    let script = r#"
        "$1" <&3 &
        exec 3<&-
        until test -e begin; do sleep 0.02; done
        exec "$2" -p $! -o report.json --top 1000 --exact
    "#;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut command = Command::new("sh");
    let inside = "exec 3<&0 </dev/null; exec unshare --pid --fork --kill-child --mount-proc sh -ec \"$0\" sh \"$1\" \"$2\"";
    command.args(["-ec", inside, script]).arg(DYNAMIC.made()).arg(crate::programs::leaktrace());
    let mut trace = Trace::spawn_with_input(&mut command, reader);
    // Earlier it would be the shell still that is traced, or a program that begins.
    trace.wait_to_print("ready");
    fs::write(trace.file("begin"), "").unwrap();
    let line = trace.wait_for_tracing();
    assert!(line.contains("tracing 2 leak_three"), "{line}");
    // It works, and ends with its input.
    std::io::Write::write_all(&mut writer, b"go\n").unwrap();
    trace.wait_to_print("done leaked_bytes=12288");
    drop(writer);
    let report = trace.report();
    check_report(&report);
    assert_eq!(report.text("/trace/ended_by"), "target-exit");
}
