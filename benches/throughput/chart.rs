//! Curves as SVG, both axes logarithmic.

use std::fmt::Write as _;

use crate::table::{Rounds, thousands};

/// One line of a chart.
pub(crate) struct Curve {
    pub(crate) what: String,
    /// At each number of cards, what was measured.
    pub(crate) points: Vec<(usize, Rounds)>,
}

const COLOURS: [&str; 6] = ["#0b6e99", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#475569"];
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 420.0;

/// Values along one axis, from one place to another.
struct Axis {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From the step below all values to the step above.
    fn over(values: impl Iterator<Item = f64> + Clone, steps: &[f64], from: f64, to: f64) -> Self {
        let (low, high) = (values.clone().fold(f64::MAX, f64::min), values.fold(0.0, f64::max));
        let least = ticks(steps).filter(|tick| *tick <= low).fold(1e-3, f64::max);
        let most = ticks(steps).filter(|tick| *tick >= high && *tick > least).fold(1e9, f64::min);
        Self { least, most, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value / self.least).ln() / (self.most / self.least).ln()
    }

    fn ticks(&self, steps: &[f64]) -> impl Iterator<Item = f64> {
        ticks(steps).filter(|tick| (self.least..=self.most).contains(tick))
    }
}

/// These steps in every decade.
fn ticks(steps: &[f64]) -> impl Iterator<Item = f64> {
    (-3..10).flat_map(move |decade| steps.iter().map(move |step| format!("{step}e{decade}").parse().unwrap_or(*step)))
}

/// A chart of curves over the number of cards. A bar at a point shows the least and the most of its rounds.
pub(crate) fn svg(title: &str, unit: &str, curves: &[Curve]) -> String {
    const DECADES: [f64; 1] = [1.0];
    const STEPS: [f64; 3] = [1.0, 2.0, 5.0];
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let across = Axis::over(points().map(|(cards, _)| *cards as f64), &DECADES, 70.0, 500.0);
    let up = Axis::over(points().flat_map(|(_, rounds)| [rounds.least(), rounds.most()]), &STEPS, HEIGHT - 60.0, 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, 70.0, 28.0, "start", &format!("{title} ({unit}, median)"), "#111827");
    for tick in up.ticks(&STEPS) {
        line(&mut svg, [across.from, up.place(tick), across.to, up.place(tick)], "#e5e7eb", 1);
        text(&mut svg, across.from - 8.0, up.place(tick) + 4.0, "end", &thousands(tick), "#374151");
    }
    for tick in across.ticks(&DECADES) {
        line(&mut svg, [across.place(tick), up.from, across.place(tick), up.to], "#e5e7eb", 1);
        text(&mut svg, across.place(tick), up.from + 20.0, "middle", &thousands(tick), "#374151");
    }
    text(&mut svg, f64::midpoint(across.from, across.to), up.from + 42.0, "middle", "cards in the store", "#374151");
    for ((curve, colour), place) in curves.iter().zip(COLOURS).zip(0_u32..) {
        draw(&mut svg, curve, colour, &across, &up);
        let height = up.to + 10.0 + 24.0 * f64::from(place);
        line(&mut svg, [across.to + 20.0, height, across.to + 44.0, height], colour, 3);
        text(&mut svg, across.to + 50.0, height + 4.0, "start", &curve.what, "#111827");
    }
    svg += "</svg>\n";
    svg
}

fn draw(svg: &mut String, curve: &Curve, colour: &str, across: &Axis, up: &Axis) {
    let mut before = None;
    for (cards, rounds) in &curve.points {
        let (x, y) = (across.place(*cards as f64), up.place(rounds.median()));
        if let Some((old_x, old_y)) = before.replace((x, y)) {
            line(svg, [old_x, old_y, x, y], colour, 2);
        }
        line(svg, [x, up.place(rounds.least()), x, up.place(rounds.most())], colour, 1);
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>");
    }
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str, width: u32) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str, colour: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>");
}
