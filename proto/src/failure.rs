//! Why a blob cannot be had: said once, by the part that knows, and passed on until a client reads it.

/// Why a blob cannot be had, as its clients will read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status to answer with.
    pub status: u16,
    /// The OCI error code.
    pub code: String,
    /// What failed, naming it.
    pub message: String,
    /// What follows from it.
    pub cause: FailureCause,
}

/// What kind of failure it is: what is done about it depends on that alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// The region, or one of its daemons, cannot give the blob: a disk, a limit, nobody there.
    Region,
    /// Every place that a seed could ask let it down. A client whose own place is another one may
    /// still have the blob.
    Source,
    /// The bytes do not hash to the digest: what is held of it and was not found right is worthless.
    WrongBytes,
    /// The blob has this many bytes, other than it was wanted with: a seed has seen it.
    OtherSize(u64),
    /// It was wanted with another size by somebody else, and nobody has seen it yet: time tells.
    Contested,
}

impl Failure {
    /// A failure with an OCI error code.
    pub fn new(status: u16, code: &str, message: String, cause: FailureCause) -> Self {
        Self { status, code: code.to_owned(), message, cause }
    }

    /// The region cannot give the blob for the present.
    pub fn unavailable(message: String) -> Self {
        Self::new(503, "UNAVAILABLE", message, FailureCause::Region)
    }

    /// The blob's bytes are not what its digest says.
    pub fn wrong_bytes(message: String) -> Self {
        Self::new(502, "DIGEST_INVALID", message, FailureCause::WrongBytes)
    }

    /// Whether what came of the blob is worthless.
    pub fn is_poisoned(&self) -> bool {
        self.cause == FailureCause::WrongBytes
    }

    /// Whether pieces of the blob that were not found right are worth nothing: they are wrong, or cut
    /// for another size.
    pub fn voids_pieces(&self) -> bool {
        self.is_poisoned() || self.other_size().is_some()
    }

    /// How long the blob is, if it was wanted with another length.
    pub fn other_size(&self) -> Option<u64> {
        match self.cause {
            FailureCause::OtherSize(size) => Some(size),
            FailureCause::Region
            | FailureCause::Source
            | FailureCause::WrongBytes
            | FailureCause::Contested => None,
        }
    }
}
