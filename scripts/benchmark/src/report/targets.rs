//! What Tollgate set out to hold, and whether it does.

use crate::{
    contender::Kind,
    failure::Failure,
    run::{Contender, ROWS, Results, Round},
};

use super::table::added_first_line_ms;

/// One target: at most so much; without a target a figure to judge the others by.
struct Target {
    name: &'static str,
    most: Option<f64>,
    unit: &'static str,
    figure: Option<f64>,
}

/// As a Markdown table; empty where Tollgate was not measured, or too shortly.
pub(super) fn table(results: &Results) -> String {
    if results.settings.is_smoke {
        return String::new();
    }
    let Some(tollgate) = results.contender(Kind::Tollgate) else { return String::new() };
    let mut text = String::from("| Tollgate | target | measured | |\n|---|---:|---:|---|\n");
    for target in targets(results, tollgate) {
        let Target { name, most, unit, figure } = target;
        let aim = most.map_or_else(|| "–".to_owned(), |most| format!("≤ {most}{unit}"));
        let (measured, verdict) = match (figure, most) {
            (Some(figure), Some(_)) if figure < 0.0 => {
                (format!("{figure:.2}{unit}"), "too restless a machine to tell".to_owned())
            }
            (None, _) => ("–".to_owned(), "not measured".to_owned()),
            (Some(figure), None) => (format!("{figure:.2}{unit}"), "to judge by".to_owned()),
            (Some(figure), Some(most)) if figure <= most => (format!("{figure:.2}{unit}"), "holds".to_owned()),
            (Some(figure), Some(most)) => {
                (format!("{figure:.2}{unit}"), format!("missed by {:.0} %", (figure / most - 1.0) * 100.0))
            }
        };
        text.push_str(&format!("| {name} | {aim} | {measured} | {verdict} |\n"));
    }
    text
}

fn targets(results: &Results, tollgate: &Contender) -> Vec<Target> {
    let call_times = |mine: &Contender, kind| mine.times(results.contender(kind)?, of_a_call);
    let line_times = |kind| tollgate.times(results.contender(kind)?, |round| round.paced.cpu_us_per_line());
    let (tls, redis) = (results.contender(Kind::TollgateTls), results.contender(Kind::TollgateRedis));
    let hyper = results.contender(Kind::BareHyper);
    let times = " ×";
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory lie far below 2^53")]
    let idle = tollgate.median(|round| round.idle_resident_bytes.map(|bytes| bytes as f64 / 1e6));
    let target = |name, most, unit, figure| Target { name, most: Some(most), unit, figure };
    let figure = |name, figure| Target { name, most: None, unit: times, figure };
    vec![
        target("CPU/request, of nginx's", 1.9, times, call_times(tollgate, Kind::Nginx)),
        target("CPU/request, of Envoy's with its filter", 0.5, times, call_times(tollgate, Kind::Envoy)),
        figure("CPU/request, of bare hyper's", call_times(tollgate, Kind::BareHyper)),
        figure("CPU/request of bare hyper, of nginx's", hyper.and_then(|hyper| call_times(hyper, Kind::Nginx))),
        figure(
            "CPU/request of bare hyper, of Envoy's with its filter",
            hyper.and_then(|hyper| call_times(hyper, Kind::Envoy)),
        ),
        target("CPU/line of a stream, of nginx's", 1.4, times, line_times(Kind::Nginx)),
        target("first line, added p99 at 1,000 calls/s", 0.5, " ms", added_first_line_ms(results, tollgate, true)),
        target("CPU/request with TLS, of plain", 1.35, times, tls.and_then(|tls| call_times(tls, Kind::Tollgate))),
        target(
            "CPU/request with Redis, of plain in memory",
            1.6,
            times,
            redis.and_then(|redis| call_times(redis, Kind::Tollgate)),
        ),
        target("memory of an open stream", 40.0, " KB", tollgate.stream_bytes.map(|bytes| bytes / 1e3)),
        target("resident, idle", 60.0, " MB", idle),
        target("start to first answer, compiled before", 500.0, " ms", tollgate.median(|round| round.start_ms)),
    ]
}

/// CPU of a call of 1 KiB.
fn of_a_call(round: &Round) -> Option<f64> {
    round.closed.get(ROWS[0].name)?.cpu_us_per_call()
}

/// Whether all was served, and the figures can be figures: what a smoke run asserts. Never a speed.
pub(crate) fn smoke(results: &Results) -> Result<(), Failure> {
    for contender in &results.contenders {
        let title = contender.kind.title();
        if contender.errors() > 0 {
            let first = contender.rounds.iter().find_map(first_error);
            return Err(Failure::new(format!("{title}: {} errors, the first: {first:?}", contender.errors())));
        }
        let is_proxy = contender.kind != Kind::Direct;
        let plausible = |name: &str, figure: Option<f64>, least: f64, most: f64| match figure {
            Some(figure) if (least..=most).contains(&figure) => Ok(()),
            None if !is_proxy => Ok(()),
            figure => Err(Failure::new(format!("{title}: {name} is {figure:?}, which can't be"))),
        };
        plausible("CPU/request in µs", contender.median(of_a_call), 1.0, 10_000.0)?;
        plausible("CPU/line in µs", contender.median(|round| round.paced.cpu_us_per_line()), 0.1, 10_000.0)?;
        plausible("memory of a stream in bytes", contender.stream_bytes, 0.0, 10e6)?;
        plausible("the time to start in ms", contender.median(|round| round.start_ms), 1.0, 30_000.0)?;
        for row in ROWS {
            let rate = contender.median(|round| Some(round.closed.get(row.name)?.calls_per_second()));
            if rate.is_none_or(|rate| rate < 1.0) {
                return Err(Failure::new(format!("{title}: {} was not served", row.name)));
            }
        }
    }
    Ok(())
}

fn first_error(round: &Round) -> Option<String> {
    let mut figures = round.closed.values().chain([&round.open, &round.paced]);
    figures.find_map(|figures| figures.report.errors.first.clone())
}
