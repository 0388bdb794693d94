//! Tries a call for an operator: it goes the way of every call, through the same stages, up to the moment in which it would
//! be forwarded, and an account is kept of who decides what.
//!
//! Nothing is charged, sent or settled, and no number of calls moves. Policies are asked in instances of their own: what they
//! keep in their state they find as calls left it, and what they write there or in the log is dropped. Breakers stand as they
//! do, and learn nothing. The one thing that a try may cause is what any unknown model causes: the backends' lists are
//! read again.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    net::IpAddr,
    num::NonZeroUsize,
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::Full;

use super::{
    Parts, admit, authenticate,
    authenticate::Coming,
    caller_body::CallerBody,
    manage,
    observe::Observers,
    read, receive,
    refusal::Refusal,
    request_id::RequestIds,
    route,
    settle::{Settlement, Settling},
};
use crate::{
    llm::operations::Source,
    policy::{Chains, NotRehearsed},
    ports::{explanation::Explanation, keys::KeyRecord},
    usage::metrics::Metrics,
};

/// A call to try. Its headers hold the credential.
pub struct Question {
    /// Whose call it is taken for; none: whose the credential in the headers proves it to be.
    pub key: Option<Arc<KeyRecord>>,
    /// Where it comes from.
    pub peer: IpAddr,
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: Uri,
    /// Its headers; a `host` need not be among them.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Debug for Question {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("Question").field("path", &self.path.path()).finish_non_exhaustive()
    }
}

impl Parts {
    /// What would become of this call now. Takes long, for instances of all policies are made: never on a worker that serves
    /// calls.
    ///
    /// # Errors
    /// A policy that can't be tried.
    pub async fn explain(&self, question: Question) -> Result<Explanation, NotRehearsed> {
        let chains = Arc::new(self.chains.load_full().rehearsal()?);
        let Question { key, peer, method, path, mut headers, body } = question;
        headers.entry(header::HOST).or_insert(header::HeaderValue::from_static("dry-run"));
        if key.is_some() {
            headers.remove(header::AUTHORIZATION);
            headers.remove("x-api-key");
        }
        let request_id = RequestIds::new().accept_or_make(&headers);
        let metrics = Arc::<Metrics>::default();
        let settling = Arc::new(Settling {
            metrics: Arc::clone(&metrics),
            clock: self.clock.clone(),
            estimates: Arc::clone(&self.estimates),
            observers: Observers::new(NonZeroUsize::MIN, self.tasks.clone(), self.clock.clone(), metrics),
            tells_decisions: false,
        });
        let mut settlement = Settlement::rehearse(&settling, &request_id);
        let mut request = Box::new(Request::new(CallerBody::Whole(Full::new(body))));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, path, headers);
        let coming = Coming { peer, request_id: &request_id, taken_for: key.as_ref() };
        let carried = self.try_out(&chains, &coming, request, &mut settlement).await;
        let surface = settlement.surface();
        let refusal = carried.err().map(|refusal| (refusal, surface));
        Ok(settlement.into_account().close(chains.generation(), refusal))
    }

    /// The stages of every call, save that nothing is forwarded.
    async fn try_out(
        &self,
        chains: &Arc<Chains>,
        coming: &Coming<'_>,
        request: Box<Request<CallerBody>>,
        settlement: &mut Settlement,
    ) -> Result<(), Refusal> {
        enter(settlement, "receive");
        let method = request.method().clone();
        let received = receive::receive(request, settlement)?;
        if let Some(account) = settlement.account() {
            account.asks(format!("{method} {}", received.request.uri().path()));
        }
        enter(settlement, "authenticate");
        let authenticated = authenticate::authenticate(self, chains, coming, received, settlement)?;
        enter(settlement, "read");
        let read = read::read(self, authenticated).await?;
        if let Some(account) = settlement.account() {
            account.names_model(&read.call.model);
        }
        let admit::Admitted(read) = admit::admit(self, chains, read, settlement).await?;
        if let Some(account) = settlement.account() {
            account.names_model(&read.call.model);
        }
        enter(settlement, "route");
        if matches!(read.row.answer, Source::Gate(_)) {
            if let Some(account) = settlement.account() {
                account.gate("found", None, "the gate answers this itself".to_owned());
            }
            return Ok(());
        }
        let order = if read.managed.is_some() {
            vec![manage::chosen(&self.fleet, read.exchange.headers())?.name().to_string()]
        } else {
            let routed = route::route(self, chains, admit::Admitted(read), settlement).await?;
            routed.order.iter().map(|candidate| candidate.backend.name().to_string()).collect()
        };
        if let Some(account) = settlement.account() {
            account.goes(order);
        }
        Ok(())
    }
}

fn enter(settlement: &mut Settlement, stage: &'static str) {
    if let Some(account) = settlement.account() {
        account.enters(stage);
    }
}
