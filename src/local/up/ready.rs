//! Waiting until a daemon says that it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::Uri;
use tokio::time::{Instant, sleep};

use crate::http::HttpClient;

/// Completes when `/readyz` at `admin` answers 200; an error after [`READY_WITHIN`].
pub(crate) async fn ready(http: &HttpClient, name: &str, admin: SocketAddr) -> Result<(), NotReady> {
    let uri: Uri = format!("http://{admin}/readyz").parse().expect("an address makes a URI");
    let give_up_at = Instant::now() + READY_WITHIN;
    loop {
        let last = match http.get_text(uri.clone(), ANSWER_WITHIN).await {
            Ok((status, _)) if status.is_success() => return Ok(()),
            Ok((status, body)) => format!("{status} {}", body.trim()),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= give_up_at {
            return Err(NotReady { name: name.to_owned(), uri, last });
        }
        sleep(ASK_AGAIN_AFTER).await;
    }
}

/// A daemon starts in well under a second; a loaded machine with a debug build needs more.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// For one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Between two questions.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(25);

/// A daemon that runs, but is not ready.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not ready after {} s: {uri}: {last}", READY_WITHIN.as_secs())]
pub(crate) struct NotReady {
    name: String,
    uri: Uri,
    last: String,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use hyper::{Response, StatusCode};

    use super::*;
    use crate::http::{Server, full};

    #[tokio::test]
    async fn a_daemon_is_ready_once_it_says_so() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let server = Server::start(move |_| {
            let mut response = Response::new(full("joining"));
            if count.fetch_add(1, Ordering::Relaxed) < 3 {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            async { response }
        })
        .await
        .unwrap();
        let admin = server.url().trim_start_matches("http://").parse().unwrap();
        ready(&HttpClient::loopback(), "peer-0", admin).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        server.stop().await;
    }
}
