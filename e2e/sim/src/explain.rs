//! `explain`: why a peer was sent a piece by this parent and by no other.

use std::time::Duration;

use flotilla_peer_core::Output as PeerOutput;
use flotilla_proto::Digest;
use flotilla_scheduler_core::{Explanation, Output as SchedulerOutput};

use crate::event::NodeIndex;
use crate::world::World;

/// Which piece of which peer is asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    pub(crate) child: NodeIndex,
    pub(crate) digest: Digest,
    pub(crate) piece: u32,
}

/// One time the piece was given to the peer, or tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// When, since the history began.
    pub at: Duration,
    /// The parent's name.
    pub parent: String,
    /// How the planner saw the piece for the peer just before; `None` where the peer picked it
    /// by itself.
    pub seen: Option<Explanation>,
    /// The parent that [`Explanation`] calls by a number.
    pub parent_key: Option<u32>,
}

impl World<'_> {
    /// Notes the planner's answer, if this is it.
    pub(crate) fn note_why(&mut self, output: &SchedulerOutput) {
        let (Some(question), SchedulerOutput::Assign { child, parent, digest, piece, .. }) =
            (&self.question, output)
        else {
            return;
        };
        let asked = self.nodes[question.child.place()].key == Some(*child);
        if asked && (*digest, *piece) == (question.digest, question.piece) {
            let name = self.nodes[self.node_by_key[parent.0 as usize].place()].id.to_string();
            let seen = self.scheduler.explain(self.instant(), *child, *digest, *piece);
            let parent_key = Some(parent.0);
            self.answers.push(Answer { at: self.now, parent: name, seen, parent_key });
        }
    }

    /// Notes the peer's own choice, if it made one.
    pub(crate) fn note_pick(&mut self, index: NodeIndex, output: &PeerOutput) {
        let (Some(question), PeerOutput::Fetch { digest, piece, parent, picked: true, .. }) =
            (&self.question, output)
        else {
            return;
        };
        if (question.child, question.digest, question.piece) == (index, *digest, *piece) {
            let parent = parent.to_string();
            self.answers.push(Answer { at: self.now, parent, seen: None, parent_key: None });
        }
    }
}
