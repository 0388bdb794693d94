//! One contender, one start: all loads on it, one after the other.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use super::results::{Figures, ROWS, Round, Settings, number};
use crate::{
    contender::{Bench, Kind, Running},
    failure::{Failure, Trying},
    load::{self, Call, Load, Mark, Pace, Target, Until},
    process::Process,
};

/// A short stream: what comes at 1,000 calls a second.
const SHORT: &str = "stream-4-0:latest";
/// 200 lines, one every 5 ms.
const PACED: &str = "stream-200-5000:latest";
const HELD: &str = "hold:latest";
const BODY_BYTES: usize = 1024;
/// What a process does with memory right after a load is not what it keeps.
const SETTLED: Duration = Duration::from_millis(500);
/// At a fixed rate, the most connections.
const MOST_CONNECTIONS: usize = 256;

/// Starts a contender, measures it, and stops it.
pub(super) fn round(bench: &Bench, kind: Kind, settings: &Settings) -> Result<Round, Failure> {
    let running = bench.start(kind)?;
    let process = running.process.as_ref();
    let start_ms = process.map(|_| running.started_in.as_secs_f64() * 1e3);
    let idle_resident_bytes = process.map(Process::resident_bytes).transpose()?;
    let closed = ROWS
        .iter()
        .map(|row| {
            let call = Call { model: row.model, body_bytes: row.body_bytes, key: &running.key };
            let load = shape(settings, &running.whole, &call, settings.connections, Pace::Closed)?;
            Ok((row.name.to_owned(), figures(process, &load).trying(format_args!("{}, {}", kind.title(), row.name))?))
        })
        .collect::<Result<BTreeMap<_, _>, Failure>>()?;
    let short = Call { model: SHORT, body_bytes: BODY_BYTES, key: &running.key };
    let open = shape(settings, &running.streams, &short, MOST_CONNECTIONS, Pace::PerSecond(settings.rate))?;
    let open = figures(process, &open).trying(format_args!("{}, at a fixed rate", kind.title()))?;
    let paced = Call { model: PACED, body_bytes: BODY_BYTES, key: &running.key };
    let mut paced = shape(settings, &running.streams, &paced, settings.streams, Pace::Closed)?;
    // All streams run, and none ends, within the second that one takes.
    paced.warm_up = paced.warm_up.max(Duration::from_millis(300));
    let paced = figures(process, &paced).trying(format_args!("{}, streams", kind.title()))?;
    if let Some(sharing) = &running.sharing {
        let calls = closed.values().chain([&open, &paced]).map(|figures| figures.report.calls).sum();
        sharing.must_have_held(number(calls)).trying(kind.title())?;
    }
    stop(running)?;
    Ok(Round { start_ms, idle_resident_bytes, closed, open, paced })
}

/// Memory of one open stream, in bytes, of what has a process.
pub(super) fn stream_bytes(bench: &Bench, kind: Kind, settings: &Settings) -> Result<Option<f64>, Failure> {
    let running = bench.start(kind)?;
    let Some(process) = &running.process else { return Ok(None) };
    let request = Call { model: HELD, body_bytes: BODY_BYTES, key: &running.key }.request();
    let before = process.resident_bytes()?;
    let mut held = 0;
    load::hold(&running.streams, &request, settings.held_streams, &mut || {
        sleep(SETTLED);
        held = process.resident_bytes()?;
        Ok(())
    })
    .trying(format_args!("{}, {} open streams", kind.title(), settings.held_streams))?;
    let streams = u64::try_from(settings.held_streams).unwrap_or(u64::MAX);
    if let Some(sharing) = &running.sharing {
        sharing.must_have_held(number(streams)).trying(kind.title())?;
    }
    stop(running)?;
    Ok(Some(number(held.saturating_sub(before)) / number(streams)))
}

fn stop(running: Running) -> Result<(), Failure> {
    running.process.map_or(Ok(()), Process::stop)
}

fn shape(
    settings: &Settings,
    target: &Target,
    call: &Call<'_>,
    connections: usize,
    pace: Pace,
) -> Result<Load, Failure> {
    let seconds = |seconds| Duration::try_from_secs_f64(seconds).trying("the time can't be used");
    Ok(Load {
        target: target.clone(),
        request: call.request(),
        connections,
        pace,
        warm_up: seconds(settings.warm_up_seconds)?,
        until: Until::Time(seconds(settings.measured_seconds)?),
        spins: settings.spins,
    })
}

fn figures(process: Option<&Process>, load: &Load) -> Result<Figures, Failure> {
    let mut times = Vec::with_capacity(2);
    let report = load::run(load, &mut |_: Mark| {
        times.push(process.map(Process::cpu).transpose()?);
        Ok(())
    })?;
    let cpu_seconds = match times.as_slice() {
        [Some(begin), Some(end)] => Some(end.saturating_sub(*begin).as_secs_f64()),
        _ => None,
    };
    Ok(Figures { cpu_seconds, report })
}
