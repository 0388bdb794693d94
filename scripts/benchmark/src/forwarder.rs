//! The least that a proxy made of hyper does: it passes heads and bodies on, each piece as it comes, over connections that
//! are kept. What it costs is the floor under every proxy made of hyper.
//!
//! One thread, one backend. It looks at nothing, changes nothing and bounds nothing: it is for a benchmark, on loopback.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self as client, SendRequest},
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime,
};

use crate::failure::{Failure, Trying};

/// Connections that wait to be accepted, as the others have it.
const BACKLOG: u32 = 4096;

/// Forwards until the process ends.
pub(crate) fn serve(listen: SocketAddr, backend: SocketAddr) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(accept(listen, backend))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this process is killed, with all its tasks: none has an end to wait for"
)]
async fn accept(listen: SocketAddr, backend: SocketAddr) -> Result<(), Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen).trying(format_args!("{listen} can't be listened on"))?;
    let listener = socket.listen(BACKLOG)?;
    let pool = Arc::new(Pool { backend, idle: Mutex::default() });
    loop {
        // One that could not be accepted is the caller's to report.
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true)?;
        let pool = Arc::clone(&pool);
        tokio::spawn(async move {
            let service = service_fn(|request| pool.forward(request));
            // A caller that leaves is no news, and one whose call fails sees its connection close.
            drop(server::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// Connections to the backend that wait for a call, the one used last on top.
struct Pool {
    backend: SocketAddr,
    idle: Mutex<Vec<SendRequest<Incoming>>>,
}

impl Pool {
    async fn forward(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Forwarded>, Failure> {
        let mut sender = self.connection().await?;
        let answer = sender.send_request(request).await.trying("the backend gave no answer")?;
        Ok(answer.map(|body| Forwarded::new(body, Arc::clone(self), sender)))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this process is killed, with all its tasks: none has an end to wait for"
    )]
    async fn connection(&self) -> Result<SendRequest<Incoming>, Failure> {
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.backend).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            client::handshake(TokioIo::new(stream)).await.trying("the backend can't be spoken to")?;
        tokio::spawn(connection);
        sender.ready().await.trying("the backend closed a new connection")?;
        Ok(sender)
    }

    fn take(&self) -> Option<SendRequest<Incoming>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, sender: SendRequest<Incoming>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }
}

/// An answer's body, which gives its connection back at its end. One that is dropped before closes it.
struct Forwarded {
    body: Incoming,
    lease: Option<(Arc<Pool>, SendRequest<Incoming>)>,
}

impl Forwarded {
    fn new(body: Incoming, pool: Arc<Pool>, sender: SendRequest<Incoming>) -> Self {
        let mut forwarded = Self { body, lease: Some((pool, sender)) };
        if forwarded.body.is_end_stream() {
            forwarded.give_back();
        }
        forwarded
    }

    fn give_back(&mut self) {
        if let Some((pool, sender)) = self.lease.take() {
            pool.put(sender);
        }
    }
}

impl Body for Forwarded {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let is_whole = match &frame {
            None => true,
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if is_whole {
            self.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
