//! A plot of a few lines over a logarithmic axis, as SVG.

use std::fmt::Write as _;

/// What is drawn.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    /// Where a mark stands, and what is written there.
    pub(super) marks: Vec<f64>,
    pub(super) lines: Vec<Line>,
}

/// One of the lines.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 434.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 60.0;
/// Told apart by the colour-blind as well (Okabe and Ito).
const COLORS: [&str; 4] = ["#666666", "#e69f00", "#0072b2", "#009e73"];
/// Names of lines that end close to one another keep this distance.
const NAME_HEIGHT: f64 = 17.0;

impl Plot<'_> {
    pub(super) fn svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut svg);
        svg
    }

    fn write(&self, svg: &mut String) -> std::fmt::Result {
        let values = || self.lines.iter().flat_map(|line| &line.points);
        let first = values().map(|(x, _)| *x).fold(f64::INFINITY, f64::min);
        let last = values().map(|(x, _)| *x).fold(first * 1.001, f64::max);
        let step = step(values().map(|(_, y)| *y).fold(1e-9, f64::max));
        let top = step * (values().map(|(_, y)| *y).fold(1e-9, f64::max) / step).ceil();
        let x_of = |x: f64| LEFT + (x / first).ln() / (last / first).ln() * (WIDTH - LEFT - RIGHT);
        let y_of = |y: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
        )?;
        text(svg, (WIDTH / 2.0, 24.0), "middle\" font-size=\"16", self.title)?;
        text(svg, (LEFT, TOP - 10.0), "start", self.y_label)?;
        text(svg, ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 15.0), "middle", self.x_label)?;
        let mut level = 0.0;
        while level <= top * 1.001 {
            let y = y_of(level);
            rule(svg, (LEFT, y), (WIDTH - RIGHT, y))?;
            text(svg, (LEFT - 8.0, y + 4.0), "end", &number(level))?;
            level += step;
        }
        for mark in &self.marks {
            let x = x_of(*mark);
            rule(svg, (x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 6.0))?;
            text(svg, (x, HEIGHT - BOTTOM + 22.0), "middle", &number(*mark))?;
        }
        let mut names: Vec<(f64, &str, &str)> = Vec::new();
        for (line, color) in self.lines.iter().zip(COLORS.iter().cycle()) {
            let points: Vec<(f64, f64)> =
                line.points.iter().map(|(x, y)| (x_of(*x), y_of(*y))).collect();
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
                path.join(" ")
            )?;
            for (x, y) in &points {
                writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{color}\"/>")?;
            }
            names.extend(points.last().map(|(_, y)| (*y, line.name, *color)));
        }
        // From the lowest line up, each name above the one before.
        names.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut free = HEIGHT;
        for (y, name, color) in names {
            free = y.min(free - NAME_HEIGHT);
            let place = (WIDTH - RIGHT + 10.0, free + 4.0);
            text(svg, place, &format!("start\" fill=\"{color}"), name)?;
        }
        writeln!(svg, "</svg>")
    }
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64)) -> std::fmt::Result {
    writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#cccccc\"/>",
        from.0, from.1, to.0, to.1
    )
}

/// `anchor` may have more attributes behind it.
fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) -> std::fmt::Result {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>",
        at.0, at.1
    )
}

/// A round distance between levels, of which four to eight reach `highest`.
fn step(highest: f64) -> f64 {
    let power = 10f64.powf((highest / 4.0).log10().floor());
    let fits = [1.0, 2.0, 5.0].into_iter().rev().find(|factor| factor * power * 4.0 <= highest);
    fits.unwrap_or(1.0) * power
}

fn number(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", (v / 1e5).round() / 10.0),
        v if v >= 1e4 => format!("{}k", (v / 100.0).round() / 10.0),
        v => format!("{}", (v * 1000.0).round() / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_round_and_few() {
        for (highest, expected) in [(4.0, 1.0), (7.9, 1.0), (8.0, 2.0), (3100.0, 500.0), (0.9, 0.2)]
        {
            assert!((step(highest) - expected).abs() < 1e-9, "{highest}: {}", step(highest));
        }
    }

    #[test]
    fn every_point_lies_in_the_picture() {
        let points = vec![(10.0, 5.0), (1000.0, 40.0), (500_000.0, 0.0)];
        let lines = vec![Line { name: "a <line>", points }];
        let marks = vec![10.0, 500_000.0];
        let svg = Plot { title: "t", x_label: "x", y_label: "y", marks, lines }.svg();
        assert!(svg.contains("a &lt;line>"), "{svg}");
        let centers = svg
            .lines()
            .filter_map(|line| line.strip_prefix("<circle cx=\""))
            .map(|rest| {
                let mut parts = rest.split('"');
                let x = parts.next().unwrap().parse().unwrap();
                (x, parts.nth(1).unwrap().parse().unwrap())
            })
            .collect::<Vec<(f64, f64)>>();
        let [first, highest, last] = centers.try_into().unwrap();
        assert_eq!(first.0, LEFT);
        assert_eq!(highest.1, TOP);
        assert_eq!(last, (WIDTH - RIGHT, HEIGHT - BOTTOM));
    }
}
