//! Charts of what benchmarks measure, as SVG: legible on light and dark ground, and in grey.

use std::fmt::Write as _;

const COLOURS: [&str; 3] = ["#1b7fbd", "#d1602a", "#3a9a5b"];
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 240.0;
const TOP: f64 = 40.0;
/// Where the panels begin, side by side.
const LEFT: [f64; 2] = [70.0, 550.0];

/// One chart. Its upward axis is logarithmic.
pub struct Panel<'a> {
    pub title: &'a str,
    /// How a value of the upward axis is written.
    pub unit: fn(f64) -> String,
    /// What the other axis counts, and where something was measured.
    pub along: &'a str,
    pub at: &'a [usize],
    /// What was measured there, line by line; a line may end before the others.
    pub lines: Vec<(&'a str, Vec<f64>)>,
}

/// Up to two charts beside each other.
pub fn picture(panels: &[Panel]) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 360\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#777\">\n",
    );
    for (panel, left) in panels.iter().zip(LEFT) {
        svg += &panel.drawn(left);
    }
    svg + "</svg>\n"
}

impl Panel<'_> {
    fn drawn(&self, left: f64) -> String {
        let values = || self.lines.iter().flat_map(|(_, values)| values).copied();
        let lowest = values().fold(f64::MAX, f64::min).log10().floor();
        let highest = values().fold(f64::MIN, f64::max).log10().ceil().max(lowest + 1.0);
        let step = WIDTH / (self.at.len().max(2) - 1) as f64;
        let x = |place: usize| left + step * place as f64;
        let y = |value: f64| TOP + HEIGHT * (highest - value.log10()) / (highest - lowest);
        let mut svg = String::new();
        let mut line = |text: String| writeln!(svg, "{text}").expect("a string takes all");
        line(format!("<text x=\"{left}\" y=\"22\" font-size=\"14\">{}</text>", self.title));
        for power in lowest as i32..=highest as i32 {
            let (value, right) = (10f64.powi(power), left + WIDTH);
            let (at, before) = (y(value), left - 6.0);
            line(format!("<path d=\"M{left} {at:.1}H{right}\" stroke=\"#8884\"/>"));
            let (below, unit) = (at + 4.0, (self.unit)(value));
            line(format!("<text x=\"{before:.1}\" y=\"{below:.1}\" text-anchor=\"end\">{unit}</text>"));
        }
        for (place, count) in self.at.iter().enumerate() {
            let (at, bottom) = (x(place), TOP + HEIGHT + 18.0);
            line(format!("<text x=\"{at:.1}\" y=\"{bottom}\" text-anchor=\"middle\">{count}</text>"));
        }
        for (number, ((name, values), colour)) in self.lines.iter().zip(COLOURS).enumerate() {
            let points =
                values.iter().enumerate().map(|(place, value)| format!("{:.1},{:.1}", x(place), y(*value)));
            let points = points.collect::<Vec<_>>().join(" ");
            line(format!(
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            ));
            let (at, bottom) = (left + 130.0 * number as f64, TOP + HEIGHT + 48.0);
            line(format!("<path d=\"M{at} {bottom}h18\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
            line(format!("<text x=\"{}\" y=\"{}\">{name}</text>", at + 24.0, bottom + 4.0));
        }
        let (right, bottom) = (left + WIDTH, TOP + HEIGHT + 34.0);
        line(format!("<text x=\"{right}\" y=\"{bottom}\" text-anchor=\"end\">{}</text>", self.along));
        svg
    }
}
