//! The probe plan, as `--dry-run` prints it.

use std::io::{self, Write};

use super::{json, names, units};
use crate::model::{ProbeFailure, ProbeInfo, Target, printable};

/// What a hit costs that the kernel cannot emulate, on a virtual machine.
const STEPPED_HIT: &str = "about 20 µs";
/// The widest line.
const WIDTH: usize = 100;
const GAP: &str = "  ";

/// Writes a table for people, at most 100 columns wide. `covered` are the functions that need no
/// probe.
///
/// # Errors
///
/// Those of `out`.
pub fn write_text(
    targets: &[Target],
    probes: &[ProbeInfo],
    failures: &[ProbeFailure],
    covered: &[String],
    out: &mut dyn Write,
) -> io::Result<()> {
    for target in targets {
        let (comm, exe) = (printable(&target.comm), printable(&target.exe));
        let line = format!("{comm} (pid {}), {exe}", target.pid);
        writeln!(out, "{}", names::shorten_middle(&line, WIDTH))?;
    }
    let header = ["function", "module", "at", "in file", "role", "instruction", "emulated"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(probes.iter().map(row));
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    if !probes.is_empty() {
        writeln!(out)?;
        for row in &rows {
            let cells: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(out, "{}", names::shorten_middle(cells.join(GAP).trim_end(), WIDTH))?;
        }
    }
    writeln!(out)?;
    let stepped = probes.iter().filter(|probe| !probe.emulated).count() as u64;
    let all = units::counted(probes.len() as u64, "probe");
    let summary = match stepped {
        _ if probes.is_empty() => "0 probes: there is no allocation function to trace".to_owned(),
        0 => format!("{all}, each on an instruction that the kernel emulates"),
        n => format!(
            "{all}, {} of which the kernel would single-step ({STEPPED_HIT} a hit on a virtual \
             machine, against less than 1 µs)",
            units::count(n)
        ),
    };
    for line in names::wrap(&summary, WIDTH, "", "") {
        writeln!(out, "{line}")?;
    }
    if !covered.is_empty() {
        let item = format!(
            "covered by a probe above, as another name of a function or a caller of it: {}",
            covered.join(", ")
        );
        for line in names::wrap(&item, WIDTH, "", "") {
            writeln!(out, "{line}")?;
        }
    }
    for failure in failures {
        let item =
            format!("no probe on {} in {}: {}", failure.function, failure.module, failure.error);
        for line in names::wrap(&item, WIDTH, "- ", "  ") {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// Writes the schema `leaktrace.plan/1`: the shapes of a report's `target`, `targets` and `probes`,
/// `probe_failures` as in its `health`, and
/// `covered`: the functions that need no probe, since the function they call has one.
///
/// # Errors
///
/// Those of `out`.
pub fn write_json(
    targets: &[Target],
    probes: &[ProbeInfo],
    failures: &[ProbeFailure],
    covered: &[String],
    out: &mut dyn Write,
) -> io::Result<()> {
    json::write_plan(targets, probes, failures, covered, out)
}

fn row(probe: &ProbeInfo) -> [String; 7] {
    [
        names::shorten_function(&printable(&probe.function), 18),
        names::shorten_middle(&printable(names::file_name(&probe.module)), 16),
        format!("+{:#x}", probe.function_offset),
        format!("{:#x}", probe.file_offset),
        probe.role.to_owned(),
        names::shorten_middle(&printable(&probe.instruction), 14),
        if probe.emulated { "yes" } else { "NO (stepped)" }.to_owned(),
    ]
}
