//! What a client shows its peer stays there and at the seed.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use http::Method;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cluster::Cluster;
use crate::region::{Region, blob_path, noise};
use crate::registry::HOST;

/// On the one thread of this test, so that what other tests log is not among it.
#[tokio::test]
async fn no_credential_is_in_a_log_or_on_a_disk() {
    // With one subscriber in the process, what it cares for is asked of the thread that first
    // comes by a log line, which may be another test's.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let log = Log::default();
    let logging = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(log.clone())
        .finish()
        .set_default();
    let region = Region::start().await;
    let (good, bad) = ("Basic dTpodW50ZXIyLWdvb2Q=", "Bearer s3cret-t0ken-refused");
    let key = "k3y-0f-alice";
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(r#"Basic realm="registry.test""#);
    region.registry.allow(good, "priv/app");
    region.registry.allow(key, "priv/app");
    for node in [&region.one, &region.two, &region.seed] {
        let client = node.client.with(good);
        assert_eq!(client.mirror("/v2/priv/app/manifests/v1").await.status, 200);
        assert_eq!(client.mirror(&blob_path("priv/app", &blob)).await.body, blob);
        assert_eq!(client.proxied(&node.bundle(), &blob_path("priv/app", &blob)).await.body, blob);
        let refused = node.client.with(bad);
        assert_eq!(refused.mirror("/v2/priv/app/manifests/v1").await.status, 401);
        assert_eq!(refused.mirror(&blob_path("priv/app", &blob)).await.status, 401);
        let (path, lines) = (format!("/v2/priv/app/manifests/v1?ns={HOST}"), [("x-api-key", key)]);
        assert_eq!(node.client.ask(Method::GET, &path, &lines).await.status, 200);
        assert_eq!(node.client.ask(Method::GET, &path, &lines).await.status, 200);
    }
    drop(logging);

    let text = log.text();
    for expected in ["TRACE", "DEBUG", "peer started", "answered", "source read ordered"] {
        assert!(text.contains(expected), "{expected} is logged");
    }
    let told: Vec<&str> = text.lines().filter(|line| line.contains("goes past the region")).collect();
    assert_eq!(told.len(), 3, "once on each node: {told:?}");
    for line in told {
        assert!(line.contains("WARN") && line.contains("\"x-api-key\"") && line.contains(HOST), "{line}");
    }
    for secret in [good, bad, key].map(|credential| credential.rsplit(' ').next().unwrap()) {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
        let file = find(region.cluster.dir.path(), secret.as_bytes());
        assert_eq!(file, None);
    }
}

/// As a directory is that was made by hand, or restored from a copy.
#[tokio::test]
async fn a_store_that_others_could_read_is_closed_to_them() {
    let open = async |cluster: &Cluster| {
        let store = cluster.daemon_dir("node-1").join("store/blobs/sha256");
        std::fs::create_dir_all(&store).unwrap();
        for dir in store.ancestors().take(3) {
            std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        }
    };
    let region = Region::start_after(open).await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    let client = &region.one.client;
    client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(client.mirror(&blob_path("app", &blob)).await.body, blob);
    let store = region.one.data_dir.join("store");
    for path in [store.clone(), store.join("partial"), store.join("blobs/sha256")] {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
    }
    for entry in std::fs::read_dir(store.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
}

/// A file that holds `needle`.
fn find(dir: &Path, needle: &[u8]) -> Option<std::path::PathBuf> {
    std::fs::read_dir(dir).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return find(&path, needle);
        }
        // A daemon may replace a file meanwhile.
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle).then_some(path)
    })
}

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
