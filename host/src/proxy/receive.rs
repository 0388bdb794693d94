//! receive: the head of a request becomes a row of the operation table, or a refusal.

use http::{Request, Version, header};

use super::{caller_body::CallerBody, refusal::Refusal, settle::Settlement};
use crate::llm::operations::{self, Match, Row};

/// A request that the operation table names. Without `Debug`: its headers hold the credential.
pub(super) struct Received {
    pub(super) row: &'static Row,
    /// What the path names: a model.
    pub(super) parameter: Option<Box<str>>,
    pub(super) request: Box<Request<CallerBody>>,
}

/// Finds the row. Paths are compared as they are written: nothing is decoded or tidied, so nothing slips through.
pub(super) fn receive(request: Box<Request<CallerBody>>, settlement: &mut Settlement) -> Result<Received, Refusal> {
    let (row, parameter) = match operations::find(request.method(), request.uri().path()) {
        Match::Row(row, parameter) => (row, parameter.map(|text| text.into_owned().into_boxed_str())),
        Match::WrongMethod { allow, surface } => {
            settlement.speaks(surface);
            return Err(Refusal::wrong_method(allow));
        }
        Match::Unknown { surface } => {
            settlement.speaks(surface);
            return Err(Refusal::unknown_path());
        }
    };
    settlement.asks(row.surface, row.operation);
    // The gate has one name for all callers, but whoever stands before it may have taken the request for another's.
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(Refusal::unclear_host());
    }
    Ok(Received { row, parameter, request })
}
