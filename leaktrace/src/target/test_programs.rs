//! Small programs for this room's tests, built from C or C++ when a test asks.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::model::Pid;

/// Builds `source` in `directory`.
pub(super) fn build(compiler: &str, source: &Path, directory: &Path, flags: &[&str]) -> PathBuf {
    let program = directory.join("program");
    let status =
        Command::new(compiler).arg(source).args(flags).arg("-o").arg(&program).status().unwrap();
    assert!(status.success(), "{compiler} {flags:?} {}", source.display());
    program
}

/// Runs a C program and looks at it once it has written a byte; it must then wait to be killed.
pub(super) fn at_program(source: &str, look: impl FnOnce(Pid)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("source.c");
    std::fs::write(&path, source).unwrap();
    let program = build("gcc", &path, directory.path(), &["-pthread"]);
    let mut child = Command::new(program).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        look(Pid::new(child.id()).unwrap());
    }));
    child.kill().unwrap();
    child.wait().unwrap();
    if let Err(panic) = looked {
        std::panic::resume_unwind(panic);
    }
}

/// The same with a program that has some functions, and has mapped a file's code without the dynamic loader.
pub(super) fn at_program_that_maps(file: &Path, functions: &str, look: impl FnOnce(Pid)) {
    let source = format!(
        r#"
        #include <fcntl.h>
        #include <sys/mman.h>
        #include <unistd.h>
        {functions}
        int main(void) {{
            int file = open("{}", O_RDONLY);
            mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
            write(1, "x", 1);
            for (;;) pause();
        }}"#,
        file.display()
    );
    at_program(&source, look);
}
