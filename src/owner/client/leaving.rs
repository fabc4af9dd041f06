//! What a job that moves takes along: the state and the data of the one that runs.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use super::{ANSWER, ClientError, GRACE, Node, Peers};
use crate::keys::SecretKey;
use crate::net::Limits;
use crate::node::wire::{KEPT, StateOf, ToNode, ToOwner};
use crate::owner::{Held, Ticket};
use crate::roster::Slot;

/// The checkpoints of a running job, from its nodes, and why some did not give theirs. For
/// [`Moving::find`](crate::owner::Moving::find). Once 2t + 1 nodes have answered, the others are waited for as long again.
pub async fn states(
    owner: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
) -> Result<(Vec<Held>, Vec<ClientError>), ClientError> {
    let (manifest, plan) = ticket.check()?;
    let limits = Limits { idle: limits.idle.min(ANSWER), ..limits.clone() };
    // Whoever moves a job tells its spares too in the end, so that all addresses are needed.
    let peers = Peers::of(owner, &manifest, nodes, &limits, true)?;
    let words = plan.checkpoints().into_iter().map(|round| plan.live(round).words() as usize).max();
    let limit = KEPT as usize * (8 * words.unwrap_or(0) + 1024) + limits.first_frames;
    let frame = ToNode::State { manifest: manifest.digest() }.encode();
    let mut asked: FuturesUnordered<_> = peers
        .slots()
        // A spare that was called to a slot is not asked: nobody but the old nodes could tell who has been.
        .filter(|slot| manifest.node(*slot).is_some())
        .map(async |slot| {
            let (told, found) = peers.ask(slot, &frame, limit).await?;
            let ToOwner::State(told) = told else { return Err(ClientError::Answer { slot, found }) };
            // A node speaks for its own slot.
            Ok(told.into_iter().take(KEPT as usize).filter(|held| held.slot == slot.0).map(held_by).collect::<Vec<_>>())
        })
        .collect();
    let (began, mut until) = (Instant::now(), None);
    let (mut held, mut missing, mut answers) = (Vec::new(), Vec::new(), 0);
    loop {
        let answer = match until {
            Some(until) => tokio::select! { answer = asked.next() => answer, () = sleep_until(until) => None },
            None => asked.next().await,
        };
        match answer {
            None => return Ok((held, missing)),
            Some(Ok(told)) => {
                answers += 1;
                held.extend(told);
            }
            Some(Err(error)) => missing.push(error),
        }
        if until.is_none() && answers >= manifest.manifest().roster.to_read() {
            until = Some(Instant::now() + began.elapsed().max(GRACE));
        }
    }
}

fn held_by(mut told: StateOf) -> Held {
    let state = Zeroizing::new(std::mem::take(&mut told.state));
    Held { slot: Slot(told.slot), round: told.round, transcript: told.transcript, state }
}

/// Δ of some inputs of a running job, from the first node that gives the signed one. For
/// [`Moving::prepare`](crate::owner::Moving::prepare).
pub async fn data(
    owner: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    inputs: impl IntoIterator<Item = u32>,
) -> Result<BTreeMap<u32, Vec<u8>>, ClientError> {
    let (manifest, _) = ticket.check()?;
    let limits = Limits { idle: limits.idle.min(ANSWER), ..limits.clone() };
    let peers = Peers::of(owner, &manifest, nodes, &limits, false)?;
    let mut given = BTreeMap::new();
    for number in inputs {
        let words = manifest.manifest().inputs.get(number as usize).map_or(0, |entry| entry.words);
        let limit = 8 * words as usize + limits.first_frames;
        let frame = ToNode::Data { manifest: manifest.digest(), number }.encode();
        // All at once, so that one that is slow costs nothing.
        let ask = async |slot: Slot| match peers.ask(slot, &frame, limit).await? {
            (ToOwner::Data(bytes), found) => match manifest.accept_input(number, &bytes) {
                Some(Ok(_)) => Ok(bytes),
                _ => Err(ClientError::Answer { slot, found }),
            },
            (_, found) => Err(ClientError::Answer { slot, found }),
        };
        let asked = peers.slots().map(|slot| Box::pin(ask(slot)));
        let (bytes, _) = futures_util::future::select_ok(asked).await?;
        given.insert(number, bytes);
    }
    Ok(given)
}
