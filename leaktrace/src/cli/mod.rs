//! The command line: arguments, and one file for each command.

use std::process::ExitCode;

use clap::Parser;

pub mod address_space;
pub mod args;
pub mod assemble;
pub mod attach;
pub mod calibration;
pub mod chosen;
pub mod demo;
pub mod doctor;
pub mod empty_probes;
pub mod estimates;
pub mod exit;
pub mod few_threads;
pub mod follow;
pub mod governed;
pub mod heap_look;
pub mod hit_cost;
pub mod later;
pub mod logging;
pub mod mappings;
pub mod newcomers;
pub mod output;
pub mod output_file;
pub mod own_allocators;
pub mod own_use;
pub mod placing;
pub mod predict;
pub mod retired;
pub mod run;
pub mod say;
pub mod session;
pub mod stack_quality;
pub mod steps;
pub mod traced;
pub mod trust;
pub mod unwind_tables;
pub mod unwinding;
pub mod values;
pub mod windowed;
pub mod wrong_frees;

use args::{Arguments, Command};

/// Runs the command that the arguments ask for.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output and are a success; the rest is not.
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    logging::install(arguments.verbosity());
    let result = match arguments.command {
        None => attach::main(&arguments.attach),
        Some(Command::Attach(attach)) => attach::main(&attach),
        Some(Command::Run(run)) => run::main(&run),
        Some(Command::Demo(demo)) => demo::main(&demo),
        Some(Command::Doctor(doctor)) => doctor::main(&doctor),
        Some(Command::Exec(exec)) => run::exec_main(&exec),
        Some(Command::Guard { pid, watched }) => {
            crate::probe::guard::main(pid, watched).map(|()| 0)
        }
        Some(Command::Janitor { group }) => crate::probe::janitor::main(&group).map(|()| 0),
        Some(Command::Practice { seccomp }) => {
            crate::probe::practice::child_main(seccomp).map(|()| 0)
        }
        Some(Command::EmptyProbes(probes)) => empty_probes::main(&probes),
        Some(Command::UnwindTables { files }) => unwind_tables::main(&files),
        Some(Command::Symbolize) => crate::symbolize::worker_main().map(|()| 0),
        Some(Command::DemoService { port_file }) => {
            demo::service::main(port_file.as_deref()).map(|()| 0)
        }
    };
    crate::probe::keeper::dismiss();
    ExitCode::from(exit::code(result))
}
