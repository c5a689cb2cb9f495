//! The same programs with one allocator and another: linked, in the library that is loaded first, or
//! as a crate.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::programs::Recipe;

const C: &[&str] = &[
    "-O1",
    "-g",
    "-fomit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-builtin",
    "-w",
    "-pthread",
    // The library is needed though nothing asks for its names.
    "-Wl,--no-as-needed",
];

/// How a program comes by its allocator.
#[derive(Clone, Copy)]
pub(crate) enum From {
    /// A compiler, and flags behind the source.
    Linked(&'static str, &'static [&'static str]),
    /// A library that the dynamic loader loads before all others.
    Preloaded(&'static str),
    /// A program of `programs/rust_allocators`.
    Cargo(&'static str),
}

/// A program with its allocator, to be started.
pub(crate) struct Built {
    pub(crate) program: PathBuf,
    preload: Option<&'static str>,
}

impl Built {
    /// `name` is the program's, and no other's; `source` a file of `programs/allocators`.
    pub(crate) fn of(name: &'static str, source: &'static str, from: From) -> Self {
        let compiler = if source.ends_with(".cc") { "g++" } else { "gcc" };
        let made = |compiler: &'static str, flags: &[&str]| {
            let sources: &'static [&'static str] = Box::leak(Box::new([source]));
            let recipe = Recipe { name, compiler, flags: C, sources };
            recipe.made_with(flags)
        };
        match from {
            From::Linked(compiler, flags) => Self { program: made(compiler, flags), preload: None },
            From::Preloaded(library) => {
                Self { program: made(compiler, &[]), preload: Some(library) }
            }
            From::Cargo(program) => Self { program: crate_program(program), preload: None },
        }
    }

    /// The program that calls every function there is, with the C++ operators if its flags have what
    /// those need.
    pub(crate) fn that_calls_all(
        name: &'static str,
        compiler: &'static str,
        flags: &[&str],
        operators: bool,
    ) -> Self {
        const OPERATORS: Recipe = Recipe {
            name: "api_operators.o",
            compiler: "g++",
            flags: C,
            sources: &["allocators/api_operators.cc"],
        };
        const SOURCE: &[&str] = &["allocators/api_calls.c"];
        let recipe = Recipe { name, compiler, flags: C, sources: SOURCE };
        let mut all = vec!["-fPIE"];
        let object = operators.then(|| OPERATORS.made_with(&["-fPIE", "-c"]));
        all.extend(object.iter().filter_map(|object| object.to_str()));
        all.extend(flags);
        Self { program: recipe.made_with(&all), preload: None }
    }

    /// The command that starts it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(library) = self.preload {
            command.env("LD_PRELOAD", library);
        }
        command
    }

    /// The same as words on a command line, of a command that loads nothing itself.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = match self.preload {
            Some(library) => vec!["env".into(), format!("LD_PRELOAD={library}").into()],
            None => Vec::new(),
        };
        words.push(self.program.clone().into());
        words
    }
}

/// One of the programs of `programs/rust_allocators`, which are built together.
fn crate_program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let sources =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/rust_allocators/Cargo.toml");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust_allocators");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args(["build", "--quiet", "--release", "--locked", "--manifest-path"]).arg(sources);
        let output = cargo.arg("--target-dir").arg(&folder).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{cargo:?}: {}\n{says}", output.status);
        folder.join("release")
    });
    folder.join(name)
}
