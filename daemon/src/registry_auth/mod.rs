//! How registries ask for credentials, and how their token services answer: the one reader of both
//! for the peer's doors, for the seed and for the command line.
//!
//! It stands here and not in `proto`, because it needs `http` and a JSON parser: `proto` would bring
//! them into the cores.

mod challenge;
mod token_answer;

pub use challenge::{BearerChallenge, Challenge};
pub use token_answer::TokenAnswer;
