//! `env`: time, randomness and the log.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use wasmtime::Result;

use crate::{
    policy::Hook,
    wasm::{
        bindings::asked::env::{self, Host, LocalTime},
        host_state::HostState,
        log::Level,
    },
};

impl Host for HostState {
    fn now_ms(&mut self) -> Result<u64> {
        self.exchange_in("env.now-ms", &Hook::ALL)?;
        Ok(self.time().unix_ms())
    }

    fn local_now(&mut self, zone: String) -> Result<Result<LocalTime, String>> {
        self.exchange_in("env.local-now", &Hook::ALL)?;
        let Ok(known) = TimeZone::get(&zone) else {
            return Ok(Err(format!("there is no time zone '{zone}'; write one like Europe/Berlin")));
        };
        let now_ms = i64::try_from(self.time().unix_ms()).unwrap_or(i64::MAX);
        let Ok(now) = Timestamp::from_millisecond(now_ms) else {
            return Ok(Err("the system's clock shows no time that a calendar has".to_owned()));
        };
        Ok(local_time(known.to_datetime(now)).ok_or_else(|| "the year is before 0".to_owned()))
    }

    fn random(&mut self) -> Result<u64> {
        self.exchange_in("env.random", &Hook::ALL)?;
        Ok(self.draw())
    }

    fn log(&mut self, level: env::Level, message: String) -> Result<()> {
        self.count_call()?;
        let level = match level {
            env::Level::Debug => Level::Debug,
            env::Level::Info => Level::Info,
            env::Level::Warn => Level::Warn,
            env::Level::Error => Level::Error,
        };
        let message = self.blanked(message);
        self.shared.log.write(&self.shared.name, level, &message);
        Ok(())
    }
}

fn local_time(local: DateTime) -> Option<LocalTime> {
    let small = |value: i8| u8::try_from(value).ok();
    Some(LocalTime {
        year: u16::try_from(local.year()).ok()?,
        month: small(local.month())?,
        day: small(local.day())?,
        weekday: small(local.weekday().to_monday_one_offset())?,
        hour: small(local.hour())?,
        minute: small(local.minute())?,
        second: small(local.second())?,
    })
}
