//! The result: waited for, or taken where it is there.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};

use super::{ClientError, GRACE, Node, Peers, Progress, hear, net, report, send};
use crate::job::{Concluded, compare};
use crate::keys::SecretKey;
use crate::net::Limits;
use crate::node::wire::{ToNode, ToOwner};
use crate::owner::{OwnerError, Ticket, read};
use crate::program::plan::Plan;
use crate::roster::{Scheme, Slot};

/// How long a node that is gone is waited for, and how often it is tried.
const LOST: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// Waits until the job is over at enough nodes for [`read`](crate::owner::read), and a
/// moment for the others, and returns their receipts and sealed shares. A node
/// that cannot be reached is tried again for a minute.
pub async fn wait(
    key: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    progress: impl FnMut(Progress),
) -> Result<Vec<Concluded>, ClientError> {
    results(key, ticket, nodes, limits, true, progress).await
}

/// Returns the receipts and sealed shares of all nodes that have them now, or,
/// if they are too few, an error that says how far the job is.
pub async fn fetch(
    key: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
) -> Result<Vec<Concluded>, ClientError> {
    results(key, ticket, nodes, limits, false, |_| {}).await
}

async fn results(
    key: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    wait: bool,
    progress: impl FnMut(Progress),
) -> Result<Vec<Concluded>, ClientError> {
    let (manifest, plan) = ticket.check()?;
    let peers = Peers::of(key, &manifest, nodes, limits, false)?;
    let limit = longest_result(&plan).max(limits.first_frames);
    let progress = Mutex::new(progress);
    let asked = Asked { peers: &peers, manifest: manifest.digest(), limit, wait };
    let mut asked: FuturesUnordered<_> = peers.slots().map(|slot| asked.result(slot, &progress)).collect();
    let (mut concluded, mut failed) = (Vec::new(), None);
    let roster = manifest.manifest().roster;
    // Enough nodes are enough, but whoever is about to answer is heard.
    let mut grace = None;
    loop {
        let patience = async {
            match grace {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            answer = asked.next() => answer,
            () = patience => None,
        };
        match answer {
            Some(Ok(result)) => concluded.push(result),
            // What a node says of the job tells more than that it cannot be reached.
            Some(Err(error)) if failed.as_ref().is_none_or(|f| matches!(f, ClientError::Net { .. })) => {
                failed = Some(error);
            }
            Some(Err(_)) => {}
            // Enough receipts may come with too few shares that can be read.
            None if !asked.is_empty() && !is_enough(key, ticket, &concluded) => {
                grace = Some(Instant::now() + GRACE);
            }
            None => break,
        }
        if asked.len() + concluded.len() < roster.to_read() {
            break;
        }
        let receipts: Vec<_> = concluded.iter().map(|c: &Concluded| c.receipt.clone()).collect();
        if grace.is_none() && compare(&receipts, &manifest).is_ok() {
            grace = Some(Instant::now() + GRACE);
        }
    }
    match failed {
        Some(failed) if grace.is_none() => Err(failed),
        _ => Ok(concluded),
    }
}

/// Whether others need not be waited for.
fn is_enough(key: &SecretKey, ticket: &Ticket, concluded: &[Concluded]) -> bool {
    matches!(read(key, ticket, concluded), Ok(_) | Err(OwnerError::NotAReader { .. }))
}

/// What is asked of every node.
struct Asked<'a> {
    peers: &'a Peers<'a>,
    manifest: [u8; 32],
    limit: usize,
    wait: bool,
}

impl Asked<'_> {
    /// A node's result. Who waits asks a node that is gone again, since it may
    /// be started again.
    async fn result(&self, slot: Slot, progress: &Mutex<impl FnMut(Progress)>) -> Result<Concluded, ClientError> {
        let mut reached = Instant::now();
        loop {
            match self.ask(slot, progress, &mut reached).await {
                Err(ClientError::Net { .. }) if self.wait && reached.elapsed() < LOST => sleep(AGAIN).await,
                answer => return answer,
            }
        }
    }

    async fn ask(
        &self,
        slot: Slot,
        progress: &Mutex<impl FnMut(Progress)>,
        reached: &mut Instant,
    ) -> Result<Concluded, ClientError> {
        let mut link = self.peers.connect(slot).await?;
        link.set_limit(self.limit);
        send(slot, &mut link, &ToNode::Fetch { manifest: self.manifest, wait: self.wait }.encode()).await?;
        loop {
            let answer = link.recv().await.map_err(net(slot))?;
            *reached = Instant::now();
            if let Some(bytes) = ToOwner::concluded(&answer) {
                let (found, start) = (answer.len(), answer.len() - bytes.len());
                let concluded = Concluded::from_message(answer.into(), start);
                let concluded = concluded.map_err(|source| ClientError::Result { slot, source })?;
                // Nobody speaks for another node.
                if concluded.receipt.claimed().slot != slot {
                    return Err(ClientError::Answer { slot, found });
                }
                report(progress, Progress::Done { slot });
                return Ok(concluded);
            }
            match hear(slot, &answer)? {
                (ToOwner::Round { round, of }, _) => report(progress, Progress::Round { slot, round, of }),
                (ToOwner::Stopped { attempt, of }, _) if self.wait => {
                    report(progress, Progress::Stopped { slot, attempt, of });
                }
                (ToOwner::Stopped { attempt, of }, _) => return Err(ClientError::Stopped { slot, attempt, of }),
                (ToOwner::Running { segments, segments_of, round, rounds_of }, _) => {
                    return Err(ClientError::NotYet { slot, segments, segments_of, round, rounds_of });
                }
                (_, found) => return Err(ClientError::Answer { slot, found }),
            }
        }
    }
}

/// The most bytes of a result: what its plan says, sealed, with a receipt.
fn longest_result(plan: &Plan) -> usize {
    let words_each = if plan.roster.scheme() == Scheme::Spdz { 2 } else { 1 };
    let sealed = plan.outputs.iter().map(|output| 8 * words_each * output.shape.len() + 1024);
    sealed.sum::<usize>() + (64 << 10)
}
