//! A job as the parties sign it: the manifest that says who computes what on
//! which data and who may read it, the receipts with which nodes say what they
//! saw, and the file that names the nodes.
//!
//! Checked types only: bytes become a [`CheckedManifest`] or an [`Agreed`] set
//! of receipts once, and only those travel on. This room knows no socket and
//! no clock (the time is an argument).

mod assigned;
mod extension;
pub mod local;
mod manifest;
mod receipt;
pub mod replay;
#[cfg(feature = "net")]
mod reserve;
mod roster_file;

pub use assigned::{Assigned, Assignment, Concluded, Conclusion, JobError};
pub use extension::{ExtensionError, SignedExtension};
pub use manifest::{
    CheckedManifest, Continues, InputEntry, Limits, MAX_ATTEMPTS, MAX_MANIFEST_BYTES, MAX_SPARES, Manifest,
    ManifestError, OutputEntry, PROTOCOL, SignedManifest, plan_digest,
};
pub use receipt::{Agreed, Outcome, Receipt, ReceiptError, SignedReceipt, compare, sealed_hash};
#[cfg(feature = "net")]
pub(crate) use reserve::{Duty, Reserve};
pub use roster_file::{NodeEntry, RosterFile, RosterFileError};
