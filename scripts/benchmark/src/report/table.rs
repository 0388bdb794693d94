//! The table of figures, one column for each contender.

use std::fmt::Write;

use crate::run::{Contender, ROWS, Results, Round};

type Figure<'a> = Box<dyn Fn(&Contender) -> Option<f64> + 'a>;

/// One row; how many digits follow the point.
struct Line<'a> {
    name: String,
    digits: usize,
    figure: Figure<'a>,
}

/// All figures as a Markdown table.
pub(super) fn figures(results: &Results) -> String {
    let mut text = String::from("| |");
    for contender in &results.contenders {
        push(&mut text, format_args!(" {} |", contender.kind.title()));
    }
    push(&mut text, format_args!("\n|---|{}\n", "---:|".repeat(results.contenders.len())));
    for line in lines(results) {
        push(&mut text, format_args!("| {} |", line.name));
        for contender in &results.contenders {
            match (line.figure)(contender) {
                Some(figure) => push(&mut text, format_args!(" {figure:.*} |", line.digits)),
                None => text.push_str(" – |"),
            }
        }
        text.push('\n');
    }
    text
}

/// What the programs call themselves, and what is not there.
pub(super) fn versions(results: &Results) -> String {
    let mut text = String::new();
    let known = results.contenders.iter().filter_map(|contender| contender.version.as_deref());
    let known: Vec<&str> = known.collect();
    if !known.is_empty() {
        push(&mut text, format_args!("\n{}.\n", known.join(" · ")));
    }
    for left_out in &results.left_out {
        push(&mut text, format_args!("\nLeft out: {} ({}).\n", left_out.kind.title(), left_out.why));
    }
    text
}

fn lines(results: &Results) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for row in ROWS {
        lines.push(line(format!("CPU µs/request, {}", row.name), 1, move |round| {
            round.closed.get(row.name)?.cpu_us_per_call()
        }));
    }
    lines.push(line("CPU µs/line of a stream, one each 5 ms".to_owned(), 2, |round| round.paced.cpu_us_per_line()));
    for row in ROWS {
        lines.push(line(format!("requests/s, {}", row.name), 0, move |round| {
            Some(round.closed.get(row.name)?.calls_per_second())
        }));
    }
    for (name, pick) in [("p50", p50 as fn(&Round) -> f64), ("p99", p99), ("p99.9", p999)] {
        lines.push(line(
            format!("ms to the whole answer at {} connections, 1 KiB, {name}", results.settings.connections),
            2,
            move |round| Some(pick(round) / 1e3),
        ));
    }
    let rate = results.settings.rate;
    lines.push(line(format!("ms to the first line at {rate} calls/s, p50"), 3, |round| {
        Some(round.open.report.first_line.p50_us / 1e3)
    }));
    lines.push(line("… p99".to_owned(), 3, |round| Some(round.open.report.first_line.p99_us / 1e3)));
    lines.push(line("… p99.9".to_owned(), 3, |round| Some(round.open.report.first_line.p999_us / 1e3)));
    for (name, p99) in [("p50", false), ("p99", true)] {
        lines.push(Line {
            name: format!("… added to direct, {name}"),
            digits: 3,
            figure: Box::new(move |contender| added_first_line_ms(results, contender, p99)),
        });
    }
    lines.push(line("ms between two lines of a stream (sent each 5 ms), p99".to_owned(), 2, |round| {
        Some(round.paced.report.gap.p99_us / 1e3)
    }));
    lines.push(Line {
        name: format!("KB for each of {} open streams", results.settings.held_streams),
        digits: 1,
        figure: Box::new(|contender| contender.stream_bytes.map(|bytes| bytes / 1e3)),
    });
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory lie far below 2^53")]
    lines.push(line("MB resident, idle".to_owned(), 1, |round| {
        round.idle_resident_bytes.map(|bytes| bytes as f64 / 1e6)
    }));
    lines.push(line("ms from start to first answer".to_owned(), 0, |round| round.start_ms));
    #[expect(clippy::cast_precision_loss, reason = "a run stops at a thousand errors")]
    lines.push(Line {
        name: "errors".to_owned(),
        digits: 0,
        figure: Box::new(|contender| Some(contender.errors() as f64)),
    });
    lines
}

fn line<'a>(name: String, digits: usize, of: impl Fn(&Round) -> Option<f64> + Copy + 'a) -> Line<'a> {
    Line { name, digits, figure: Box::new(move |contender| contender.median(of)) }
}

fn p50(round: &Round) -> f64 {
    round.closed.get(ROWS[0].name).map_or(0.0, |figures| figures.report.latency.p50_us)
}

fn p99(round: &Round) -> f64 {
    round.closed.get(ROWS[0].name).map_or(0.0, |figures| figures.report.latency.p99_us)
}

fn p999(round: &Round) -> f64 {
    round.closed.get(ROWS[0].name).map_or(0.0, |figures| figures.report.latency.p999_us)
}

/// How much later than without a proxy the first line comes: the difference of the percentiles.
pub(super) fn added_first_line_ms(results: &Results, contender: &Contender, is_p99: bool) -> Option<f64> {
    use crate::contender::Kind;
    let of = |round: &Round| {
        let first = &round.open.report.first_line;
        Some(if is_p99 { first.p99_us } else { first.p50_us })
    };
    if contender.kind == Kind::Direct {
        return None;
    }
    let direct = results.contender(Kind::Direct)?.median(of)?;
    Some((contender.median(of)? - direct) / 1e3)
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    text.write_fmt(what).ok();
}
