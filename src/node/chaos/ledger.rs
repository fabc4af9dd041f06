//! What honest nodes have ever said, so that none says two things, in a run or in two of them.

use std::collections::BTreeMap;

use crate::engine::frame::{Frame, HEADER_BYTES, Kind};
use crate::node::wire::Peer;
use crate::roster::Slot;

/// What honest nodes have ever said: the body of each message by what must not be
/// said in two ways. Digests of segments are among them.
#[derive(Default)]
pub(super) struct Ledger(BTreeMap<(Slot, u32, u8, u32, Option<Slot>), blake3::Hash>, BTreeMap<u32, blake3::Hash>);

impl Ledger {
    pub(super) fn hear(&mut self, from: Slot, bytes: &[u8], fresh: bool) {
        match Peer::decode(bytes) {
            Some(Peer::Frame(bytes)) => {
                let header = Frame::decode(bytes).unwrap().header;
                let to = (header.kind == Kind::Packed).then_some(header.to);
                let body = blake3::hash(&bytes[HEADER_BYTES..]);
                // Commitments are drawn anew in each run, but not in the course of one.
                if fresh
                    && matches!(header.kind, Kind::CoinCommit | Kind::CoinOpen | Kind::CoinAgree | Kind::SigmaCommit)
                {
                    return;
                }
                // Where a later attempt begins differs from run to run.
                if fresh && header.attempt > 0 {
                    return;
                }
                let key = (from, header.attempt, header.kind as u8, header.step, to);
                let held = *self.0.entry(key).or_insert(body);
                assert_eq!(held, body, "{from} said two things as {} of exchange {}", header.kind, header.step);
            }
            Some(Peer::Words { round, .. }) => {
                let held = *self.1.entry(round).or_insert(blake3::hash(bytes));
                assert_eq!(held, blake3::hash(bytes), "{from} says that something else was opened in round {round}");
            }
            _ => {}
        }
    }
}
