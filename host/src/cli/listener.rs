//! Whose the socket is that listens where the gate should: while the gate is down anybody on the machine may listen there,
//! and would be handed the token.

use std::{
    fs::{self, metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

/// What the system says of TCP sockets, by address family.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The state of a listening socket (`TCP_LISTEN` of Linux).
const LISTENING: &str = "0A";

/// Whether all that listens on this port belongs to the owner of this file, or to root. Where the system doesn't tell (it
/// is no Linux) the answer is yes.
///
/// # Errors
/// When the file's owner is not known.
pub(super) fn belongs_to_owner_of(file: &Path, port: u16) -> io::Result<bool> {
    let owner = metadata(file)?.uid();
    let tables: Vec<String> = TABLES.iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    Ok(tables.iter().flat_map(|table| listeners(table, port)).all(|uid| uid == owner || uid == 0))
}

/// Owners of the sockets that listen on this port.
fn listeners(table: &str, port: u16) -> impl Iterator<Item = u32> {
    table.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next()?, words.nth(1)?);
        let (_, at) = local.rsplit_once(':')?;
        let is_it = state == LISTENING && u16::from_str_radix(at, 16).ok()? == port;
        let uid = words.nth(3)?.parse().ok()?;
        is_it.then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_are_told_with_their_owners_and_other_sockets_are_not() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4 1 0\n\
            1: 0100007F:1F91 0100007F:8000 01 00000000:00000000 00:00000000 00000000    33        0 5 1 0\n\
            2: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000    34        0 6 1 0\n";
        assert_eq!(listeners(table, 8081).collect::<Vec<_>>(), [1000]);
        assert_eq!(listeners(table, 8080).collect::<Vec<_>>(), [34]);
        assert_eq!(listeners(table, 80).count(), 0);
    }

    #[test]
    fn a_listener_of_ones_own_is_ones_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(belongs_to_owner_of(file.path(), listener.local_addr().unwrap().port()).unwrap());
    }
}
