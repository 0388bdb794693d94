//! One connection to what is measured: plain or TLS, never blocking once it is open.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use super::answer::{Answer, Malformed};

/// Time to connect, and for a TLS handshake.
const OPENING: Duration = Duration::from_secs(10);

/// Where calls go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// What to trust; without it the connection is plain.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// Why a connection can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("TLS failed: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the connection was closed within an answer")]
    Closed,
}

/// A connection with at most one call on it.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    outgoing: Bytes,
    pub(crate) answer: Answer,
}

impl Connection {
    /// Connects, and shakes hands where there is TLS; both within bounds.
    pub(crate) fn open(target: &Target) -> Result<Self, Broken> {
        let mut socket = TcpStream::connect_timeout(&target.address, OPENING)?;
        socket.set_nodelay(true)?;
        let tls = match &target.tls {
            None => None,
            Some(config) => {
                socket.set_read_timeout(Some(OPENING))?;
                let mut tls =
                    ClientConnection::new(Arc::clone(config), ServerName::IpAddress(target.address.ip().into()))?;
                tls.complete_io(&mut socket)?;
                Some(Box::new(tls))
            }
        };
        socket.set_nonblocking(true)?;
        Ok(Self { socket, tls, outgoing: Bytes::new(), answer: Answer::default() })
    }

    /// Begins a call.
    pub(crate) fn send(&mut self, request: &Bytes) -> Result<(), Broken> {
        self.answer = Answer::default();
        match &mut self.tls {
            None => self.outgoing = request.clone(),
            Some(tls) => tls.writer().write_all(request)?,
        }
        self.flush()
    }

    /// Sends what is left; true when all of it has gone.
    pub(crate) fn flush(&mut self) -> Result<(), Broken> {
        while self.wants_write() {
            let sent = match &mut self.tls {
                None => self.socket.write(&self.outgoing),
                Some(tls) => tls.write_tls(&mut self.socket),
            };
            match sent {
                Ok(0) => return Err(Broken::Closed),
                Ok(count) if self.tls.is_none() => self.outgoing.advance(count),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether something waits for the socket to take it.
    pub(crate) fn wants_write(&self) -> bool {
        self.tls.as_ref().map_or(!self.outgoing.is_empty(), |tls| tls.wants_write())
    }

    /// Takes what has come; true when the answer is complete.
    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> Result<bool, Broken> {
        loop {
            let count = match self.tls.is_some() {
                false => match self.socket.read(scratch) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(self.answer.is_done()),
                    Err(error) => return Err(error.into()),
                },
                true => match self.read_tls(scratch)? {
                    Some(count) => count,
                    None => return Ok(self.answer.is_done()),
                },
            };
            if count == 0 {
                return Err(Broken::Closed);
            }
            let came = scratch.get(..count).unwrap_or_default();
            if self.answer.take(came)? {
                return Ok(true);
            }
            // A short read has emptied the socket; asking again would cost a call for nothing.
            if self.tls.is_none() && count < scratch.len() {
                return Ok(false);
            }
        }
    }

    /// Takes what has come though nothing was asked; whether the connection still serves. Over TLS it may be tickets for
    /// later; without it nothing can have come but the end.
    pub(crate) fn is_still_usable(&mut self, scratch: &mut [u8]) -> bool {
        self.tls.is_some() && matches!(self.read_tls(scratch), Ok(None))
    }

    /// What TLS has in clear; none when the socket has nothing.
    fn read_tls(&mut self, scratch: &mut [u8]) -> Result<Option<usize>, Broken> {
        let Some(tls) = &mut self.tls else { return Ok(None) };
        loop {
            match tls.reader().read(scratch) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Ok(Some(0)),
                Ok(_) => tls.process_new_packets()?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
