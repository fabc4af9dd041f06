//! What deals a job's material.
//!
//! All of it is a function of the owner's key, of the signed manifest and its plan, and of the attempt: nothing
//! is drawn, and nothing taken from nodes. So whoever holds key and ticket deals each attempt again as
//! it was dealt, and more of them, and no mask ever stands for two values because it was dealt twice.

use std::sync::Arc;

use super::{OwnerError, Ticket};
use crate::job::{CheckedManifest, SignedExtension};
use crate::keys::SecretKey;
use crate::material::SegmentStream;
use crate::program::plan::Plan;
use crate::sharing::{Dealer, job_keys};

/// A job's owner with all that its material follows from.
pub struct Dealing {
    owner: Arc<SecretKey>,
    manifest: CheckedManifest,
    plan: Arc<Plan>,
    dealer: Arc<dyn Dealer>,
}

impl Dealing {
    pub(super) fn new(owner: &Arc<SecretKey>, manifest: CheckedManifest, plan: Arc<Plan>) -> Self {
        let signed = manifest.manifest();
        let dealer = Arc::from(job_keys(&owner.dealing(), &signed.nonce, signed.roster));
        Self { owner: Arc::clone(owner), manifest, plan, dealer }
    }

    /// Of a job that was submitted before. Refuses a key that did not sign it.
    pub fn again(owner: &Arc<SecretKey>, ticket: &Ticket) -> Result<Self, OwnerError> {
        let (manifest, plan) = ticket.check()?;
        let signer = &manifest.manifest().owner;
        if owner.public() != *signer {
            return Err(OwnerError::NotOwner { found: owner.public().short(), expected: signer.short() });
        }
        Ok(Self::new(owner, manifest, Arc::new(plan)))
    }

    /// The signed manifest.
    pub fn manifest(&self) -> &CheckedManifest {
        &self.manifest
    }

    pub(super) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    pub(super) fn dealer(&self) -> &Arc<dyn Dealer> {
        &self.dealer
    }

    pub(super) fn owner(&self) -> &Arc<SecretKey> {
        &self.owner
    }

    /// The material stream of one attempt, dealt as it is walked: one that the manifest names, or a later one.
    pub fn stream_of(&self, attempt: u32) -> Result<SegmentStream, OwnerError> {
        let (plan, dealer) = (Arc::clone(&self.plan), Arc::clone(&self.dealer));
        let place = self.manifest.stream_of(self.manifest.manifest().attempts.max(attempt.saturating_add(1)));
        Ok(SegmentStream::new(plan, dealer, Arc::clone(&self.owner), place, attempt)?)
    }

    /// What nodes are shown before they take more attempts than the manifest names: so many in all.
    pub fn extension(&self, attempts: u32) -> Result<SignedExtension, OwnerError> {
        Ok(SignedExtension::sign(&self.owner, &self.manifest, attempts)?)
    }
}
