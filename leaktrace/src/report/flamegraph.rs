//! A flame graph as SVG, by inferno: widths are outstanding bytes.

use std::io::{self, Write};

use inferno::flamegraph::Options;
use inferno::flamegraph::color::{BasicPalette, Palette};

use super::text::cost;
use super::{folded, health, names, trust, units};
use crate::model::Report;

/// Narrower frames are left out, in percent of the whole.
const MIN_WIDTH_PERCENT: f64 = 0.01;
/// Of a character, in font sizes. inferno's own 0.59 lets names run into their neighbours in viewers
/// that don't run the picture's script.
const FONT_WIDTH: f64 = 0.62;

pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut room = u64::MAX;
    let lines: Vec<String> = folded::lines(report)
        .map(|(stack, bytes)| {
            // inferno adds the widths up.
            let width = bytes.min(room);
            room -= width;
            format!("{stack} {width}")
        })
        .collect();
    if lines.is_empty() {
        return write_empty(report, out);
    }
    let mut options = Options::default();
    options.title = title(report);
    options.subtitle = subtitle(report);
    options.colors = Palette::Basic(BasicPalette::Mem);
    options.count_name = "bytes".to_owned();
    options.min_width = MIN_WIDTH_PERCENT;
    options.deterministic = true;
    options.font_width = FONT_WIDTH;
    let mut svg = Vec::new();
    inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    out.write_all(&svg)
}

/// inferno takes no stacks for an error.
fn write_empty(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let lines = [title(report)].into_iter().chain(subtitle(report));
    let mut svg = String::from(
        "<?xml version=\"1.0\" standalone=\"no\"?>\n\
         <svg version=\"1.1\" width=\"1200\" height=\"100\" viewBox=\"0 0 1200 100\" \
         xmlns=\"http://www.w3.org/2000/svg\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#eef2ee\"/>\n",
    );
    for (text, y) in lines.zip([44, 72]) {
        svg.push_str(&format!(
            "<text x=\"600\" y=\"{y}\" text-anchor=\"middle\" font-family=\"monospace\" \
             font-size=\"17\">{}</text>\n",
            escaped(&text)
        ));
    }
    svg.push_str("</svg>\n");
    out.write_all(svg.as_bytes())
}

fn title(report: &Report) -> String {
    let who = match report.targets.as_slice() {
        [] => "no process".to_owned(),
        [target] => names::target(target),
        [first, others @ ..] => format!("{} and {} more", names::target(first), others.len()),
    };
    let time = units::duration(report.trace.duration_s);
    let (mut bytes, mut blocks) = (0_u64, 0_u64);
    for stack in &report.stacks {
        bytes = bytes.saturating_add(stack.outstanding_bytes);
        blocks = blocks.saturating_add(stack.outstanding_blocks);
    }
    if blocks == 0 && bytes == 0 {
        return format!("Nothing outstanding: {who} after {time}");
    }
    let about = if report.is_estimate() { "~" } else { "" };
    format!(
        "Outstanding memory: {who}, {about}{} in {about}{} after {time}",
        units::bytes(bytes),
        units::counted(blocks, "block")
    )
}

/// What the picture does not show.
fn subtitle(report: &Report) -> Option<String> {
    let mut parts = Vec::new();
    if report.is_estimate() {
        parts.push(format!("seen: {}", cost::seen(report)));
    }
    let shown = report.stacks.iter().filter(|stack| stack.outstanding_blocks > 0).count();
    if report.stacks_outstanding > shown {
        let all = units::count(report.stacks_outstanding as u64);
        parts.push(format!("the top {} of {all} stacks", units::count(shown as u64)));
    }
    if !report.health.complete() {
        parts.push(format!("incomplete: {}", health::shortcomings(&report.health)));
        parts.extend(trust::reasons(&report.health.trust));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
