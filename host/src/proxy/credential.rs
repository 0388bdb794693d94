//! What a caller presents to be known: one credential, in one place.

use http::{HeaderMap, HeaderName, header};

use super::refusal::Refusal;
use crate::{
    identity::looks_like_key,
    policy::{Presented, Scheme},
};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A credential as presented. Its text is never printed.
pub(super) struct Credential<'a> {
    pub(super) text: &'a str,
    pub(super) presented: Presented,
}

impl<'a> Credential<'a> {
    /// The text, if it stands where a key belongs. Under another scheme it may mean anything else.
    pub(super) fn key(&self) -> Option<&'a str> {
        matches!(self.presented.scheme, Scheme::Bearer | Scheme::ApiKeyHeader).then_some(self.text)
    }
}

/// The one credential of a request. The same key in both headers is one; anything else that is more than one is refused,
/// since two readers might take different ones.
pub(super) fn find(headers: &HeaderMap) -> Result<Option<Credential<'_>>, Refusal> {
    let authorization = only(headers, &header::AUTHORIZATION)?.map(parse).transpose()?;
    let api_key = only(headers, &API_KEY)?.map(|text| (Scheme::ApiKeyHeader, text.trim()));
    let (scheme, text) = match (authorization, api_key) {
        (Some((_, text)), Some((_, other))) if text != other => return Err(Refusal::two_credentials()),
        (Some(found), _) | (None, Some(found)) => found,
        (None, None) => return Ok(None),
    };
    let mut found = Credential { text, presented: Presented { scheme, key_id: None } };
    found.presented.key_id = found.key().and_then(looks_like_key).map(Into::into);
    Ok(Some(found))
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Refusal::two_credentials());
    }
    line.to_str().map(Some).map_err(|_| Refusal::unreadable_credential())
}

fn parse(line: &str) -> Result<(Scheme, &str), Refusal> {
    let line = line.trim();
    let Some((word, text)) = line.split_once(' ') else {
        return Err(Refusal::unreadable_credential());
    };
    let scheme = if word.eq_ignore_ascii_case("bearer") {
        Scheme::Bearer
    } else if word.eq_ignore_ascii_case("basic") {
        Scheme::Basic
    } else {
        Scheme::Other
    };
    Ok((scheme, text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, text) in lines {
            headers.append(*name, text.parse().unwrap());
        }
        headers
    }

    fn found(lines: &[(&'static str, &str)]) -> Option<(Scheme, String)> {
        let headers = headers(lines);
        let credential = find(&headers).unwrap();
        credential.map(|credential| (credential.presented.scheme, credential.text.to_owned()))
    }

    #[test]
    fn one_credential_is_found_in_either_header() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("authorization", "Bearer a")]), Some((Scheme::Bearer, "a".to_owned())));
        assert_eq!(found(&[("authorization", "bearer  a ")]), Some((Scheme::Bearer, "a".to_owned())));
        assert_eq!(found(&[("authorization", "Basic eA==")]), Some((Scheme::Basic, "eA==".to_owned())));
        assert_eq!(found(&[("authorization", "Digest x=1")]), Some((Scheme::Other, "x=1".to_owned())));
        assert_eq!(found(&[("x-api-key", "a")]), Some((Scheme::ApiKeyHeader, "a".to_owned())));
        let both = [("authorization", "Bearer a"), ("x-api-key", "a")];
        assert_eq!(found(&both), Some((Scheme::Bearer, "a".to_owned())));
    }

    #[test]
    fn more_than_one_is_refused_even_when_they_agree_in_one_header() {
        for lines in [
            &[("authorization", "Bearer a"), ("x-api-key", "b")][..],
            &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
            &[("x-api-key", "a"), ("x-api-key", "b")],
            &[("authorization", "nothing-behind-the-scheme")],
        ] {
            assert!(find(&headers(lines)).is_err(), "{lines:?}");
        }
    }
}
