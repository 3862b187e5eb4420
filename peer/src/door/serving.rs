//! HTTP/1.1 on a client's stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::client::{Bound, Client, at_work};
use crate::source::BodyStream;

/// Serves a client's requests until its stream ends. A client that goes away is no error.
pub(super) async fn http<S, H, F>(stream: S, client: &Arc<Client>, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<BodyStream>, Infallible>> + Send + 'static,
{
    let has_asked = AtomicBool::new(false);
    let service = service_fn(|mut request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(client.clone());
        let (work, answer) = (client.work(), handler(request));
        async move { answer.await.map(|answer| answer.map(|body| at_work(body, work))) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(KEPT_ALIVE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = tokio::time::sleep(FIRST_REQUEST) => {
            if !has_asked.load(Ordering::Relaxed) {
                return client.bounds.met(Bound::FirstRequest);
            }
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

/// For the whole head of the first request: clients connect to ask.
const FIRST_REQUEST: Duration = Duration::from_secs(30);

/// For the head of each further one: so long a connection may be idle, too.
const KEPT_ALIVE: Duration = Duration::from_secs(120);

/// Bytes of a request's head, tokens of several KiB among them.
const MAX_HEAD: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flotilla_daemon::owner::Owner;
    use prometheus_client::registry::Registry;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::super::client::Clients;
    use super::super::flight::Content;
    use super::*;
    use crate::body;

    const ROOT: Owner = Owner::User(0);

    /// A client of a door that answers with so many bytes, which count in the budget.
    struct Served {
        client: Arc<Client>,
        stream: DuplexStream,
        serving: JoinHandle<()>,
    }

    fn connect(clients: &Clients, len: usize) -> Served {
        let (stream, theirs) = duplex(4 << 10);
        let (client, watched) = clients.enter_stream(ROOT, theirs);
        let served = client.clone();
        let serving = tokio::spawn(async move {
            let handler = |request: Request<Incoming>| async move {
                let account = super::super::client::of(request.extensions()).account.clone();
                let held = account.take(len).await;
                let bytes = Bytes::from(vec![b'x'; len]);
                let content = Content::Manifest(flotilla_proto::Digest::of(&bytes));
                Ok(Response::new(body::full(held.carry(content, bytes))))
            };
            served.serve(http(watched, &served, handler)).await;
        });
        Served { client, stream, serving }
    }

    impl Served {
        async fn ask(&mut self) {
            self.stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        }

        /// The seconds until the door has let it go.
        async fn ended(self) -> (Arc<Client>, u64) {
            let began_at = Instant::now();
            self.serving.await.unwrap();
            (self.client, began_at.elapsed().as_secs())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_connects_and_does_not_ask_is_let_go() {
        let clients = Clients::register(&mut Registry::default());
        for said in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: a\r\nx: "] {
            let mut silent = connect(&clients, 1);
            silent.stream.write_all(said.as_bytes()).await.unwrap();
            let (client, after) = silent.ended().await;
            assert_eq!(after, 30, "{said:?}");
            drop(client);
        }
        let asked = connect(&clients, 1);
        assert_eq!(asked.client.bounds.count(Bound::FirstRequest), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_asked_may_be_idle_longer() {
        let clients = Clients::register(&mut Registry::default());
        let mut asking = connect(&clients, 1);
        for _ in 0..3 {
            asking.ask().await;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nx") {
                answer.push(asking.stream.read_u8().await.unwrap());
            }
            tokio::time::sleep(KEPT_ALIVE - Duration::from_secs(1)).await;
        }
        let (client, after) = asking.ended().await;
        assert_eq!((after, client.bounds.count(Bound::FirstRequest)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_its_answer_is_cut_and_what_it_held_is_free() {
        let mut metrics = Registry::default();
        let clients = Clients::register(&mut metrics);
        let mut stalled = connect(&clients, 1 << 20);
        stalled.ask().await;
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &metrics).unwrap();
            text
        };
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert!(shown().contains("flotilla_peer_answer_bytes 1048576\n"), "{}", shown());
        let (client, after) = stalled.ended().await;
        assert_eq!((after, client.bounds.count(Bound::Stalled)), (1, 1));
        assert!(shown().contains("flotilla_peer_answer_bytes 0\n"), "{}", shown());
    }

    #[tokio::test(start_paused = true)]
    async fn while_others_wait_who_takes_nothing_is_cut_sooner() {
        let clients = Clients::register(&mut Registry::default());
        let mut stalled = Vec::new();
        for extra in 0..3 {
            let mut client = connect(&clients, (8 << 20) - extra);
            client.ask().await;
            stalled.push(client);
        }
        // One owner's share is used up: the fourth waits, and who stands still makes room for it.
        let mut honest = connect(&clients, 1 << 20);
        honest.ask().await;
        let began_at = Instant::now();
        let mut answer = vec![0; 1 << 20];
        honest.stream.read_exact(&mut answer).await.unwrap();
        assert!(began_at.elapsed() < Duration::from_secs(8), "{:?}", began_at.elapsed());
        assert_eq!(honest.client.bounds.count(Bound::Pressed), 1, "no more than needed");
    }
}
