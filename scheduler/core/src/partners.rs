//! Which peers one download may exchange pieces with: a bounded random graph per task
//! (`scheduling.md` §2f), always with a path to a holder.

use fastrand::Rng;

use crate::task::Task;
use crate::{Limits, PeerKey};

/// Draws partners for a member that just came, or that lost some. Costs a pass over the
/// task's members.
///
/// Seeds and complete holders with room come first, so that a download has a way to the
/// bytes by itself wherever a slot is free; where none is, its partners' partners have one.
pub(crate) fn draw(task: &mut Task, peer: PeerKey, limits: &Limits, rng: &mut Rng) {
    let Some(member) = task.members.get(&peer) else { return };
    let wanted = limits.partners_drawn.saturating_sub(member.partners.len());
    let needs_wanting = member.wish.is_none();
    let (mut sources, mut others, mut crowded) = (Vec::new(), Vec::new(), Vec::new());
    for (key, other) in &task.members {
        let useless = needs_wanting && other.wish.is_none();
        if *key == peer || useless || member.partners.contains(key) {
            continue;
        }
        if other.partners.len() >= max_partners(other.seed, limits) {
            crowded.push(*key);
        } else if other.seed || other.held.is_full() {
            sources.push(*key);
        } else {
            others.push(*key);
        }
    }
    rng.shuffle(&mut others);
    rng.shuffle(&mut sources);
    let mut chosen = sources.split_off(sources.len().saturating_sub(SOURCES_FIRST));
    others.extend(sources);
    chosen.extend(others);
    chosen.truncate(if member.seed { limits.seed_partners_max } else { wanted });
    if chosen.is_empty() && member.partners.is_empty() {
        chosen.extend(rng.choice(&crowded));
    }
    for partner in chosen {
        link(task, peer, partner);
    }
}

/// Whether a member has so few partners that it should draw again.
pub(crate) fn is_lonely(task: &Task, peer: PeerKey, limits: &Limits) -> bool {
    let wants = |member: &&crate::task::Member| member.wish.is_some();
    task.members.get(&peer).filter(wants).is_some_and(|member| {
        member.partners.len() < limits.partners_min && member.partners.len() + 1 < task.members.len()
    })
}

fn max_partners(seed: bool, limits: &Limits) -> usize {
    if seed { limits.seed_partners_max } else { limits.partners_max }
}

fn link(task: &mut Task, a: PeerKey, b: PeerKey) {
    for (one, other) in [(a, b), (b, a)] {
        let member = task.members.get_mut(&one).expect("both ends are members");
        member.partners.push(other);
    }
}

/// So many partners are drawn among seeds and complete holders, before the others.
const SOURCES_FIRST: usize = 4;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use flotilla_proto::Layout;

    use super::*;
    use crate::task::Wish;

    fn swarm(peers: u32) -> Task {
        let limits = Limits::default();
        let mut rng = Rng::with_seed(7);
        let mut task = Task::new(Layout::of(100 << 20).unwrap());
        #[allow(clippy::disallowed_methods)] // a test may read the clock
        let now = std::time::Instant::now();
        task.join(PeerKey(0), true, now);
        for key in (1..=peers).map(PeerKey) {
            task.join(key, false, now);
            task.set_wish(key, Some(Wish { reader: None }));
            draw(&mut task, key, &limits, &mut rng);
        }
        task
    }

    #[test]
    fn every_download_has_a_path_to_the_seed() {
        for peers in [1, 2, 30, 400] {
            let task = swarm(peers);
            let mut reached = BTreeSet::from([PeerKey(0)]);
            let mut edge = vec![PeerKey(0)];
            while let Some(key) = edge.pop() {
                edge.extend(task.members[&key].partners.iter().filter(|partner| reached.insert(**partner)));
            }
            assert_eq!(reached.len(), peers as usize + 1);
        }
    }

    #[test]
    fn nobody_has_more_partners_than_the_limits_say() {
        let limits = Limits::default();
        let task = swarm(1000);
        for member in task.members.values() {
            assert!(member.partners.len() <= max_partners(member.seed, &limits));
            assert!(member.partners.len() >= limits.partners_drawn);
        }
    }
}
