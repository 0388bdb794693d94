//! A request as HTTP/2 frames that no client library would send, and what came of it.
//!
//! Fields go out as plain literals (RFC 7541 §6.2.2), so that any bytes can stand in them. Of what comes only the status
//! is read.

use std::{net::SocketAddr, sync::Arc};

use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{request::Fields, table::Outcome};
use crate::support::{soon, tls};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Largest frame that may be sent unasked (RFC 9113 §4.2).
const MAX_FRAME: usize = 16_384;

/// Sends one request on a connection of its own; answers what the gate says to it.
pub(super) async fn send(address: SocketAddr, client: &Arc<ClientConfig>, request: &Fields) -> Outcome {
    let mut stream = tls::connect(address, client).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(request_frames(request));
    // A gate that has closed already has said why.
    drop(stream.write_all(&bytes).await);
    drop(stream.flush().await);
    soon("the answer", outcome(&mut stream)).await
}

fn request_frames(request: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in &request.fields {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    let end = if request.body.is_some() { 0 } else { END_STREAM };
    let mut bytes = Vec::new();
    let pieces = block.chunks(MAX_FRAME).count();
    for (at, piece) in (1..).zip(block.chunks(MAX_FRAME)) {
        let kind = if at == 1 { HEADERS } else { CONTINUATION };
        let last = if at == pieces { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, last | if at == 1 { end } else { 0 }, 1, piece));
    }
    for piece in request.body.iter().flat_map(|body| body.chunks(MAX_FRAME)) {
        bytes.extend(frame(DATA, 0, 1, piece));
    }
    if request.body.is_some() {
        bytes.extend(frame(DATA, END_STREAM, 1, &[]));
    }
    bytes
}

/// A length with a prefix of seven bits (RFC 7541 §5.1).
fn length(length: usize, block: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(127) else {
        block.push(u8::try_from(length).unwrap());
        return;
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads frames until one tells how the call ends.
async fn outcome(stream: &mut TlsStream<TcpStream>) -> Outcome {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return Outcome::Cut;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return Outcome::Cut;
        }
        match head[3] {
            HEADERS => match status(&payload) {
                100..=199 => {}
                status => return Outcome::Answered(status),
            },
            RST_STREAM => return Outcome::Reset,
            GOAWAY if payload[4..8] != [0; 4] => return Outcome::Reset,
            _ => {}
        }
    }
}

/// The status, which is the first field of an answer.
fn status(block: &[u8]) -> u16 {
    // Changes of the table's size come before.
    let block = &block[block.iter().take_while(|byte| (0x20..=0x3f).contains(*byte)).count()..];
    match block[0] {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        // A literal, whose name stands in the static table.
        0x48 | 0x08 | 0x18 => {
            let length = usize::from(block[1] & 0x7f);
            let text = &block[2..2 + length];
            if block[1] & 0x80 == 0 { std::str::from_utf8(text).unwrap().parse().unwrap() } else { digits(text) }
        }
        other => panic!("a status that begins with {other:#x}: {block:?}"),
    }
}

/// Three digits in the code of RFC 7541, appendix B: `0` to `2` have five bits, the others six.
fn digits(text: &[u8]) -> u16 {
    let bits = text.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (32 - 8 * text.len());
    let (mut rest, mut number) = (bits, 0);
    for _ in 0..3 {
        let digit = if rest >> 27 <= 2 { rest >> 27 } else { (rest >> 26) - 22 };
        rest <<= if digit <= 2 { 5 } else { 6 };
        number = number * 10 + u16::try_from(digit).unwrap();
    }
    number
}
