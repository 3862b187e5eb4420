//! An S3 on the origin's side, in this process, over what a registry has stored as files.
//!
//! Debian's docker-registry cannot push into it: to go on with an upload it lists the uploads
//! under way (`ListMultipartUploads`), which `s3s-fs` has not. So the registry is filled while
//! it stores files, and started again over the same files behind S3: the layout is one. It
//! answers reads of blobs with 307 to a signed URL of here then.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Leaf;

/// A running S3. It stops when it is dropped.
#[derive(Debug)]
pub struct ObjectStore(Option<Runtime>);

impl ObjectStore {
    /// Serves the directories below `root` as buckets.
    pub fn start(root: &Path, leaf: &Leaf, listener: TcpListener) -> Result<Self> {
        let files = FileSystem::new(root).map_err(|error| anyhow::anyhow!("open {root:?}: {error:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let (service, tls) = (builder.build(), leaf.server_config()?);
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("object-store")
            .enable_all()
            .build()?;
        let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(listener) });
        runtime.spawn(accept(listener.context("listen")?, tls, service));
        Ok(Self(Some(runtime)))
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, tls: Arc<ServerConfig>, service: S3Service) {
    let acceptor = TlsAcceptor::from(tls);
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(acceptor.clone(), service.clone(), stream));
    }
}

/// A connection that fails is its caller's matter, who sees it too.
async fn serve(acceptor: TlsAcceptor, service: S3Service, stream: TcpStream) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Who may read and write.
pub const ACCESS_KEY: &str = "registry";
/// Its secret.
pub const SECRET_KEY: &str = "a secret of the object store";
