//! Many streams held open at once, to see what one of them costs.

use std::time::Duration;

use bytes::Bytes;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
};

use super::connection::{Connection, Target};
use crate::{
    clock::now,
    failure::{Failure, Trying},
};

/// Streams that wait for their first line at a time: more would overflow a server's queue of new connections.
const MOST_OPENING: usize = 64;
/// Time in which all must be open.
const MOST_TIME: Duration = Duration::from_secs(120);
/// Time for a single call.
const ONE_CALL: Duration = Duration::from_secs(10);
const SCRATCH: usize = 64 << 10;

/// Opens so many streams, each up to its first line, then calls `held`, and closes all of them.
pub(crate) fn hold(
    target: &Target,
    request: &Bytes,
    streams: usize,
    held: &mut dyn FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let last = now() + MOST_TIME;
    let mut open: Vec<Connection> = Vec::with_capacity(streams);
    let mut scratch = vec![0; SCRATCH];
    let mut begun = 0;
    while begun < streams {
        while open.len() < streams && open.len() - begun < MOST_OPENING {
            let mut connection =
                Connection::open(target).trying(format_args!("stream {} can't be opened", open.len()))?;
            connection.send(request).trying("a request can't be sent")?;
            if connection.wants_write() {
                return Err(Failure::new("a request doesn't fit into an empty socket"));
            }
            let data = EventData::new_u64(u64::try_from(open.len()).unwrap_or(u64::MAX));
            epoll::add(&epoll, &connection, data, EventFlags::IN)?;
            open.push(connection);
        }
        if now() > last {
            return Err(Failure::new(format!("after {} s only {begun} streams had begun", MOST_TIME.as_secs())));
        }
        let mut events = Vec::with_capacity(MOST_OPENING);
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&Timespec { tv_sec: 1, tv_nsec: 0 })) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let data = event.data;
            let Some(connection) = usize::try_from(data.u64()).ok().and_then(|index| open.get_mut(index)) else {
                continue;
            };
            let before = connection.answer.lines;
            let is_done = connection.read(&mut scratch).trying(format_args!("with {begun} streams open"))?;
            if is_done || connection.answer.status.is_some_and(|status| status != 200) {
                let status = connection.answer.status.unwrap_or(0);
                return Err(Failure::new(format!("with {begun} streams open the answer was {status}, and no stream")));
            }
            if before == 0 && connection.answer.lines > 0 {
                begun += 1;
            }
        }
    }
    held()
}

/// Makes one call over a connection of its own; answers the status.
pub(crate) fn call_once(target: &Target, request: &Bytes) -> Result<u16, Failure> {
    let last = now() + ONE_CALL;
    let mut connection = Connection::open(target).trying("no connection")?;
    connection.send(request).trying("the request can't be sent")?;
    let mut scratch = vec![0; SCRATCH];
    while !connection.read(&mut scratch).trying("no answer")? {
        if now() > last {
            return Err(Failure::new(format!("no answer in {} s", ONE_CALL.as_secs())));
        }
        std::thread::sleep(Duration::from_micros(200));
        connection.flush().trying("the request can't be sent")?;
    }
    Ok(connection.answer.status.unwrap_or(0))
}
