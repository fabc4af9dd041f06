//! The client's calls for callers without an async runtime: each makes one,
//! runs in it, and ends it. Not for use inside another runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClientError, Ended, Held, Job, Node, Prepared, Progress, Ticket};
use crate::job::Concluded;
use crate::keys::SecretKey;
use crate::net::Limits;
use crate::roster::Slot;

/// [`submit`](super::submit), blocking.
pub fn submit(
    prepared: &Prepared,
    owner: &SecretKey,
    nodes: &[Node],
    limits: &Limits,
    progress: impl FnMut(Progress),
) -> Result<(), ClientError> {
    run(super::submit(prepared, owner, nodes, limits, progress))
}

/// [`resume`](super::resume), blocking.
pub fn resume(
    owner: &Arc<SecretKey>,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    more: u32,
    progress: impl FnMut(Progress),
) -> Result<u32, ClientError> {
    run(super::resume(owner, ticket, nodes, limits, more, progress))
}

/// [`wait`](super::wait), blocking.
pub fn wait(
    key: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    progress: impl FnMut(Progress),
) -> Result<Vec<Concluded>, ClientError> {
    run(super::wait(key, ticket, nodes, limits, progress))
}

/// [`fetch`](super::fetch), blocking.
pub fn fetch(key: &SecretKey, ticket: &Ticket, nodes: &[Node], limits: &Limits) -> Result<Vec<Concluded>, ClientError> {
    run(super::fetch(key, ticket, nodes, limits))
}

/// [`jobs`](super::jobs), blocking.
pub fn jobs(key: &SecretKey, slot: Slot, node: &Node, limits: &Limits) -> Result<Vec<Job>, ClientError> {
    run(super::jobs(key, slot, node, limits))
}

/// [`cancel`](super::cancel), blocking.
pub fn cancel(owner: &SecretKey, ticket: &Ticket, nodes: &[Node], limits: &Limits) -> Result<(), ClientError> {
    run(super::cancel(owner, ticket, nodes, limits))
}

/// [`cancel_each`](super::cancel_each), blocking.
pub fn cancel_each(
    owner: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
) -> Result<Vec<(Slot, Ended)>, ClientError> {
    run(super::cancel_each(owner, ticket, nodes, limits))
}

/// [`states`](super::states), blocking.
pub fn states(
    owner: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
) -> Result<(Vec<Held>, Vec<ClientError>), ClientError> {
    run(super::states(owner, ticket, nodes, limits))
}

/// [`data`](super::data), blocking.
pub fn data(
    owner: &SecretKey,
    ticket: &Ticket,
    nodes: &[Node],
    limits: &Limits,
    inputs: impl IntoIterator<Item = u32>,
) -> Result<BTreeMap<u32, Vec<u8>>, ClientError> {
    run(super::data(owner, ticket, nodes, limits, inputs))
}

fn run<T>(call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)?;
    runtime.block_on(call)
}
