//! A UDP socket that hands the kernel no more segments at once than one send may have.
//!
//! A send is at most 65 507 bytes, whatever its segments. quinn sends up to ten of them, and its
//! socket takes the kernel's refusal for success (quinn issue 2199): with jumbo frames such sends
//! are lost, and paths fall back to small packets (measured beforehand, `docs/design.md` §5).

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::Mtu;

#[derive(Debug)]
pub(super) struct Segmenting {
    socket: Arc<dyn AsyncUdpSocket>,
    segments_max: usize,
}

impl Segmenting {
    /// A socket whose datagrams are at most as long as fits `mtu`.
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, mtu: Mtu) -> Self {
        Self { socket, segments_max: SEND_MAX / usize::from(mtu.datagram_len()) }
    }
}

impl AsyncUdpSocket for Segmenting {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments().min(self.segments_max)
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// What UDP over IPv4 carries in one datagram before it is cut into segments.
const SEND_MAX: usize = 65_507;
