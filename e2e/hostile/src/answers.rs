//! What it answers when others ask it for pieces.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use flotilla_daemon::identity::{ClientAuth, NodeIdentity};
use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{Request, Response, request};
use flotilla_proto::{ALPN_PIECES, Digest, Layout, frame};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use tokio::task::JoinSet;

/// How a hostile peer answers when it is asked for a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Nothing answers at its address.
    Silent,
    /// It shakes hands, and says nothing more.
    Mute,
    /// It says that the piece follows, and sends a byte of it each half second.
    Drips,
    /// It sends other bytes than it announced.
    Garbage,
    /// It has too much to do.
    Busy,
    /// It ends each stream at once.
    Cuts,
    /// It sends the bytes whose hashes it announced with [`Claim::forged`](crate::Claim::forged): wrong ones.
    Forges,
    /// Each of these in turn, but the first and the last.
    Any,
}

impl Manner {
    /// The manner of the `number`th answer.
    fn of(self, number: usize) -> Self {
        let each = [Self::Mute, Self::Drips, Self::Garbage, Self::Busy, Self::Cuts];
        if self == Self::Any { each[number % each.len()] } else { self }
    }
}

/// Sizes of blobs, by digest. Held for one operation.
pub(crate) type Sizes = Arc<Mutex<HashMap<Digest, u64>>>;

/// The bytes that it has for a request of pieces, if it forges that blob.
fn forged_answer(request: &Request, sizes: &Sizes) -> Option<Vec<u8>> {
    let Some(request::Kind::Pieces(run)) = &request.kind else { return None };
    let digest = Digest::try_from(&run.digest[..]).ok()?;
    let size = *sizes.lock().unwrap_or_else(PoisonError::into_inner).get(&digest)?;
    let layout = Layout::of(size)?;
    let pieces = run.first..run.first.checked_add(run.count)?.min(layout.piece_count());
    Some(pieces.flat_map(|piece| forged_piece(layout, piece)).collect())
}

/// What it says that a piece is.
pub(crate) fn forged_piece(layout: Layout, piece: u32) -> Vec<u8> {
    let length = usize::try_from(layout.piece_size(piece)).expect("a piece fits into memory");
    piece.to_le_bytes().into_iter().cycle().take(length).collect()
}

pub(crate) fn endpoint(socket: UdpSocket, identity: &NodeIdentity) -> Result<Endpoint> {
    let tls = identity.server_config(&[ALPN_PIECES], ClientAuth::Required);
    let tls = QuicServerConfig::try_from(tls)?;
    let server = ServerConfig::with_crypto(Arc::new(tls));
    let runtime = Arc::new(quinn::TokioRuntime);
    Ok(Endpoint::new(quinn::EndpointConfig::default(), Some(server), socket, runtime)?)
}

/// `sizes`: of the blobs that it forges.
pub(crate) async fn serve(endpoint: Endpoint, manner: Manner, sizes: Sizes) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let sizes = Arc::clone(&sizes);
        connections.spawn(async move {
            if let Ok(connection) = incoming.await {
                answer_all(connection, manner, sizes).await;
            }
        });
    }
}

async fn answer_all(connection: Connection, manner: Manner, sizes: Sizes) {
    let (mut answers, mut number) = (JoinSet::new(), 0);
    while let Ok((send, receive)) = connection.accept_bi().await {
        answers.spawn(answer(send, receive, manner.of(number), Arc::clone(&sizes)));
        number += 1;
    }
}

/// `None` once the other side is gone.
async fn answer(mut send: SendStream, mut receive: RecvStream, manner: Manner, sizes: Sizes) -> Option<()> {
    let mut ahead = BytesMut::new();
    let request: Request = loop {
        if let Some(request) = frame::decode(&mut ahead).ok()? {
            break request;
        }
        ahead.extend_from_slice(&receive.read_chunk(4096, true).await.ok()??.bytes);
    };
    let status = if manner == Manner::Busy { Status::Busy } else { Status::Ok };
    let mut header = Response { status: status.into(), ..Default::default() };
    if let Some(request::Kind::Take(take)) = &request.kind {
        header.piece = take.lacking.first()?.first;
        header.hash = Bytes::from_static(&[7; 32]);
    }
    match manner {
        Manner::Silent | Manner::Mute | Manner::Any => std::future::pending().await,
        Manner::Forges => {
            let bytes = forged_answer(&request, &sizes);
            header.status = bytes.as_ref().map_or(Status::NotHeld, |_| Status::Ok).into();
            send.write_all(&frame::encode(&header)).await.ok()?;
            send.write_all(&bytes.unwrap_or_default()).await.ok()?;
        }
        Manner::Cuts => {
            let _ = send.reset(0_u32.into());
        }
        Manner::Busy => send.write_all(&frame::encode(&header)).await.ok()?,
        Manner::Garbage => {
            send.write_all(&frame::encode(&header)).await.ok()?;
            send.write_all(&vec![7; 4 << 20]).await.ok()?;
        }
        Manner::Drips => {
            send.write_all(&frame::encode(&header)).await.ok()?;
            let mut turn = tokio::time::interval(Duration::from_millis(500));
            loop {
                turn.tick().await;
                send.write_all(&[7]).await.ok()?;
            }
        }
    }
    let _ = send.finish();
    Some(())
}
