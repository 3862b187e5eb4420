//! What it answers when others ask it for pieces.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use flotilla_daemon::identity::{ClientAuth, NodeIdentity};
use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{Request, Response, request};
use flotilla_proto::{ALPN_PIECES, frame};
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
    /// Each of these in turn, but the first.
    Any,
}

impl Manner {
    /// The manner of the `number`th answer.
    fn of(self, number: usize) -> Self {
        let each = [Self::Mute, Self::Drips, Self::Garbage, Self::Busy, Self::Cuts];
        if self == Self::Any { each[number % each.len()] } else { self }
    }
}

pub(crate) fn endpoint(socket: UdpSocket, identity: &NodeIdentity) -> Result<Endpoint> {
    let tls = identity.server_config(&[ALPN_PIECES], ClientAuth::Required);
    let tls = QuicServerConfig::try_from(tls)?;
    let server = ServerConfig::with_crypto(Arc::new(tls));
    let runtime = Arc::new(quinn::TokioRuntime);
    Ok(Endpoint::new(quinn::EndpointConfig::default(), Some(server), socket, runtime)?)
}

pub(crate) async fn serve(endpoint: Endpoint, manner: Manner) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        connections.spawn(async move {
            if let Ok(connection) = incoming.await {
                answer_all(connection, manner).await;
            }
        });
    }
}

async fn answer_all(connection: Connection, manner: Manner) {
    let (mut answers, mut number) = (JoinSet::new(), 0);
    while let Ok((send, receive)) = connection.accept_bi().await {
        answers.spawn(answer(send, receive, manner.of(number)));
        number += 1;
    }
}

/// `None` once the other side is gone.
async fn answer(mut send: SendStream, mut receive: RecvStream, manner: Manner) -> Option<()> {
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
