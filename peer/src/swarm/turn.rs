//! A child's request for a piece, as the transport sees it: asked of the core, and told to it
//! when it ends, however it does.

use flotilla_peer_core::{Input, UploadId};

use super::{Event, Swarm};

/// A request under way. Dropped, it has ended.
#[derive(Debug)]
pub(super) struct Request {
    swarm: Swarm,
    pub(super) upload: UploadId,
    delivered: bool,
}

/// A request whose turn has come: the piece is to be sent.
#[derive(Debug)]
pub(crate) struct Turn {
    request: Request,
    piece: u32,
}

impl Request {
    pub(super) fn new(swarm: Swarm, upload: UploadId) -> Self {
        Self { swarm, upload, delivered: false }
    }

    pub(super) fn granted(self, piece: u32) -> Turn {
        Turn { request: self, piece }
    }
}

impl Turn {
    /// What is to be sent.
    pub(crate) fn piece(&self) -> u32 {
        self.piece
    }

    /// The whole piece was sent.
    pub(crate) fn delivered(mut self) {
        self.request.delivered = true;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let ended = Event::Input(Input::UploadEnded { upload: self.upload, delivered: self.delivered });
        // A place that is not given back is lost for good: where the driver is busy, a task waits.
        if let Err(tokio::sync::mpsc::error::TrySendError::Full(ended)) = self.swarm.events.try_send(ended)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let swarm = self.swarm.clone();
            runtime.spawn(async move { swarm.send(ended).await });
        }
    }
}
