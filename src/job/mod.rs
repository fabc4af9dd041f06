//! A job as the parties sign it: the manifest that says who computes what on
//! which data and who may read it, the receipts with which nodes say what they
//! saw, and the file that names the nodes.
//!
//! Checked types only: bytes become a [`CheckedManifest`] or an [`Agreed`] set
//! of receipts once, and only those travel on. This room knows no socket and
//! no clock (the time is an argument).

mod assigned;
pub mod local;
mod manifest;
mod receipt;
pub mod replay;
mod roster_file;

pub use assigned::{Assigned, Assignment, Concluded, Conclusion, JobError};
pub use manifest::{
    CheckedManifest, InputEntry, Limits, MAX_MANIFEST_BYTES, Manifest, ManifestError, OutputEntry, PROTOCOL,
    SignedManifest, plan_digest,
};
pub use receipt::{Agreed, Outcome, Receipt, ReceiptError, SignedReceipt, compare, sealed_hash};
pub use roster_file::{NodeEntry, RosterFile, RosterFileError};

/// Postcard in a buffer that holds `bytes` and some more from the start: a long
/// result is not copied again and again while it grows.
pub(crate) fn encode_long<T: serde::Serialize>(value: &T, bytes: usize) -> Vec<u8> {
    let out = Vec::with_capacity(bytes + 1024);
    postcard::to_extend(value, out).expect("plain data always encodes")
}
