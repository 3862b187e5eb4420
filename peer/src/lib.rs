//! One peer's daemon, room by room.

pub mod store;
