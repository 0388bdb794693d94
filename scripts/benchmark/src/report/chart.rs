//! Two rows of bars as SVG: CPU for a request and for a line of a stream. It takes its colours from the page's scheme,
//! holds its own text, and says in words what it shows.

use std::fmt::Write;

use crate::run::{Contender, ROWS, Results};

const WIDTH: f64 = 760.0;
const LABEL: f64 = 170.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
const TITLE: f64 = 34.0;
const ROOM_FOR_NUMBERS: f64 = 70.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600}.b{fill:#8c959f}.o{fill:#0969da}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#6e7681}.o{fill:#58a6ff}}";

/// One group of bars.
struct Group {
    title: String,
    bars: Vec<(&'static str, f64, bool)>,
}

pub(super) fn draw(results: &Results) -> String {
    let groups = groups(results);
    let height: f64 = groups.iter().map(Group::height).sum::<f64>() + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"t d\">\n\
         <title id=\"t\">CPU of each proxy, in microseconds; less is better</title>\n<desc id=\"d\">{}</desc>\n<style>{STYLE}</style>\n",
        in_words(&groups)
    );
    let mut top = 0.0;
    for group in &groups {
        group.draw(&mut svg, top);
        top += group.height();
    }
    svg.push_str("</svg>\n");
    svg
}

fn groups(results: &Results) -> Vec<Group> {
    let mut groups = Vec::new();
    for row in ROWS {
        let figure = |contender: &Contender| contender.median(|round| round.closed.get(row.name)?.cpu_us_per_call());
        groups.push(Group::of(results, format!("CPU µs for a request, {}", row.name), &figure));
    }
    let figure = |contender: &Contender| contender.median(|round| round.paced.cpu_us_per_line());
    groups.push(Group::of(results, "CPU µs for a line of a stream".to_owned(), &figure));
    groups.retain(|group| !group.bars.is_empty());
    groups
}

impl Group {
    fn of(results: &Results, title: String, figure: &dyn Fn(&Contender) -> Option<f64>) -> Self {
        let bar = |contender: &Contender| {
            let name = contender.kind.title();
            figure(contender).map(|figure| (name, figure, name.starts_with("Tollgate")))
        };
        Self { title, bars: results.contenders.iter().filter_map(bar).collect() }
    }

    fn height(&self) -> f64 {
        self.bars.iter().map(|_| STEP).sum::<f64>() + TITLE + 8.0
    }

    fn draw(&self, svg: &mut String, top: f64) {
        let most = self.bars.iter().map(|(_, figure, _)| *figure).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - LABEL - ROOM_FOR_NUMBERS) / most;
        let mut y = top + TITLE;
        push(svg, format_args!("<text class=\"t\" x=\"0\" y=\"{:.0}\">{}</text>\n", top + 22.0, self.title));
        for (name, figure, is_ours) in &self.bars {
            let (middle, length) = (y + BAR - 4.5, (figure * scale).max(1.0));
            let class = if *is_ours { "o" } else { "b" };
            push(
                svg,
                format_args!(
                    "<text x=\"{:.0}\" y=\"{middle:.1}\" text-anchor=\"end\">{name}</text>\
                     <rect class=\"{class}\" x=\"{LABEL}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\
                     <text x=\"{:.1}\" y=\"{middle:.1}\">{figure:.1}</text>\n",
                    LABEL - 8.0,
                    LABEL + length + 6.0,
                ),
            );
            y += STEP;
        }
    }
}

fn in_words(groups: &[Group]) -> String {
    let sentence = |group: &Group| {
        let bars: Vec<String> = group.bars.iter().map(|(name, figure, _)| format!("{name} {figure:.1}")).collect();
        format!("{}: {}.", group.title, bars.join(", "))
    };
    groups.iter().map(sentence).collect::<Vec<_>>().join(" ")
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    text.write_fmt(what).ok();
}
