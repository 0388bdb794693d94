//! The loop that makes calls and takes their answers.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
};

use super::{
    Load, Pace, Until,
    connection::{Broken, Connection},
    report::{Errors, Report, Times},
};
use crate::{clock::now, failure::Failure};

/// After so many errors a run stops: what it measures is no service.
const MOST_ERRORS: u64 = 1_000;
/// How long calls that were begun may take beyond the end of an open-loop run.
const GRACE: Duration = Duration::from_secs(5);
/// No run lasts longer than this beyond its own time: something hangs.
const MOST_SILENCE: Duration = Duration::from_secs(30);
/// Room for what comes in one read.
const SCRATCH: usize = 256 << 10;

/// Moments at which the caller may look at the process that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The warm-up is over.
    Begin,
    /// Nothing counts any more.
    End,
}

#[derive(Debug)]
struct Slot {
    connection: Connection,
    call: Option<Running>,
}

/// A call that waits for its answer.
#[derive(Debug)]
struct Running {
    meant: Instant,
    lines: u64,
    last_line: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    /// Nothing new starts; what was begun in time still counts.
    Draining,
}

struct Engine<'a> {
    load: &'a Load,
    epoll: rustix::fd::OwnedFd,
    slots: Vec<Option<Slot>>,
    idle: Vec<usize>,
    backlog: VecDeque<Instant>,
    phase: Phase,
    started: u64,
    counted: Counted,
    scratch: Vec<u8>,
}

/// What counts.
struct Counted {
    calls: u64,
    all_calls: u64,
    lines: u64,
    latency: Times,
    first_line: Times,
    gap: Times,
    errors: Errors,
}

/// Runs a load. `at` is called twice, on this thread, between the calls.
pub(crate) fn run(load: &Load, at: &mut dyn FnMut(Mark) -> Result<(), Failure>) -> Result<Report, Failure> {
    let mut engine = Engine::new(load)?;
    // Before the clock starts: a connection whose first packet is lost takes a second.
    engine.open_all()?;
    let began = now();
    let measured_from = began + load.warm_up;
    let end = match load.until {
        Until::Time(time) => Some(measured_from + time),
        Until::Calls(_) => None,
    };
    let mut from = began;
    let mut schedule = Schedule::new(load.pace, began);
    if load.warm_up.is_zero() {
        at(Mark::Begin)?;
        engine.phase = Phase::Measured;
    }
    if load.pace == Pace::Closed {
        engine.begin_everywhere();
    }
    let mut last_news = (began, 0);
    let until = loop {
        let time = now();
        if engine.phase == Phase::WarmUp && time >= measured_from {
            at(Mark::Begin)?;
            from = now();
            engine.phase = Phase::Measured;
            engine.counted.forget();
        }
        if end.is_some_and(|end| time >= end) || engine.has_all_calls() {
            break now();
        }
        engine.check_health(time, &mut last_news)?;
        while let Some(meant) = schedule.due(time) {
            engine.begin_or_wait(meant);
        }
        let edge = if engine.phase == Phase::WarmUp { Some(measured_from) } else { end };
        engine.take_events(schedule.next.into_iter().chain(edge).min(), time)?;
    };
    let seconds = until.duration_since(from).as_secs_f64();
    at(Mark::End)?;
    let (calls, lines) = (engine.counted.calls, engine.counted.lines);
    if load.pace != Pace::Closed {
        engine.drain()?;
    }
    let mut report = engine.counted.report(seconds)?;
    // What came while draining belongs to the times, not to the rate.
    (report.calls, report.lines) = (calls, lines);
    Ok(report)
}

/// When the calls of an open loop are meant to start.
struct Schedule {
    next: Option<Instant>,
    every: Duration,
}

impl Schedule {
    fn new(pace: Pace, began: Instant) -> Self {
        match pace {
            Pace::Closed => Self { next: None, every: Duration::ZERO },
            Pace::PerSecond(rate) => Self { next: Some(began), every: Duration::from_secs_f64(1.0 / rate) },
        }
    }

    fn due(&mut self, time: Instant) -> Option<Instant> {
        let due = self.next.filter(|next| *next <= time)?;
        self.next = Some(due + self.every);
        Some(due)
    }
}

impl<'a> Engine<'a> {
    fn new(load: &'a Load) -> Result<Self, Failure> {
        Ok(Self {
            load,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            slots: Vec::new(),
            idle: Vec::new(),
            backlog: VecDeque::new(),
            phase: Phase::WarmUp,
            started: 0,
            counted: Counted::new()?,
            scratch: vec![0; SCRATCH],
        })
    }

    /// Opens all connections.
    fn open_all(&mut self) -> Result<(), Failure> {
        for index in 0..self.load.connections {
            self.slots.push(None);
            self.open(index);
            if self.counted.errors.connect > 0 && index == 0 {
                return Err(self.failure("nothing can be measured"));
            }
        }
        Ok(())
    }

    /// Begins a call on each connection.
    fn begin_everywhere(&mut self) {
        for _ in 0..self.slots.len() {
            self.begin_or_wait(now());
        }
    }

    fn open(&mut self, index: usize) {
        let opened = Connection::open(&self.load.target).and_then(|connection| {
            let data = EventData::new_u64(u64::try_from(index).unwrap_or(u64::MAX));
            epoll::add(&self.epoll, &connection, data, EventFlags::IN).map_err(std::io::Error::from)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => {
                if let Some(slot) = self.slots.get_mut(index) {
                    *slot = Some(Slot { connection, call: None });
                    self.idle.push(index);
                }
            }
            Err(error) => {
                self.counted.errors.connect += 1;
                self.counted.note_first(&error);
            }
        }
    }

    fn begin_or_wait(&mut self, meant: Instant) {
        if let Some(index) = self.idle.pop() {
            self.begin(index, meant);
        } else {
            self.backlog.push_back(meant);
        }
    }

    fn begin(&mut self, index: usize, meant: Instant) {
        if matches!(self.load.until, Until::Calls(most) if self.started >= most) {
            return;
        }
        self.started += 1;
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        slot.call = Some(Running { meant, lines: 0, last_line: None });
        match slot.connection.send(&self.load.request) {
            Ok(()) => self.watch(index),
            Err(error) => self.broke(index, &error),
        }
    }

    /// Asks to be told when there is room to send, as long as something waits for it.
    fn watch(&mut self, index: usize) {
        let Some(Some(slot)) = self.slots.get(index) else { return };
        if slot.connection.wants_write() {
            let data = EventData::new_u64(u64::try_from(index).unwrap_or(u64::MAX));
            let flags = EventFlags::IN | EventFlags::OUT;
            if let Err(error) = epoll::modify(&self.epoll, &slot.connection, data, flags) {
                self.broke(index, &Broken::Io(error.into()));
            }
        }
    }

    fn take_events(&mut self, until: Option<Instant>, time: Instant) -> Result<(), Failure> {
        let longest = Duration::from_millis(100);
        let wait = match until {
            _ if self.load.spins => Duration::ZERO,
            Some(until) => until.saturating_duration_since(time).min(longest),
            None => longest,
        };
        let timeout = Timespec::try_from(wait).map_err(|_| Failure::new("no such time"))?;
        let mut events = Vec::with_capacity(256);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if self.load.spins && events.is_empty() {
            std::thread::yield_now();
        }
        for event in events {
            let (data, flags) = (event.data, event.flags);
            let Ok(index) = usize::try_from(data.u64()) else { continue };
            self.take_event(index, flags);
        }
        Ok(())
    }

    fn take_event(&mut self, index: usize, flags: EventFlags) {
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        if flags.contains(EventFlags::OUT) {
            let data = EventData::new_u64(u64::try_from(index).unwrap_or(u64::MAX));
            let sent = slot.connection.flush();
            if let Err(error) = sent {
                return self.broke(index, &error);
            }
            if !slot.connection.wants_write()
                && let Err(error) = epoll::modify(&self.epoll, &slot.connection, data, EventFlags::IN)
            {
                return self.broke(index, &Broken::Io(error.into()));
            }
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        let Some(call) = &mut slot.call else {
            // Servers may close a connection without a call.
            if !slot.connection.is_still_usable(&mut self.scratch) {
                self.reopen(index);
            }
            return;
        };
        let read = slot.connection.read(&mut self.scratch);
        let time = now();
        self.counted.lines_came(call, slot.connection.answer.lines, time);
        match read {
            Ok(false) => {}
            Ok(true) => self.answered(index, time),
            Err(error) => self.broke(index, &error),
        }
    }

    fn answered(&mut self, index: usize, time: Instant) {
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        let Some(call) = slot.call.take() else { return };
        let closes = slot.connection.answer.closes;
        if slot.connection.answer.status == Some(200) {
            self.counted.calls += 1;
            self.counted.all_calls += 1;
            self.counted.latency.note(time.duration_since(call.meant));
        } else {
            self.counted.errors.status += 1;
            let words = slot.connection.answer.in_words();
            self.counted.note_first(&words);
        }
        if closes {
            self.reopen(index);
        } else {
            self.idle.push(index);
        }
        self.next(time);
    }

    fn broke(&mut self, index: usize, error: &Broken) {
        self.counted.errors.broken += 1;
        self.counted.note_first(error);
        self.reopen(index);
        self.next(now());
    }

    /// What follows a call that has ended.
    fn next(&mut self, time: Instant) {
        if self.phase == Phase::Draining {
            return;
        }
        if let Some(meant) = self.backlog.pop_front() {
            self.begin_or_wait(meant);
        } else if self.load.pace == Pace::Closed {
            self.begin_or_wait(time);
        }
    }

    fn reopen(&mut self, index: usize) {
        self.idle.retain(|idle| *idle != index);
        if let Some(slot) = self.slots.get_mut(index) {
            // Closing a socket takes it out of the set.
            *slot = None;
        }
        self.open(index);
    }

    fn has_all_calls(&self) -> bool {
        let ended = self.counted.all_calls + self.counted.errors.broken + self.counted.errors.status;
        matches!(self.load.until, Until::Calls(most) if ended >= most)
    }

    fn check_health(&self, time: Instant, last_news: &mut (Instant, u64)) -> Result<(), Failure> {
        if self.counted.errors.total() > MOST_ERRORS {
            return Err(self.failure("too many errors"));
        }
        let news = self.counted.all_calls + self.counted.lines;
        if news != last_news.1 {
            *last_news = (time, news);
        } else if time.saturating_duration_since(last_news.0) > MOST_SILENCE {
            return Err(self.failure("nothing is answered any more"));
        }
        Ok(())
    }

    /// Waits for the answers of calls that were begun in time; those that don't come are errors.
    fn drain(&mut self) -> Result<(), Failure> {
        let last = now() + GRACE;
        while now() < last && self.outstanding() > 0 {
            // Calls that waited for a connection were meant to start within the time: they are made, and count.
            while !self.idle.is_empty()
                && let Some(meant) = self.backlog.pop_front()
            {
                self.begin_or_wait(meant);
            }
            self.phase = if self.backlog.is_empty() { Phase::Draining } else { self.phase };
            self.take_events(Some(last), now())?;
        }
        self.counted.errors.unfinished = u64::try_from(self.outstanding()).unwrap_or(u64::MAX);
        if self.counted.errors.unfinished > 0 {
            self.counted.note_first(&"a call was not answered by the end");
        }
        Ok(())
    }

    fn outstanding(&self) -> usize {
        self.backlog.len() + self.slots.iter().flatten().filter(|slot| slot.call.is_some()).count()
    }

    fn failure(&self, what: &str) -> Failure {
        let first = self.counted.errors.first.as_deref().unwrap_or("without an error");
        Failure::new(format!("{what} at {}: {first}", self.load.target.address))
    }
}

impl Counted {
    fn new() -> Result<Self, Failure> {
        let (latency, first_line, gap) = (Times::new()?, Times::new()?, Times::new()?);
        Ok(Self { calls: 0, all_calls: 0, lines: 0, latency, first_line, gap, errors: Errors::default() })
    }

    fn forget(&mut self) {
        (self.calls, self.lines) = (0, 0);
        for times in [&mut self.latency, &mut self.first_line, &mut self.gap] {
            times.clear();
        }
    }

    /// Notes the lines of an answer that have come by now. Those that come together have no gap between them.
    fn lines_came(&mut self, call: &mut Running, lines: u64, time: Instant) {
        let new = lines - call.lines;
        if new == 0 {
            return;
        }
        self.lines += new;
        call.lines = lines;
        match call.last_line.replace(time) {
            None => self.first_line.note(time.duration_since(call.meant)),
            Some(last) => self.gap.note(time.duration_since(last)),
        }
    }

    fn note_first(&mut self, error: &dyn std::fmt::Display) {
        self.errors.first.get_or_insert_with(|| error.to_string());
    }

    fn report(self, seconds: f64) -> Result<Report, Failure> {
        if self.all_calls == 0 && self.lines == 0 {
            let first = self.errors.first.as_deref().unwrap_or("without an error");
            return Err(Failure::new(format!("no call was answered: {first}")));
        }
        Ok(Report {
            seconds,
            calls: self.calls,
            lines: self.lines,
            latency: self.latency.percentiles(),
            first_line: self.first_line.percentiles(),
            gap: self.gap.percentiles(),
            errors: self.errors,
        })
    }
}
