//! What a node must remember: which jobs it has ever started, which material
//! it has used, which checks it has opened, and the dealer's segments.
//!
//! The store keeps the promises on which privacy rests when a machine dies:
//!
//! - a nonce starts one job, ever, so no mask is derived twice;
//! - the **cursor** of a job's material only moves forward, and after a crash it
//!   stands at or past everything that was used, except in a job that is
//!   [resumed](Store::resume);
//! - a SPDZ check that was opened and not passed stays visible, because a node
//!   that answers again after it could give its MAC key away (a key is burnt by
//!   a check that does not end well; Damgård et al., eprint 2012/642).
//!
//! It knows neither keys nor shares nor what a record means. [`MemoryStore`]
//! serves tests and jobs within one process, which forget everything together;
//! `RedbStore` (feature `net`) serves nodes. One battery of tests runs on both.
//!
//! # What survives
//!
//! | written by | a killed process or a power loss |
//! |---|---|
//! | `begin`, `begin_attempt`, `finish`, `fail`, `check_opened`, `forget`, `drop_record` | kept once the call has returned |
//! | `advance` | the cursor, at most [`RESERVE`] rounds past the last used one |
//! | `check_passed`, `put_part` | may be undone until the next `sync` |
//! | `put_segment` | may be undone until the next `sync_segments` |
//! | `drop_segments_below`, `append_log` | may be undone |
//!
//! What is undone of parts is the end: of two, never the earlier one alone, but for one that was written over; and so of
//! segments, whatever is undone of parts. What was put for a job that is over may be undone for good: no later process reads
//! it. (`RedbStore` loses at most the last two MiB of each by the end of its process alone. A power loss may also leave a segment
//! with other bytes than were put, whose root is then not the signed one, and no other is taken in its place.)
//!
//! # Old copies
//!
//! A store file restored from a backup is a healthy store of the past; nothing
//! *inside* it can tell. `RedbStore` therefore counts its durable writes in a
//! second file, the witness, and refuses a store that is behind its witness, or
//! gone while the witness is there. Both files restored together (a virtual
//! machine's snapshot, a copied directory) **cannot be noticed here**. Two
//! things still hold then: jobs that the old copy shows as running are reported
//! by [`Store::interrupted`] and must be failed, not continued (or be such that what
//! they say again is what they have said: [`Store::resume`]); and a nonce that
//! only the newer store knew is still known to the other nodes, which refuse it.
//! Never run a node from a snapshot taken while it had jobs, nor two from one.

mod entry;
#[cfg(feature = "net")]
mod files;
mod memory;
#[cfg(feature = "net")]
mod redb;
#[cfg(feature = "net")]
mod spool;
#[cfg(test)]
mod tests;
#[cfg(feature = "net")]
mod witness;

use serde::{Deserialize, Serialize};

pub use self::memory::MemoryStore;
#[cfg(feature = "net")]
pub use self::redb::RedbStore;

/// How many rounds [`Store::advance`] reserves at once: one sync to disk for so
/// many rounds, and at most so many rounds lost in a crash.
pub const RESERVE: u32 = 4096;

/// A job's random 32 bytes, from the signed manifest.
pub type Nonce = [u8; 32];

/// How far a job has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// started, neither finished nor failed
    Running,
    /// its record can be fetched until it is dropped
    Finished,
    /// ended for this reason
    Failed(String),
}

/// A job that this node has started at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// from its manifest
    pub nonce: Nonce,
    /// the manifest's digest
    pub digest: [u8; 32],
    /// how far it has come
    pub state: JobState,
}

/// What a job's segments take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// how many segments
    pub count: u64,
    /// their bytes in all
    pub bytes: u64,
}

/// Why the store refused, or could not do, something. Jobs are shown by the
/// first 8 hex digits of their nonce.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The very same manifest was begun before.
    #[error("job {job} was already started here: fetch its result, or sign a manifest with a new nonce")]
    AlreadyStarted {
        /// the job
        job: String,
    },
    /// The nonce belongs to another manifest, so its masks may be used up.
    #[error(
        "the nonce of job {job} was used by another manifest (digest {known}…, now {found}…): sign one with a new nonce"
    )]
    NonceReused {
        /// the job
        job: String,
        /// start of the digest that the store holds
        known: String,
        /// start of the digest that came now
        found: String,
    },
    /// No such job was ever begun.
    #[error("job {job} was never started here")]
    Unknown {
        /// the job
        job: String,
    },
    /// The call needs a running job.
    #[error("job {job} is over ({state:?}), so nothing of it can change")]
    Over {
        /// the job
        job: String,
        /// how it ended
        state: JobState,
    },
    /// The call needs a job that is over.
    #[error("job {job} is still running: finish or fail it before its data is dropped")]
    StillRunning {
        /// the job
        job: String,
    },
    /// Material would be used twice.
    #[error(
        "job {job} asks for the material of round {round}, but all below round {next} counts as used: the job must end"
    )]
    UsedMaterial {
        /// the job
        job: String,
        /// the round asked for
        round: u32,
        /// the first round that is certainly unused
        next: u64,
    },
    /// Checks go one at a time, in ascending order.
    #[error("job {job}: check {check} cannot be {what} (last opened: {opened:?}, last passed: {passed:?})")]
    CheckOrder {
        /// the job
        job: String,
        /// "opened" or "passed"
        what: &'static str,
        /// the check asked for
        check: u32,
        /// the last that was opened
        opened: Option<u32>,
        /// the last that was passed
        passed: Option<u32>,
    },
    /// The job cannot be taken up where an earlier process left it.
    #[error("job {job} cannot be resumed: {reason}")]
    NoResume {
        /// the job
        job: String,
        /// why
        reason: &'static str,
    },
    /// An attempt in which the node may have spoken.
    #[error("job {job} cannot begin attempt {attempt}: all up to {used} count as used, the job must end")]
    UsedAttempt {
        /// the job
        job: String,
        /// the attempt asked for
        attempt: u32,
        /// the highest that was begun
        used: u32,
    },
    /// Two different segments for one place.
    #[error("job {job} holds another segment {index} already: two were sent for one place, the job must end")]
    SegmentDiffers {
        /// the job
        job: String,
        /// the segment's number
        index: u32,
    },
    /// Somebody else has the store open.
    #[error("store {path} is in use: stop the node that has it open, or give this one another path")]
    InUse {
        /// the file
        path: String,
    },
    /// The store file is not what this release wrote.
    #[error(
        "store {path} is damaged or no store ({cause}): use a new path and new keys, since what it used is not known any more"
    )]
    Damaged {
        /// the file
        path: String,
        /// what was found
        cause: String,
    },
    /// The long result of a job is not where it was kept.
    #[error("the result of job {job} is not whole in {dir}: fetch it from the job's other nodes; all else is sound")]
    RecordLost {
        /// the job
        job: String,
        /// where long results are kept
        dir: String,
    },
    /// The store file is older than its witness, or gone.
    #[error(
        "store {path} is an old copy (at write {found}, its witness saw {witnessed}): restore the newest, or use a new path and new keys"
    )]
    RolledBack {
        /// the file
        path: String,
        /// the store's count of durable writes
        found: u64,
        /// the witness's
        witnessed: u64,
    },
    /// The witness does not stand beside the store.
    #[error(
        "store {path} has no readable {path}.witness beside it: move both files and the directory {path}.jobs together, or use a new path and new keys"
    )]
    NoWitness {
        /// the file
        path: String,
    },
    /// The disk failed.
    #[error("store {path} cannot be read or written: {cause}")]
    Disk {
        /// the file
        path: String,
        /// what the system said
        cause: String,
    },
}

/// A node's memory. Every method may be called from any thread; each call is
/// atomic: after a crash it has happened or it has not.
pub trait Store: Send + Sync {
    /// Starts a job: the nonce is burnt from here on, whatever happens.
    ///
    /// # Errors
    /// [`StoreError::AlreadyStarted`] if this manifest was begun before,
    /// [`StoreError::NonceReused`] if another one had the nonce.
    fn begin(&self, nonce: Nonce, digest: [u8; 32]) -> Result<(), StoreError>;

    /// How far a job has come; `None` if it was never begun.
    fn state(&self, nonce: Nonce) -> Result<Option<JobState>, StoreError>;

    /// Every job ever begun, by ascending nonce.
    fn jobs(&self) -> Result<Vec<Job>, StoreError>;

    /// The jobs that were running when the store was last closed or its process
    /// died, and still count as running. The node fails or resumes each of them
    /// before it serves.
    fn interrupted(&self) -> Result<Vec<Job>, StoreError>;

    /// Ends a running job with what its owner may fetch: a record that is given in
    /// parts, so that a long one need not be copied together.
    ///
    /// # Errors
    /// [`StoreError::Over`] if it has ended before: an outcome never changes.
    fn finish(&self, nonce: Nonce, record: &[&[u8]]) -> Result<(), StoreError>;

    /// Ends a running job for a reason that its owner will read.
    ///
    /// # Errors
    /// [`StoreError::Over`] if it has ended before.
    fn fail(&self, nonce: Nonce, reason: &str) -> Result<(), StoreError>;

    /// The record of a finished job; `None` if there is none (any more).
    fn record(&self, nonce: Nonce) -> Result<Option<Vec<u8>>, StoreError>;

    /// Claims the material of one round, before any message that depends on it
    /// leaves. Rounds may be skipped, never repeated. Syncs once in [`RESERVE`]
    /// rounds, ahead of them; after a crash all reserved rounds count as used.
    ///
    /// # Errors
    /// [`StoreError::UsedMaterial`] for a round at or below an earlier one: the
    /// caller must not compute with it.
    fn advance(&self, nonce: Nonce, round: u32) -> Result<(), StoreError>;

    /// Notes durably that this node is about to open its σ of check k. Call it
    /// before the opening leaves.
    ///
    /// # Errors
    /// [`StoreError::CheckOrder`] while another check is open or if this one was.
    fn check_opened(&self, nonce: Nonce, check: u32) -> Result<(), StoreError>;

    /// Notes that every node has reported check k as passed. If a crash undoes it, the check
    /// counts as one that was never answered to its end, which only forbids more.
    ///
    /// # Errors
    /// [`StoreError::CheckOrder`] unless k is the open check.
    fn check_passed(&self, nonce: Nonce, check: u32) -> Result<(), StoreError>;

    /// The check that was opened and not passed, if there is one. After a
    /// restart the MAC key of such a job must not be used again.
    fn open_check(&self, nonce: Nonce) -> Result<Option<u32>, StoreError>;

    /// Keeps a verified segment of the dealer's stream. The same bytes again
    /// change nothing.
    ///
    /// # Errors
    /// [`StoreError::SegmentDiffers`] for other bytes in the same place.
    fn put_segment(&self, nonce: Nonce, index: u32, bytes: &[u8]) -> Result<(), StoreError>;

    /// A segment; `None` if it never came, was dropped, or was lost in a crash. Who wrote to the disk
    /// may have changed it: its root is the caller's to check.
    fn segment(&self, nonce: Nonce, index: u32) -> Result<Option<Vec<u8>>, StoreError>;

    /// The segments of a job that were put before are on disk when this returns.
    fn sync_segments(&self, nonce: Nonce) -> Result<(), StoreError>;

    /// Keeps something of a running job that a later process, or another node, may
    /// ask for: what the job is made again from, what was opened. The numbers are
    /// the caller's; a number that is there is written over. The slices are kept one after
    /// another.
    fn put_part(&self, nonce: Nonce, part: u64, bytes: &[&[u8]]) -> Result<(), StoreError>;

    /// A part; `None` if it was never kept, was lost in a crash, or was forgotten.
    fn part(&self, nonce: Nonce, part: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Everything of this job that was written before is on disk when this returns, but for segments.
    fn sync(&self, nonce: Nonce) -> Result<(), StoreError>;

    /// Lets a running job claim its rounds once more, from the first.
    ///
    /// **Only** for jobs in which a node's messages are a function of what all
    /// nodes hold alike (docs/protocols.md, 16: one word, one message): there, a
    /// round that is computed again gives the same message under the same mask.
    /// In any other job it would give two, and their difference is one of secrets.
    ///
    /// # Errors
    /// [`StoreError::NoResume`] for a job that ever opened a SPDZ check.
    fn resume(&self, nonce: Nonce) -> Result<(), StoreError>;

    /// Begins another attempt of a running job, durably: its rounds are claimed and its checks counted from the
    /// first. What is said in it stands under material of its own. Attempts may be skipped, never repeated.
    ///
    /// # Errors
    /// [`StoreError::UsedAttempt`] for one at or below an earlier one; [`StoreError::NoResume`] while a
    /// check is open, whatever the attempt: its MAC key is the job's.
    fn begin_attempt(&self, nonce: Nonce, attempt: u32) -> Result<(), StoreError>;

    /// The highest attempt that was begun; 0 is begun with the job.
    fn attempt(&self, nonce: Nonce) -> Result<u32, StoreError>;

    /// Drops the segments with numbers below `index`, once they are used.
    fn drop_segments_below(&self, nonce: Nonce, index: u32) -> Result<(), StoreError>;

    /// Adds an entry to a running job's log. A log serves the process that wrote
    /// it and may be lost in a crash.
    fn append_log(&self, nonce: Nonce, index: u32, entry: &[u8]) -> Result<(), StoreError>;

    /// An entry of a job's log; `None` if it was never added or was forgotten.
    fn log_entry(&self, nonce: Nonce, index: u32) -> Result<Option<Vec<u8>>, StoreError>;

    /// What a job's segments take. Cost: one visit to each.
    fn segments(&self, nonce: Nonce) -> Result<Held, StoreError>;

    /// Drops all segments, parts and the log of a job that is over. Nonce, digest, outcome and
    /// record stay.
    ///
    /// # Errors
    /// [`StoreError::StillRunning`] otherwise.
    fn forget(&self, nonce: Nonce) -> Result<(), StoreError>;

    /// Drops the record of a job that is over, as when its owner has it or it
    /// has grown too old. Nonce, digest and outcome stay for ever.
    ///
    /// # Errors
    /// [`StoreError::StillRunning`] otherwise.
    fn drop_record(&self, nonce: Nonce) -> Result<(), StoreError>;
}

/// A job's name, or a digest's, in messages.
fn short(bytes: &[u8; 32]) -> String {
    crate::keys::hex(&bytes[..4])
}
