//! A relay before a server, through which answers take as long as it is told: a slow network.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{clock::now, failure::Failure};

/// Pieces of an answer that may be on their way.
const UNDER_WAY: usize = 4096;

/// A relay that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    delay_ms: Arc<AtomicU64>,
    _relaying: JoinSet<()>,
}

impl Relay {
    pub(super) async fn before(server: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let delay_ms = Arc::<AtomicU64>::default();
        let delay = Arc::clone(&delay_ms);
        let mut relaying = JoinSet::new();
        relaying.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                connections.spawn(carry(caller, server, Arc::clone(&delay)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, delay_ms, _relaying: relaying })
    }

    /// From now on each piece of an answer takes so long.
    pub(super) fn slows_to(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
}

async fn carry(caller: TcpStream, server: SocketAddr, delay_ms: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    if caller.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
        return;
    }
    let (mut from_caller, to_caller) = caller.into_split();
    let (from_server, mut to_server) = server.into_split();
    let (due, coming) = mpsc::channel(UNDER_WAY);
    tokio::select! {
        _ = tokio::io::copy(&mut from_caller, &mut to_server) => {}
        () = take(from_server, due, &delay_ms) => {}
        () = bring(coming, to_caller) => {}
    }
}

/// Takes what the server says, with the moment at which it is due.
async fn take(mut from: OwnedReadHalf, due: mpsc::Sender<(Instant, Vec<u8>)>, delay_ms: &AtomicU64) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let at = Instant::from_std(now()) + Duration::from_millis(delay_ms.load(Relaxed));
        if due.send((at, piece.get(..read).unwrap_or_default().to_vec())).await.is_err() {
            return;
        }
    }
}

async fn bring(mut coming: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf) {
    while let Some((at, piece)) = coming.recv().await {
        sleep_until(at).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
