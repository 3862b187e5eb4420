//! Who is at the other end of a connection: a user of this machine, or an address elsewhere.
//!
//! All users of a machine share its loopback addresses, so that an address says nothing of them. The kernel knows
//! whose each socket is, and says so over `sock_diag(7)`: one question for each connection, found by its four-part
//! name in a hash table. Where the kernel may not be asked (a unit without `AF_NETLINK`), all users of the machine
//! are one address.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// The owner of a connection's other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A user of this machine.
    User(u32),
    /// Who is at an address; of IPv6, who has that /64: that is usually one.
    Address(IpAddr),
}

impl Owner {
    /// The one at `address`.
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl From<IpAddr> for Owner {
    fn from(address: IpAddr) -> Self {
        Self::at(address)
    }
}

/// Asks the kernel whose connections are.
#[derive(Debug)]
pub struct Owners {
    /// Held for one question and its answer, which is there when the question was sent.
    kernel: Option<Mutex<Kernel>>,
}

impl Owners {
    /// Opens the way to the kernel, if there is one.
    pub fn open() -> Self {
        let kernel = Kernel::open();
        if let Err(error) = &kernel {
            tracing::info!(%error, "users of this machine are not told apart: sock_diag is not to be had");
        }
        Self { kernel: kernel.ok().map(Mutex::new) }
    }

    /// Who connected from `client` to `here`, one of this machine's addresses.
    pub fn of(&self, client: SocketAddr, here: SocketAddr) -> Owner {
        let (client, here) = (canonical(client), canonical(here));
        let is_local = client.ip().is_loopback() || client.ip() == here.ip();
        let user = is_local.then(|| self.user(client, here)).flatten();
        user.map_or_else(|| Owner::at(client.ip()), Owner::User)
    }

    fn user(&self, client: SocketAddr, here: SocketAddr) -> Option<u32> {
        let mut kernel = self.kernel.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        match kernel.user_of(client, here) {
            Ok(user) => user,
            Err(error) => {
                tracing::debug!(%client, %error, "ask whose a connection is");
                None
            }
        }
    }
}

#[derive(Debug)]
struct Kernel {
    socket: OwnedFd,
    /// Of the last question.
    sequence: u32,
}

impl Kernel {
    fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The user whose socket is at `local` and leads to `remote`; `None` if there is no such socket, or nobody has it
    /// open any more.
    fn user_of(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = question(self.sequence, local, remote);
        sendto(&self.socket, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 512];
        loop {
            let (len, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
            let answer = &answer[..len.min(answer.len())];
            // An answer that nobody waited for may lie before it.
            if u32_at(answer, SEQUENCE_OFFSET) == Some(self.sequence) {
                return Ok(user_in(answer));
            }
        }
    }
}

/// A `nlmsghdr` and an `inet_diag_req_v2` (`linux/inet_diag.h`). Numbers are the machine's, ports and addresses
/// the network's.
fn question(sequence: u32, local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut message = Vec::with_capacity(QUESTION_LEN as usize);
    message.extend(QUESTION_LEN.to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());

    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let family = u8::try_from(family.as_raw()).expect("families of the internet are small numbers");
    message.extend([family, IPPROTO_TCP, 0, 0]);
    message.extend(ALL_STATES.to_ne_bytes());
    message.extend(local.port().to_be_bytes());
    message.extend(remote.port().to_be_bytes());
    message.extend(octets(local.ip()));
    message.extend(octets(remote.ip()));
    message.extend(0_u32.to_ne_bytes());
    message.extend(NO_COOKIE);
    message
}

/// The user in an `inet_diag_msg`. A socket that was closed has no inode, and seems to be root's.
fn user_in(answer: &[u8]) -> Option<u32> {
    let kind = answer.get(KIND_OFFSET..KIND_OFFSET + 2)?;
    let is_open = u32_at(answer, INODE_OFFSET).is_some_and(|inode| inode != 0);
    u32_at(answer, USER_OFFSET).filter(|_| is_open && kind == SOCK_DIAG_BY_FAMILY.to_ne_bytes())
}

fn u32_at(message: &[u8], offset: usize) -> Option<u32> {
    message.get(offset..offset + 4).map(|bytes| u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
}

/// An IPv4 address takes the first four.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.octets());
            octets
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

const QUESTION_LEN: u32 = 16 + 56;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const ALL_STATES: u32 = u32::MAX;
const NO_COOKIE: [u8; 8] = [0xff; 8];

const KIND_OFFSET: usize = 4;
const SEQUENCE_OFFSET: usize = 8;
const USER_OFFSET: usize = 16 + 64;
const INODE_OFFSET: usize = 16 + 68;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn of_connection(owners: &Owners, listen: &str, dial: impl Fn(u16) -> SocketAddr) -> (Owner, TcpStream) {
        let listener = TcpListener::bind(listen).unwrap();
        let client = TcpStream::connect(dial(listener.local_addr().unwrap().port())).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        (owners.of(from, accepted.local_addr().unwrap()), client)
    }

    #[test]
    fn a_local_connection_is_its_users() {
        let me = Owner::User(rustix::process::getuid().as_raw());
        let owners = Owners::open();
        let v4 = |port| SocketAddr::new("127.0.0.1".parse().unwrap(), port);
        for listen in ["127.0.0.1:0", "[::]:0"] {
            let (owner, _client) = of_connection(&owners, listen, v4);
            assert_eq!(owner, me, "{listen}");
        }
        let (owner, _client) =
            of_connection(&owners, "[::1]:0", |port| SocketAddr::new("::1".parse().unwrap(), port));
        assert_eq!(owner, me);
    }

    #[test]
    fn who_is_not_found_is_an_address() {
        let loopback: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let owners = Owners::open();
        assert_eq!(owners.of(loopback, loopback), Owner::Address(loopback.ip()), "nobody's");
        let (_, client) = of_connection(&owners, "127.0.0.1:0", |port| SocketAddr::new(loopback.ip(), port));
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let unasked = Owners { kernel: None };
        assert_eq!(unasked.of(local, remote), Owner::Address(loopback.ip()));
    }

    #[test]
    fn a_closed_socket_is_not_roots() {
        let mut answer = [0; 124];
        answer[KIND_OFFSET..KIND_OFFSET + 2].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert_eq!(user_in(&answer), None);
        answer[INODE_OFFSET] = 1;
        assert_eq!(user_in(&answer), Some(0));
        answer[KIND_OFFSET] = 2;
        assert_eq!(user_in(&answer), None, "an error");
    }

    #[test]
    fn one_network_of_ipv6_is_one() {
        let at = |text: &str| Owner::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
    }
}
