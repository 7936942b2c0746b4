//! Memory over time as a picture: live bytes as an area, what each policy reserved as a line.

mod axis;
mod svg;

use std::fmt::Write;

use drystone_core::config::format_bytes;

use crate::recording::Recording;
use crate::replay::Replayed;
use crate::timeline::{Point, Timeline};
use axis::Axis;
use svg::{Anchor, COLOURS, Svg};

/// What is drawn of one trace.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// The trace as it was recorded.
    pub recording: &'a Recording,
    /// The trace through each policy; at least one.
    pub replays: &'a [Replayed],
}

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 28.0;
/// From the top of a panel to the top of its plot.
const HEAD: f64 = 84.0;
const PLOT: f64 = 300.0;
/// From the bottom of the plot to the first line of the legend.
const FOOT: f64 = 58.0;
const ROW: f64 = 22.0;
const MARGIN: f64 = 20.0;
/// Longer names of policies are cut.
const LONGEST_NAME: usize = 56;

/// Draws the panels one below the other: an SVG file.
pub fn picture(panels: &[Panel<'_>]) -> String {
    let height = panels.iter().map(Panel::height).sum::<f64>() + MARGIN;
    let names: Vec<_> = panels.iter().map(Panel::name).collect();
    let title = format!("Live and reserved memory over time: {}", names.join(", "));
    let mut svg = Svg::new(WIDTH, height, &title);
    let mut top = 0.0;
    for panel in panels {
        panel.draw(&mut svg, top);
        top += panel.height();
    }
    svg.finish()
}

impl Panel<'_> {
    fn name(&self) -> &str {
        self.replays.first().map_or("", |replay| &replay.metrics.trace)
    }

    fn height(&self) -> f64 {
        let recorded = usize::from(self.recording.peak_reserved.is_some());
        let rows = 1 + recorded + self.replays.len();
        HEAD + PLOT + FOOT + ROW * rows as f64 + MARGIN
    }

    fn draw(&self, svg: &mut Svg, top: f64) {
        let run_us = self.replays.first().map_or(0, |replay| replay.metrics.run_us);
        let peaks = self.replays.iter().map(|replay| replay.metrics.peak_reserved_bytes);
        let most = peaks.chain(self.recording.peak_reserved).max().unwrap_or(0);
        let plot = Plot {
            bottom: top + HEAD + PLOT,
            time: Axis::time(run_us),
            bytes: Axis::bytes(most.max(self.recording.peak_live)),
        };
        svg.text("ink title", LEFT, top + 34.0, Anchor::Start, self.name());
        let subtitle = "memory live, and reserved of the device, over the run's own time";
        svg.text("dim", LEFT, top + 54.0, Anchor::Start, subtitle);
        plot.grid(svg);
        let live = plot.steps(&self.recording.timeline, |point| point.live, None);
        svg.path("live", &format!("{live}V{:.1}H{LEFT}Z", plot.bottom));
        if self.recording.peak_reserved.is_some() {
            let line = plot.steps(&self.recording.timeline, |point| point.reserved, None);
            svg.path("curve recorded", &line);
        }
        // The first policy is drawn last, on top.
        for (index, replay) in self.replays.iter().enumerate().rev() {
            let oom = replay.metrics.oom.as_ref();
            let end_us = oom.map(|oom| oom.t_us);
            let line = plot.steps(&replay.timeline, |point| point.reserved, end_us);
            svg.path(&colour(index), &line);
            if let Some(oom) = oom {
                plot.stopped(svg, &colour(index), oom.t_us, oom.reserved);
            }
        }
        plot.axes(svg);
        self.legend(svg, plot.bottom + FOOT);
    }

    fn legend(&self, svg: &mut Svg, mut y: f64) {
        let live = self.recording.peak_live;
        svg.rect("live", LEFT, y - 10.0, 28.0, 12.0);
        row(svg, y, &format!("live: requested and not yet freed, at most {}", format_bytes(live)));
        for (index, replay) in self.replays.iter().enumerate() {
            y += ROW;
            svg.path(&colour(index), &swatch(y));
            let metrics = &replay.metrics;
            let peak = metrics.peak_reserved_bytes;
            let reserved = if metrics.oom.is_some() {
                // Of a part of the run: its ratio is no match for the others.
                format!("at most {}, then out of memory (×)", format_bytes(peak))
            } else {
                reserved(peak, live)
            };
            row(svg, y, &format!("{}: reserved {reserved}", shortened(&metrics.label())));
        }
        if let Some(peak) = self.recording.peak_reserved {
            y += ROW;
            svg.path("curve recorded", &swatch(y));
            row(svg, y, &format!("as recorded: reserved {}", reserved(peak, live)));
        }
    }
}

fn row(svg: &mut Svg, y: f64, text: &str) {
    svg.text("ink", LEFT + 40.0, y, Anchor::Start, text);
}

fn swatch(y: f64) -> String {
    format!("M{LEFT} {:.1}h28", y - 4.0)
}

fn colour(index: usize) -> String {
    format!("curve c{}", index % COLOURS)
}

fn reserved(peak: u64, live: u64) -> String {
    let times = peak as f64 / live.max(1) as f64;
    format!("at most {}, {times:.2} × live", format_bytes(peak))
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= LONGEST_NAME {
        return name.to_owned();
    }
    name.chars().take(LONGEST_NAME).chain(['…']).collect()
}

/// The area between the axes.
struct Plot {
    bottom: f64,
    time: Axis,
    bytes: Axis,
}

impl Plot {
    fn x(&self, us: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (us / self.time.scale / self.time.end).min(1.0)
    }

    fn y(&self, bytes: u64) -> f64 {
        self.bottom - PLOT * bytes as f64 / self.bytes.scale / self.bytes.end
    }

    fn grid(&self, svg: &mut Svg) {
        for (value, label) in self.bytes.ticks() {
            let y = self.bottom - PLOT * value / self.bytes.end;
            svg.path("grid", &format!("M{LEFT} {y:.1}H{RIGHT}"));
            svg.text("dim", LEFT - 8.0, y + 4.0, Anchor::End, &label);
        }
        svg.text("dim", LEFT - 8.0, self.bottom - PLOT - 14.0, Anchor::End, self.bytes.unit);
    }

    fn axes(&self, svg: &mut Svg) {
        let bottom = self.bottom;
        svg.path("axis", &format!("M{LEFT} {:.1}V{bottom:.1}H{RIGHT}", bottom - PLOT));
        for (value, label) in self.time.ticks() {
            let x = self.x(value * self.time.scale);
            svg.path("axis", &format!("M{x:.1} {bottom:.1}v5"));
            svg.text("dim", x, bottom + 20.0, Anchor::Middle, &label);
        }
        let unit = format!("time, {}", self.time.unit);
        svg.text("dim", RIGHT, bottom + 36.0, Anchor::End, &unit);
    }

    /// The commands of a line in steps, up to its end or to `end_us`.
    fn steps(&self, line: &Timeline, of: impl Fn(&Point) -> u64, end_us: Option<u64>) -> String {
        let mut commands = format!("M{LEFT} ");
        let mut last = None;
        for (index, point) in line.points.iter().enumerate() {
            let y = format!("{:.1}", self.y(of(point)));
            if last.as_ref() == Some(&y) {
                continue;
            }
            let x = self.x(index as f64 * line.step_us as f64);
            // A String takes everything.
            let _ = match last {
                None => write!(commands, "{y}"),
                Some(_) => write!(commands, "H{x:.1}V{y}"),
            };
            last = Some(y);
        }
        let end = self.x(end_us.map_or(f64::INFINITY, |us| us as f64));
        let _ = write!(commands, "H{end:.1}");
        commands
    }

    /// A cross where a policy ran out of memory.
    fn stopped(&self, svg: &mut Svg, class: &str, t_us: u64, reserved: u64) {
        let (x, y) = (self.x(t_us as f64), self.y(reserved));
        svg.path(class, &format!("M{:.1} {:.1}l12 12m0 -12l-12 12", x - 6.0, y - 6.0));
    }
}

#[cfg(test)]
mod tests;
