//! Whether a proxy serves: a call is answered, and one that must be refused is refused.

use std::{thread::sleep, time::Duration};

use super::{Kind, NO_KEY, Prepared};
use crate::{
    clock::now,
    failure::Failure,
    load::{Call, Target, call_once},
};

/// Time to start: Envoy compiles its filter.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) fn until_served(prepared: &mut Prepared, kind: Kind) -> Result<(), Failure> {
    let last = now() + PATIENCE;
    loop {
        prepared.process.must_run()?;
        let why = match status(&prepared.whole, &prepared.key) {
            Ok(200) => break,
            Ok(status) => format!("it answers {status}"),
            Err(failure) => failure.to_string(),
        };
        if now() > last {
            return Err(Failure::new(format!("it doesn't serve after {} s: {why}", PATIENCE.as_secs())));
        }
        sleep(PAUSE);
    }
    let stream = status(&prepared.streams, &prepared.key)?;
    if stream != 200 {
        return Err(Failure::new(format!("its second port answers {stream}")));
    }
    if !kind.checks_keys() {
        return Ok(());
    }
    match status(&prepared.whole, NO_KEY)? {
        401 => Ok(()),
        status => Err(Failure::new(format!("it answers {status} to a wrong key: its check is not on"))),
    }
}

fn status(target: &Target, key: &str) -> Result<u16, Failure> {
    call_once(target, &Call { model: "bytes-1024:latest", body_bytes: 1024, key }.request())
}
