//! Completion curves as an SVG that can be read on light and on dark ground.

use std::fmt::Write as _;
use std::time::Duration;

/// One curve: its name, its class in the style sheet, and when each peer was done, sorted.
#[derive(Debug)]
pub struct Curve<'a> {
    /// As the legend has it.
    pub name: &'a str,
    /// `ours` or `other`.
    pub class: &'a str,
    /// Sorted.
    pub done: &'a [Duration],
}

/// Draws what share of the peers is done by when, and the lower bound as an upright line.
pub fn completion_curves(title: &str, lower_bound: Duration, curves: &[Curve<'_>]) -> String {
    let last = curves.iter().filter_map(|curve| curve.done.last()).max().copied().unwrap_or(lower_bound);
    let end_s = (last.max(lower_bound).as_secs_f64() * 1.05).max(0.1);
    let scale = Scale { end_s };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"14\">\n<style>{STYLE}</style>\n"
    );
    text(&mut svg, "title", LEFT, 24.0, title);
    axes(&mut svg, &scale);
    let bound_x = scale.x(lower_bound);
    writeln!(svg, "<path class=\"bound\" d=\"M{bound_x:.1} {BOTTOM}V{TOP}\"/>").expect(INFALLIBLE);
    for curve in curves {
        writeln!(svg, "<path class=\"{}\" d=\"{}\"/>", curve.class, steps(curve.done, &scale))
            .expect(INFALLIBLE);
    }
    let bound = format!("lower bound {:.2} s", lower_bound.as_secs_f64());
    let names = curves.iter().map(|curve| {
        let last = curve.done.last().copied().unwrap_or_default().as_secs_f64();
        (curve.class, format!("{}, last {last:.2} s", curve.name))
    });
    for (row, (class, name)) in (0..).zip(names.chain([("bound", bound)])) {
        let y = TOP + 24.0 + 24.0 * f64::from(row);
        writeln!(svg, "<path class=\"{class}\" d=\"M{} {}h28\"/>", LEFT + 16.0, y - 5.0).expect(INFALLIBLE);
        text(&mut svg, "label", LEFT + 52.0, y, &name);
    }
    svg.push_str("</svg>\n");
    svg
}

struct Scale {
    end_s: f64,
}

impl Scale {
    fn x(&self, at: Duration) -> f64 {
        LEFT + (RIGHT - LEFT) * at.as_secs_f64() / self.end_s
    }
}

fn y(share: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * share
}

fn axes(svg: &mut String, scale: &Scale) {
    for quarter in 0..=4_u32 {
        let share = f64::from(quarter) / 4.0;
        writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {:.1}H{RIGHT}\"/>", y(share)).expect(INFALLIBLE);
        let label = format!("{} %", quarter * 25);
        writeln!(
            svg,
            "<text class=\"label\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{label}</text>",
            LEFT - 8.0,
            y(share) + 5.0
        )
        .expect(INFALLIBLE);
    }
    let step =
        [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0].into_iter().find(|step| scale.end_s / step <= 10.0);
    let step = step.unwrap_or(100.0);
    let mut tick = 0.0;
    while tick <= scale.end_s {
        let x = scale.x(Duration::from_secs_f64(tick));
        writeln!(svg, "<path class=\"grid\" d=\"M{x:.1} {BOTTOM}v5\"/>").expect(INFALLIBLE);
        let digits = usize::from(step < 1.0);
        writeln!(
            svg,
            "<text class=\"label\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{tick:.digits$}</text>",
            BOTTOM + 22.0
        )
        .expect(INFALLIBLE);
        tick += step;
    }
    text(svg, "label", RIGHT - 60.0, BOTTOM + 42.0, "seconds");
    text(svg, "label", LEFT - 52.0, TOP - 14.0, "peers that have everything");
}

/// One step up for each peer.
fn steps(done: &[Duration], scale: &Scale) -> String {
    let mut path = format!("M{LEFT} {BOTTOM}");
    let count = f64::from(u32::try_from(done.len()).unwrap_or(u32::MAX));
    // A curve of thousands of peers needs no more corners than it has pixels.
    let stride = (done.len() / CORNERS_MAX).max(1);
    for (place, at) in (1_u32..).zip(done) {
        if (place as usize).is_multiple_of(stride) || place as usize == done.len() {
            write!(path, "H{:.1}V{:.1}", scale.x(*at), y(f64::from(place) / count)).expect(INFALLIBLE);
        }
    }
    path.push_str(&format!("H{RIGHT}"));
    path
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, words: &str) {
    writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>").expect(INFALLIBLE);
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 830.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 400.0;
const CORNERS_MAX: usize = 800;
const INFALLIBLE: &str = "a string takes everything";

/// Mid-tones that stand out on white and on black; text follows the reader's theme where the
/// viewer knows it.
const STYLE: &str = "\
text{fill:#768390}.title{font-size:16px;font-weight:600}\
path{fill:none}.grid{stroke:#8c959f;stroke-opacity:.35}\
.ours{stroke:#1f7ae0;stroke-width:3}.other{stroke:#d9822b;stroke-width:2.5}\
.bound{stroke:#2da44e;stroke-width:2;stroke-dasharray:6 5}\
@media (prefers-color-scheme:light){text{fill:#57606a}}@media (prefers-color-scheme:dark){text{fill:#adbac7}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_curve_is_drawn_and_named_with_its_last_peer() {
        let seconds: Vec<Duration> = (1..=4).map(Duration::from_secs).collect();
        let curves = [Curve { name: "ours", class: "ours", done: &seconds }];
        let svg = completion_curves("even", Duration::from_secs(3), &curves);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("ours, last 4.00 s") && svg.contains("lower bound 3.00 s"), "{svg}");
        assert_eq!(svg.matches("<path class=\"ours\"").count(), 2, "the curve and its legend");
    }
}
