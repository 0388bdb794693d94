//! Who decided on one call, as its chains told it: kept by pointers while the call runs, written only when its log line is,
//! and into its answer's head where the operator wants that.

use std::{
    fmt::{Display, Formatter, Result as FmtResult},
    sync::Arc,
};

use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

use crate::{
    policy::{Hook, Origin, Step},
    wire::headers::DECISIONS,
};

/// The deciders of one call.
#[derive(Debug, Default)]
pub(super) struct Provenance {
    /// The set of policies that the call began with; none of a call that asked nobody.
    pub(super) generation: Option<u64>,
    authenticated_by: Option<Arc<Origin>>,
    /// All that admitted it, in order; those that had no opinion are left out.
    admitted_by: SmallVec<[Arc<Origin>; 2]>,
    routed_by: Option<Arc<Origin>>,
    /// Which policy refused it, failed, or charged the limit that is reached; none where the gate or a backend is to blame.
    refused_by: Option<Arc<Origin>>,
    /// The code of the refusal.
    pub(super) code: Option<Box<str>>,
}

/// The labels of these versions, with spaces between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Labels<'a>(&'a [Arc<Origin>]);

impl Provenance {
    /// Takes down what counts of an answer.
    pub(super) fn note(&mut self, by: &Arc<Origin>, hook: Hook, step: Step<'_>) {
        match (hook, step) {
            (_, Step::Allowed(_)) => self.authenticated_by = Some(Arc::clone(by)),
            (_, Step::Admitted(_)) => self.admitted_by.push(Arc::clone(by)),
            (_, Step::Ranked(_)) => self.routed_by = Some(Arc::clone(by)),
            (_, Step::Rejected(_) | Step::Failed { is_passed_over: false, .. }) => {
                self.refused_by = Some(Arc::clone(by));
            }
            (_, Step::Abstained | Step::Failed { is_passed_over: true, .. }) => {}
        }
    }

    /// A limit that this policy charged is reached, or its charges make no sense.
    pub(super) fn blame(&mut self, policy: &str) {
        self.refused_by = self.admitted_by.iter().find(|by| by.policy() == policy).cloned();
    }

    pub(super) fn authenticated_by(&self) -> Option<&str> {
        self.authenticated_by.as_ref().map(|by| by.label())
    }

    pub(super) fn admitted_by(&self) -> Option<Labels<'_>> {
        (!self.admitted_by.is_empty()).then_some(Labels(&self.admitted_by))
    }

    pub(super) fn routed_by(&self) -> Option<&str> {
        self.routed_by.as_ref().map(|by| by.label())
    }

    pub(super) fn refused_by(&self) -> Option<&str> {
        self.refused_by.as_ref().map(|by| by.label())
    }

    /// Tells a caller. A call that asked no policy has nothing to tell.
    pub(super) fn stamp(&self, headers: &mut HeaderMap) {
        if self.generation.is_none() {
            return;
        }
        match HeaderValue::try_from(self.to_string()) {
            Ok(value) => drop(headers.insert(DECISIONS, value)),
            // A file's name may hold what a header can't.
            Err(_) => tracing::debug!("a policy's name can't stand in a header: the answer doesn't tell who decided"),
        }
    }
}

/// As a dictionary of RFC 9651.
impl Display for Provenance {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        write!(formatter, "generation={}", self.generation.unwrap_or_default())?;
        if let Some(by) = self.authenticated_by() {
            write!(formatter, ", authenticated-by={by:?}")?;
        }
        if !self.admitted_by.is_empty() {
            let labels: SmallVec<[String; 2]> = self.admitted_by.iter().map(|by| format!("{:?}", by.label())).collect();
            write!(formatter, ", admitted-by=({})", labels.join(" "))?;
        }
        if let Some(by) = self.routed_by() {
            write!(formatter, ", routed-by={by:?}")?;
        }
        if let Some(by) = self.refused_by() {
            write!(formatter, ", refused-by={by:?}")?;
        }
        match &self.code {
            Some(code) => write!(formatter, ", code={code:?}"),
            None => Ok(()),
        }
    }
}

impl Display for Labels<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        for (place, by) in self.0.iter().enumerate() {
            formatter.write_str(if place == 0 { "" } else { " " })?;
            formatter.write_str(by.label())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(policy: &str) -> Arc<Origin> {
        Arc::new(Origin::new(policy.into(), format!("sha256:{}", "0".repeat(64)), Arc::default()))
    }

    #[test]
    fn an_answers_head_names_every_decider_and_the_code() {
        let mut provenance = Provenance { generation: Some(3), ..Provenance::default() };
        provenance.note(&origin("api-key"), Hook::Authenticate, Step::Allowed("k1"));
        provenance.note(&origin("quiet"), Hook::Admit, Step::Abstained);
        provenance.note(&origin("hours"), Hook::Admit, Step::Admitted(&[]));
        provenance.note(&origin("rate-limit"), Hook::Admit, Step::Admitted(&[]));
        provenance.blame("rate-limit");
        provenance.code = Some("rate_limit_exceeded".into());
        let mut headers = HeaderMap::new();
        provenance.stamp(&mut headers);
        assert_eq!(
            headers[DECISIONS],
            "generation=3, authenticated-by=\"api-key@sha256:000000000000\", admitted-by=(\"hours@sha256:000000000000\" \
             \"rate-limit@sha256:000000000000\"), refused-by=\"rate-limit@sha256:000000000000\", \
             code=\"rate_limit_exceeded\""
        );
        let admitted = provenance.admitted_by().unwrap().to_string();
        assert_eq!(admitted, "hours@sha256:000000000000 rate-limit@sha256:000000000000");
    }

    #[test]
    fn a_call_that_asked_nobody_tells_nothing() {
        let mut headers = HeaderMap::new();
        Provenance::default().stamp(&mut headers);
        assert!(headers.is_empty());
    }
}
