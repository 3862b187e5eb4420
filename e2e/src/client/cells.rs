//! The matrix of clients and front doors: which cells there are, and why the others are not.

use std::fmt;

use super::{Client, FrontDoor};

/// A client at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Who pulls.
    pub client: Client,
    /// Which way in.
    pub front_door: FrontDoor,
}

/// A cell that its client has no setting for.
#[derive(Debug, Clone, Copy)]
pub struct NoCell {
    /// Which.
    pub cell: Cell,
    /// What its client lacks.
    pub reason: &'static str,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Docker, Self::Ctr, Self::Skopeo, Self::Buildah, Self::Podman];
}

impl FrontDoor {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Proxy, Self::Mirror, Self::Prefix, Self::Sni];
}

impl Cell {
    const fn new(client: Client, front_door: FrontDoor) -> Self {
        Self { client, front_door }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} × {:?}", self.client, self.front_door)
    }
}

/// The cells that are played.
pub const CELLS: [Cell; 19] = [
    Cell::new(Client::Docker, FrontDoor::Proxy),
    Cell::new(Client::Ctr, FrontDoor::Proxy),
    Cell::new(Client::Skopeo, FrontDoor::Proxy),
    Cell::new(Client::Buildah, FrontDoor::Proxy),
    Cell::new(Client::Podman, FrontDoor::Proxy),
    Cell::new(Client::Ctr, FrontDoor::Mirror),
    Cell::new(Client::Skopeo, FrontDoor::Mirror),
    Cell::new(Client::Buildah, FrontDoor::Mirror),
    Cell::new(Client::Podman, FrontDoor::Mirror),
    Cell::new(Client::Docker, FrontDoor::Prefix),
    Cell::new(Client::Ctr, FrontDoor::Prefix),
    Cell::new(Client::Skopeo, FrontDoor::Prefix),
    Cell::new(Client::Buildah, FrontDoor::Prefix),
    Cell::new(Client::Podman, FrontDoor::Prefix),
    Cell::new(Client::Docker, FrontDoor::Sni),
    Cell::new(Client::Ctr, FrontDoor::Sni),
    Cell::new(Client::Skopeo, FrontDoor::Sni),
    Cell::new(Client::Buildah, FrontDoor::Sni),
    Cell::new(Client::Podman, FrontDoor::Sni),
];

/// The cells that cannot be.
pub const NO_CELLS: [NoCell; 1] = [NoCell {
    cell: Cell::new(Client::Docker, FrontDoor::Mirror),
    reason: "its registry-mirrors are for docker.io alone; a hosts.toml is read since Docker 28",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_played_at_every_door_or_there_is_a_reason() {
        for client in Client::ALL {
            for front_door in FrontDoor::ALL {
                let cell = Cell { client, front_door };
                let played = CELLS.iter().filter(|other| **other == cell).count();
                let excused = NO_CELLS.iter().filter(|other| other.cell == cell).count();
                assert_eq!(played + excused, 1, "{cell}: played {played} times, excused {excused} times");
            }
        }
        assert_eq!(CELLS.len() + NO_CELLS.len(), Client::ALL.len() * FrontDoor::ALL.len());
    }
}
