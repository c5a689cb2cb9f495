//! A compiler run: the C++ compiler proper, on a generated file that it reads from a pipe. So it
//! waits until a tracer sits on it, and its run is traced from the first to the last byte.

use std::env::temp_dir;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::bench::process::Process;
use crate::bench::steady::{Progress, wrapped};
use crate::workspace::output;

/// The compiler and its input, preprocessed.
pub(crate) struct Compiler {
    program: PathBuf,
    source: Vec<u8>,
}

impl Compiler {
    /// With a file of so many types, each with a map, a sort and a stream of its own: about 0.3
    /// CPU seconds each, and 0.8 for the headers. With none, it is one header.
    pub(crate) fn new(types: u32) -> Result<Self> {
        let program = output(Command::new("g++").arg("-print-prog-name=cc1plus"))?;
        let file = temp_dir().join(format!("leaktrace-bench-{}.cc", std::process::id()));
        fs::write(&file, generate(types)?)?;
        let source = output(Command::new("g++").arg("-E").arg(&file));
        fs::remove_file(&file)?;
        Ok(Self { program: Path::new(program.trim()).to_owned(), source: source?.into_bytes() })
    }

    /// Starts it, on its own or under a tool; it waits for its input.
    pub(crate) fn start(&self, under: &[&str]) -> Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(["-fpreprocessed", "-quiet", "-O2", "-o", "/dev/null", "-"]);
        Process::start(&mut wrapped(under, command))
    }

    /// Gives it its input, and waits for its end.
    pub(crate) fn finish(&self, process: &mut Process) -> Result<Progress> {
        let started = Instant::now();
        process.feed(&self.source)?;
        let cpu_s = process.wait_and_account()?;
        let wall_s = started.elapsed().as_secs_f64();
        Ok(Progress { units: 1.0, wall_s, cpu_s, leaked_bytes: 0.0 })
    }
}

const HEADERS: [&str; 6] = ["algorithm", "map", "memory", "sstream", "string", "vector"];

fn generate(types: u32) -> Result<String> {
    let mut source = String::new();
    let headers: &[&str] = if types == 0 { &["vector"] } else { &HEADERS };
    for header in headers {
        writeln!(source, "#include <{header}>")?;
    }
    for number in 0..types {
        source.push_str(&ONE_TYPE.replace("NUMBER", &number.to_string()));
    }
    Ok(source)
}

const ONE_TYPE: &str = "
struct RecordNUMBER {
    int key;
    std::string name;
    std::vector<double> values;
    bool operator<(const RecordNUMBER &o) const { return key < o.key || name < o.name; }
};
int use_NUMBER(int seed) {
    std::map<std::string, RecordNUMBER> records;
    for (int j = 0; j < seed; j++) {
        RecordNUMBER r{j * NUMBER, std::to_string(j), {1.0 * j, NUMBER.5}};
        records.emplace(r.name, r);
    }
    std::vector<std::shared_ptr<RecordNUMBER>> sorted;
    for (auto &entry : records)
        sorted.push_back(std::make_shared<RecordNUMBER>(entry.second));
    std::sort(sorted.begin(), sorted.end(), [](auto &a, auto &b) { return *a < *b; });
    std::ostringstream out;
    for (auto &r : sorted)
        out << r->name << ' ' << r->key + seed;
    return static_cast<int>(out.str().size()) + seed * NUMBER;
}
";
