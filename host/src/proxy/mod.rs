//! The route of a request, stage by stage. Each stage takes the evidence of the one before: a call that was not admitted
//! can't be forwarded, for there is no value to forward it with.
//!
//! Policies are asked here through chains; how they run is unknown here.

mod account;
mod admit;
mod answer;
mod aside;
mod authenticate;
mod body;
mod caller_body;
mod credential;
mod edit_story;
mod explain;
mod forward;
mod in_flight;
mod limit_headers;
mod limits;
mod manage;
mod meter;
mod observe;
mod provenance;
mod read;
mod receive;
mod refusal;
mod relay;
mod request_id;
mod route;
mod settle;
mod told;

use std::{
    mem,
    net::IpAddr,
    num::{NonZeroU64, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio_util::task::TaskTracker;

pub use body::{RelayError, ResponseBody};
pub use caller_body::CallerBody;
pub use explain::Question;
pub use limits::NotTold;

use self::{
    authenticate::Coming,
    in_flight::InFlight,
    observe::Observers,
    refusal::Refusal,
    request_id::RequestIds,
    settle::{Settlement, Settling},
};
use crate::{
    clock::Clock,
    identity::KeyTable,
    llm::operations::{Class, Source},
    policy::Chains,
    quota::{Limits, Sharing},
    upstream::{client::Upstream, fleet::Fleet},
    usage::{estimate::Estimates, metrics::Metrics},
    wire::{bounded::BufferBudget, headers::LIMITS},
};

/// Bounds and switches of the request path.
#[derive(Clone, Copy, Debug)]
pub struct RequestBounds {
    /// Most calls at a time.
    pub max_in_flight: usize,
    /// Largest body of an inference call, in bytes.
    pub max_body: usize,
    /// Longest silence within a request body.
    pub body_idle: Duration,
    /// Most time for a request body that is read whole.
    pub body_whole: Duration,
    /// Largest blob, in bytes.
    pub max_blob: u64,
    /// Fewest bytes of a blob a second.
    pub min_blob_rate: NonZeroU64,
    /// Longest silence within an answer.
    pub upstream_idle: Duration,
    /// The same for what changes a backend, and the time to its first byte.
    pub management: Duration,
    /// Most calls that are over and wait for policies to be told of them.
    pub settle_queue: NonZeroUsize,
    /// Whether `:cloud` models may be used.
    pub allow_cloud: bool,
    /// Whether answers name their backend.
    pub expose_backend: bool,
    /// Whether answers say which policies decided.
    pub tells_decisions: bool,
}

/// What the request path needs; made once, shared by all requests.
#[derive(Debug)]
pub struct Parts {
    /// The policies in force; replaced as a whole.
    pub chains: Arc<ArcSwap<Chains>>,
    /// Who may be proven.
    pub keys: Arc<KeyTable>,
    /// What calls may cost, in memory or shared.
    pub limits: Arc<Limits>,
    /// The backends.
    pub fleet: Arc<Fleet>,
    /// The way to them.
    pub upstream: Upstream,
    /// What operators see.
    pub metrics: Arc<Metrics>,
    /// What calls will take.
    pub estimates: Arc<Estimates>,
    /// Bytes of request bodies held at once.
    pub buffers: BufferBudget,
    /// What the gate waits for when it stops.
    pub tasks: TaskTracker,
    /// Bounds and switches.
    pub bounds: RequestBounds,
    /// The time.
    pub clock: Clock,
}

/// The gate's data plane.
#[derive(Debug)]
pub struct Proxy {
    parts: Arc<Parts>,
    settling: Arc<Settling>,
    running: InFlight,
    request_ids: RequestIds,
}

impl Proxy {
    /// A data plane of these parts. Others may hold them too: a gate that stops waits until the data plane itself is gone.
    pub fn new(parts: Arc<Parts>) -> Self {
        let settling = Arc::new(Settling {
            metrics: Arc::clone(&parts.metrics),
            clock: parts.clock.clone(),
            estimates: Arc::clone(&parts.estimates),
            observers: Observers::new(
                parts.bounds.settle_queue,
                parts.tasks.clone(),
                parts.clock.clone(),
                Arc::clone(&parts.metrics),
            ),
            tells_decisions: parts.bounds.tells_decisions,
        });
        Self { settling, running: InFlight::new(parts.bounds.max_in_flight), parts, request_ids: RequestIds::new() }
    }

    /// Serves one request. Every way out of here ends in its settlement exactly once. The request is boxed: it is large, and each
    /// future that it goes through would copy it.
    ///
    /// # Cancel safety
    /// Dropped when the caller leaves: the connection to the backend closes, and the settlement ends as the caller's leaving.
    pub async fn handle(&self, peer: IpAddr, request: Box<Request<CallerBody>>) -> Response<ResponseBody> {
        let request_id = self.request_ids.accept_or_make(request.headers());
        let mut settlement = Settlement::open(&self.settling, &request_id);
        let carried = self.carry(peer, request, &request_id, &mut settlement).await;
        let surface = settlement.surface();
        // What a call that fails had reserved may be given back: where its limits stood is no longer known.
        let standings =
            if carried.is_err() && settlement.is_reserved() { Vec::new() } else { settlement.tells_standings() };
        let is_degraded = settlement.is_degraded() || self.parts.limits.sharing() == Sharing::Degraded;
        let mut response = match carried {
            Ok((answer, mut set)) => {
                settlement.stamp_decisions(&mut set);
                let mut response = answer.into_response(settlement);
                response.headers_mut().extend(set);
                response
            }
            Err(refusal) => refusal.into_response(settlement),
        };
        limit_headers::stamp(response.headers_mut(), surface, &standings, || self.parts.clock.ticked_unix_us());
        request_id.stamp(response.headers_mut(), surface);
        if is_degraded {
            response.headers_mut().insert(LIMITS, HeaderValue::from_static("degraded"));
        }
        response
    }

    async fn carry(
        &self,
        peer: IpAddr,
        request: Box<Request<CallerBody>>,
        request_id: &request_id::RequestId,
        settlement: &mut Settlement,
    ) -> Result<(answer::Answer, HeaderMap), Refusal> {
        let parts = &self.parts;
        // One set of policies from the first hook to the last, whatever is swapped in meanwhile.
        let chains = parts.chains.load_full();
        let received = receive::receive(request, settlement)?;
        if let (Class::Local, Source::Gate(own)) = (received.row.class, received.row.answer) {
            return Ok((answer::local(parts, own)?, HeaderMap::new()));
        }
        settlement.takes(self.running.enter().ok_or_else(Refusal::overloaded)?);
        settlement.uses(chains.generation());
        let coming = Coming { peer, request_id, taken_for: None };
        // Before anything of the body is read: a stranger must not make the gate hold bytes.
        let authenticated = authenticate::authenticate(parts, &chains, &coming, received, settlement)?;
        let read = read::read(parts, authenticated).await?;
        let mut admitted = admit::admit(parts, &chains, read, settlement).await?;
        // What policies tell the caller is told with an answer, a backend's or the gate's, and never with a refusal.
        let set = mem::take(&mut admitted.0.headers.response);
        if let Some(listing) = answer::listing(parts, &admitted).await? {
            return Ok((listing, set));
        }
        if admitted.0.managed.is_some() {
            // Boxed: calls that manage nothing need not carry the room for it.
            let answered = Box::pin(manage::manage(parts, admitted, settlement)).await?;
            return Ok((relay::relay(parts, answered), set));
        }
        let routed = route::route(parts, &chains, admitted, settlement).await?;
        let answered = forward::forward(parts, routed, settlement).await?;
        Ok((relay::relay(parts, answered), set))
    }
}
