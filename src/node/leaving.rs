//! What a node gives the owner of a job that moves to other nodes: its checkpoints, and Δ of the
//! inputs (docs/protocols.md, 16, moving).
//!
//! Checkpoints hold this node's shares of everything that is alive. They are for the owner alone, which dealt and
//! knows the data anyway; the link proves its key.

use std::mem::take;
use std::sync::Arc;

use tokio::sync::SemaphorePermit;

use super::checkpoints::Checkpoints;
use super::setup::Keep;
use super::visit::owned;
use super::wire::{StateOf, ToOwner};
use super::{Node, Running};

/// A place for an answer that holds the state or data of a whole job in memory: for the job's owner, since
/// others are answered in a line.
pub(super) async fn place<'a>(node: &'a Node, peer: &[u8; 32], manifest: [u8; 32]) -> Option<SemaphorePermit<'a>> {
    match owned(node, peer, manifest) {
        Ok(_) => node.giving.acquire().await.ok(),
        Err(_) => None,
    }
}

/// The checkpoints of a job of this owner.
pub(super) fn state(node: &Node, peer: &[u8; 32], manifest: [u8; 32]) -> ToOwner {
    answer(node, peer, manifest, |keep, job| {
        let Some(slot) = keep.slot()? else { return Ok(ToOwner::State(Vec::new())) };
        let held = Checkpoints::new(keep, &node.config.key, job.manifest.digest(), slot).held()?;
        let told = held.into_iter().map(|(round, transcript, mut state)| StateOf {
            slot: slot.0,
            round,
            transcript,
            state: take(&mut *state),
        });
        Ok(ToOwner::State(told.collect()))
    })
}

/// Δ of an input of a job of this owner.
pub(super) fn data(node: &Node, peer: &[u8; 32], manifest: [u8; 32], number: u32) -> ToOwner {
    answer(node, peer, manifest, |keep, job| {
        let inputs = job.manifest.manifest().inputs.len();
        match usize::try_from(number) {
            Ok(number) if number < inputs => Ok(ToOwner::Data(keep.input(&job.manifest, number)?)),
            _ => Ok(ToOwner::Refused(format!("the job has no input {number}, it has {inputs}"))),
        }
    })
}

fn answer(
    node: &Node,
    peer: &[u8; 32],
    manifest: [u8; 32],
    ask: impl FnOnce(Keep, &Running) -> Result<ToOwner, String>,
) -> ToOwner {
    let job = match owned(node, peer, manifest) {
        Ok(job) => job,
        Err(reason) => return ToOwner::Refused(reason),
    };
    if !job.kept {
        return ToOwner::Refused(
            "it keeps no state of this job: it runs with --no-recovery, or the job's plan has no checkpoints"
                .to_owned(),
        );
    }
    let keep = Keep::new(Arc::clone(&node.config.store), job.manifest.manifest().nonce);
    ask(keep, &job).unwrap_or_else(|error| {
        tracing::error!(error, "the state of a job could not be read");
        ToOwner::Refused("this node cannot read its store: see its log".to_owned())
    })
}
