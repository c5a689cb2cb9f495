//! How does the cost of a pair grow: with the rate, the depth of the stack, the number of distinct
//! stacks and of threads? As a table, and as plots for people.

mod plot;

use std::fs;

use anyhow::{Context, Result};

use super::Effort;
use super::programs::Programs;
use super::steady::Steady;
use super::table::{Cell, Section};
use super::tracing::Tracing;
use plot::{Line, Plot};

const COLUMNS: [&str; 6] = ["over", "at", "untraced", "empty probes", "exact", "budget 5 %"];
/// Beside the untraced ones, in the order of the columns.
const WAYS: [Tracing; 3] = [Tracing::Empty, Tracing::Exact, Tracing::Budget];
/// More distinct stacks than by default.
const ROOM_FOR_STACKS: [&str; 2] = ["--max-stacks", "1048576"];

/// One thing that varies.
struct Curve {
    file: &'static str,
    title: &'static str,
    over: &'static str,
    /// As `load` calls it, and what else it is told.
    argument: &'static str,
    more: &'static [&'static str],
    at: &'static [f64],
    ways: usize,
}

const CURVES: [Curve; 4] = [
    Curve {
        file: "rate.svg",
        title: "What a malloc+free pair takes, by how many there are",
        over: "pairs a second",
        argument: "pace",
        more: &["frames=20"],
        at: &[1e3, 1e4, 1e5, 1e6, 1e7, UNPACED],
        ways: 3,
    },
    Curve {
        file: "frames.svg",
        title: "What a malloc+free pair takes, by the depth of its stack",
        over: "frames",
        argument: "frames",
        more: &[],
        at: &[3.0, 8.0, 16.0, 32.0, 64.0, 127.0],
        ways: 2,
    },
    Curve {
        file: "stacks.svg",
        title: "What a malloc+free pair takes, by the number of distinct stacks",
        over: "distinct stacks",
        argument: "stacks",
        more: &["frames=26"],
        at: &[10.0, 100.0, 1e3, 1e4, 1e5, 5e5],
        ways: 2,
    },
    Curve {
        file: "threads.svg",
        title: "What a malloc+free pair takes, by the number of threads",
        over: "threads",
        argument: "threads",
        more: &["frames=20"],
        at: &[1.0, 2.0, 4.0, 8.0, 16.0, 64.0],
        ways: 2,
    },
];
/// All that it can.
const UNPACED: f64 = f64::INFINITY;

/// At one place of a curve.
struct Point {
    at: f64,
    /// CPU nanoseconds of a pair: untraced, and in each way that was measured.
    ns: Vec<Option<f64>>,
}

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("How the cost of a pair grows (CPU ns)", &COLUMNS);
    for curve in &CURVES {
        eprintln!("xtask:   {}", curve.over);
        let mut points = Vec::new();
        let step = 1 + effort.points_skipped;
        let is_asked = |index: usize| index.is_multiple_of(step) || index + 1 == curve.at.len();
        for (_, at) in curve.at.iter().enumerate().filter(|(index, _)| is_asked(*index)) {
            let point = point(programs, curve, *at, effort)?;
            let mut cells = vec![Cell::text(curve.over), Cell::Number(point.at, 0)];
            cells.extend(point.ns.iter().map(|ns| ns.map_or(Cell::Empty, Cell::rounded)));
            cells.resize(COLUMNS.len(), Cell::Empty);
            section.row(cells);
            points.push(point);
        }
        let path = programs.directory.join(curve.file);
        fs::write(&path, plot(curve, &points).svg())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let files: Vec<&str> = CURVES.iter().map(|curve| curve.file).collect();
    section.note(format!(
        "CPU time of the threads that allocate, without the waits of a paced loop; plots: {}. Blocks are \
         freed at once, by 20 frames (26 below distinct stacks, which come in random order), in one \
         thread unless the number of these varies. The last rate is all that the loop can do in this \
         way, untraced; a traced one does less.",
        files.join(", ")
    ));
    Ok(section)
}

fn point(programs: &Programs, curve: &Curve, at: f64, effort: Effort) -> Result<Point> {
    let mut arguments: Vec<String> = curve.more.iter().map(|more| (*more).to_owned()).collect();
    if at.is_finite() {
        arguments.push(format!("{}={at:.0}", curve.argument));
    }
    let mut load = Steady::load(programs, &arguments)?;
    let untraced = load.watch(effort.glimpse_s)?;
    let mut ns = vec![Some(untraced.cpu_ns())];
    for way in WAYS.into_iter().take(curve.ways) {
        ns.push(traced(programs, &mut load, way, effort.glimpse_s).ok());
    }
    load.end()?;
    let reached = untraced.units / untraced.wall_s;
    Ok(Point { at: if at.is_finite() { at } else { reached }, ns })
}

fn traced(programs: &Programs, load: &mut Steady, way: Tracing, seconds: f64) -> Result<f64> {
    let options: &[&str] = if way == Tracing::Empty { &[] } else { &ROOM_FOR_STACKS };
    let tracer = way.start(programs, &load.pid().to_string(), options)?;
    std::thread::sleep(super::tracing::SETTLES_IN);
    // The budget's windows are seldom.
    let seconds = if way == Tracing::Budget { 4.0 * seconds } else { seconds };
    let progress = load.watch(seconds);
    way.stop(tracer)?;
    Ok(progress?.cpu_ns())
}

fn plot<'a>(curve: &'a Curve, points: &[Point]) -> Plot<'a> {
    let names = COLUMNS.into_iter().skip(2).take(1 + curve.ways);
    let lines = names.enumerate().map(|(way, name)| Line {
        name,
        points: points
            .iter()
            .filter_map(|point| Some((point.at, point.ns.get(way).copied().flatten()?)))
            .collect(),
    });
    Plot {
        title: curve.title,
        x_label: curve.over,
        y_label: "CPU ns per pair",
        marks: points.iter().map(|point| point.at).collect(),
        lines: lines.collect(),
    }
}
