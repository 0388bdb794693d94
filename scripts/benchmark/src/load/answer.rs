//! Reading an HTTP/1.1 answer as it comes: where it ends, and how many lines have come.
//!
//! It takes what the proxies under test send: a length or chunks. Anything else is an error, never a guess.

/// Longest head of an answer.
const MOST_HEAD: usize = 16 << 10;
/// Most header lines of an answer.
const MOST_HEADERS: usize = 64;
/// So much of the body of an answer that is no success is kept: it says why.
const MOST_REASON: usize = 400;

/// One answer, half read.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    head: Vec<u8>,
    framing: Framing,
    /// Status, as soon as the head is there.
    pub(crate) status: Option<u16>,
    /// Lines of the body so far.
    pub(crate) lines: u64,
    /// Bytes of the body so far.
    pub(crate) body_bytes: u64,
    /// Whether the server closes after this answer.
    pub(crate) closes: bool,
    reason: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    #[default]
    Head,
    Length(u64),
    Chunks(Chunk),
    Done,
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In a size; so much of it was read, and whether its digits are over.
    Size(u64, bool),
    /// So many bytes of data are left.
    Data(u64),
    /// In the line end after data: so many bytes are left.
    DataEnd(u8),
    /// In the lines after the last chunk; so many bytes of this one were seen.
    Trailer(u32),
}

/// What came is no answer that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no HTTP/1.1 with a length or chunks")]
pub(crate) struct Malformed;

impl Answer {
    /// Status and, where it is not 200, the beginning of the body.
    pub(crate) fn in_words(&self) -> String {
        let status = self.status.unwrap_or(0);
        let reason = String::from_utf8_lossy(&self.reason);
        format!("an answer of {status}: {}", reason.escape_debug())
    }

    /// Whether the answer is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.framing == Framing::Done
    }

    /// Takes the next bytes; true when the answer is complete. Bytes after its end are an error: nobody asked for more.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<bool, Malformed> {
        while !bytes.is_empty() {
            bytes = match self.framing {
                Framing::Head => self.take_head(bytes)?,
                Framing::Length(left) => {
                    let rest = self.take_data(bytes, left);
                    let left = left.saturating_sub(size(bytes) - size(rest));
                    self.framing = if left == 0 { Framing::Done } else { Framing::Length(left) };
                    rest
                }
                Framing::Chunks(chunk) => self.take_chunk(bytes, chunk)?,
                Framing::Done => return Err(Malformed),
            };
        }
        Ok(self.is_done())
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let Ok(parsed) = head.parse(&self.head) else { return Err(Malformed) };
        let httparse::Status::Complete(length) = parsed else {
            return if self.head.len() > MOST_HEAD { Err(Malformed) } else { Ok(&[]) };
        };
        self.status = head.code;
        let mut framing = None;
        for header in head.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(header.value).ok().and_then(|text| text.parse().ok());
                let length: u64 = length.ok_or(Malformed)?;
                framing = Some(if length == 0 { Framing::Done } else { Framing::Length(length) });
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Some(Framing::Chunks(Chunk::Size(0, false)));
            } else if header.name.eq_ignore_ascii_case("connection") {
                self.closes = header.value.eq_ignore_ascii_case(b"close");
            }
        }
        self.framing = framing.ok_or(Malformed)?;
        bytes.get(length.saturating_sub(before)..).ok_or(Malformed)
    }

    /// Counts up to `left` bytes of the body; answers what follows them.
    fn take_data<'a>(&mut self, bytes: &'a [u8], left: u64) -> &'a [u8] {
        let (data, rest) = bytes.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
        self.body_bytes += size(data);
        if self.status != Some(200) {
            self.reason.extend(data.iter().take(MOST_REASON.saturating_sub(self.reason.len())));
        }
        self.lines += data.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        rest
    }

    fn take_chunk<'a>(&mut self, bytes: &'a [u8], chunk: Chunk) -> Result<&'a [u8], Malformed> {
        let Some((first, after)) = bytes.split_first() else { return Ok(bytes) };
        let (next, rest) = match chunk {
            Chunk::Data(left) => {
                let rest = self.take_data(bytes, left);
                let left = left - (size(bytes) - size(rest));
                (if left == 0 { Chunk::DataEnd(2) } else { Chunk::Data(left) }, rest)
            }
            Chunk::DataEnd(left) => (if left > 1 { Chunk::DataEnd(left - 1) } else { Chunk::Size(0, false) }, after),
            Chunk::Size(0, _) if *first == b'\n' => (Chunk::Trailer(0), after),
            Chunk::Size(size, _) if *first == b'\n' => (Chunk::Data(size), after),
            Chunk::Size(size, is_over) => {
                let digit = char::from(*first).to_digit(16).filter(|_| !is_over);
                let size = match digit {
                    Some(digit) => size.checked_mul(16).and_then(|size| size.checked_add(digit.into())),
                    None => Some(size),
                };
                (Chunk::Size(size.ok_or(Malformed)?, is_over || digit.is_none()), after)
            }
            Chunk::Trailer(seen) => match (*first, seen) {
                (b'\n', 0) => {
                    self.framing = Framing::Done;
                    return Ok(after);
                }
                (b'\n', _) => (Chunk::Trailer(0), after),
                (b'\r', seen) => (Chunk::Trailer(seen), after),
                (_, seen) => (Chunk::Trailer(seen.saturating_add(1)), after),
            },
        };
        self.framing = Framing::Chunks(next);
        Ok(rest)
    }
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\nB;x=1\r\n0123456789\n\r\n0\r\nt: 1\r\n\r\n";
    const FIXED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nab\ncd";

    fn check(bytes: &[u8], step: usize) -> Answer {
        let mut answer = Answer::default();
        for piece in bytes.chunks(step) {
            assert!(!answer.is_done());
            answer.take(piece).unwrap();
        }
        assert!(answer.is_done());
        answer
    }

    #[test]
    fn an_answer_is_read_however_it_is_cut() {
        for step in [1, 2, 3, 7, 1000] {
            let answer = check(CHUNKED, step);
            assert_eq!((answer.status, answer.lines, answer.body_bytes, answer.closes), (Some(200), 2, 13, false));
            let answer = check(FIXED, step);
            assert_eq!((answer.status, answer.lines, answer.body_bytes, answer.closes), (Some(200), 1, 5, true));
        }
    }

    #[test]
    fn a_refusal_tells_its_reason() {
        let mut answer = Answer::default();
        let bytes = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\nno backend";
        assert_eq!(answer.take(bytes), Ok(true));
        assert_eq!(answer.in_words(), "an answer of 503: no backend");
    }

    #[test]
    fn what_nobody_asked_for_is_malformed() {
        for bytes in [
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1".as_slice(),
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
            b"SSH-2.0\r\n\r\n",
        ] {
            assert_eq!(Answer::default().take(bytes), Err(Malformed), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
