//! The dealer's stream as one node sees it: headers verified and agreed with
//! all peers, segments loaded when a round needs them and dropped behind it.

use std::collections::{BTreeMap, BTreeSet};

use super::error::EngineError;
use super::frame::Kind;
use crate::field::Fp61;
use crate::keys::PublicKey;
use crate::roster::{Roster, Slot};
use crate::sharing::Delta;
use crate::transcript::{
    CheckedHeader, CheckedSegment, Headers, SEGMENT_WORDS, SignedHeader, StreamPlace, Transcript, TranscriptError,
};

pub(super) struct Stream {
    owner: PublicKey,
    place: StreamPlace,
    attempt: u32,
    slot: Slot,
    roster: Roster,
    /// how many nodes must report one digest
    needed: usize,
    accepted: Headers,
    headers: BTreeMap<u32, CheckedHeader>,
    /// of all segments that this node has verified, those that were dropped too: a
    /// peer that comes back needs them all
    verified: BTreeMap<u32, [u8; 32]>,
    /// digests that nodes reported, until enough have reported one
    reported: BTreeMap<u32, Vec<Option<[u8; 32]>>>,
    agreed: BTreeSet<u32>,
    loaded: BTreeMap<u32, Vec<Fp61>>,
    asked: u32,
    absorbed: u32,
    /// segments from here on up to those absorbed may be missing: in a party that was
    /// restored, nothing is loaded yet of what it has absorbed before
    ready: u32,
    kept_from: u32,
}

impl Stream {
    pub(super) fn new(
        owner: PublicKey,
        place: StreamPlace,
        attempt: u32,
        slot: Slot,
        roster: Roster,
        needed: usize,
    ) -> Self {
        Self {
            owner,
            place,
            attempt,
            slot,
            roster,
            needed,
            accepted: Headers::default(),
            headers: BTreeMap::new(),
            verified: BTreeMap::new(),
            reported: BTreeMap::new(),
            agreed: BTreeSet::new(),
            loaded: BTreeMap::new(),
            asked: 0,
            absorbed: 0,
            ready: 0,
            kept_from: 0,
        }
    }

    /// Stands where it would if segments below one offset had been absorbed, and
    /// those wholly below the other dropped. What lies between is loaded, and agreed, anew.
    pub(super) fn begin_at(&mut self, absorbed: u64, kept_from: u64) {
        self.drop_below(kept_from);
        (self.asked, self.ready) = (self.kept_from, self.kept_from);
        self.absorbed = segments_below(absorbed);
    }

    /// A header from the owner: its index and digest if it is new. Only
    /// segments of the attempt that is under way are of use: words of another
    /// one are as random as any, and would pass for right.
    pub(super) fn header(&mut self, signed: &SignedHeader) -> Result<Option<(u32, [u8; 32])>, EngineError> {
        let checked = signed.verify(&self.owner, &self.place)?;
        let (index, digest) = (checked.header().index, checked.header().digest());
        let (found, expected) = (u64::from(checked.header().attempt), u64::from(self.attempt));
        if found != expected {
            return Err(TranscriptError::HeaderGeometry { index, field: "attempt", found, expected }.into());
        }
        if !self.accepted.accept(&checked)? {
            return Ok(None);
        }
        self.headers.insert(index, checked);
        self.verified.insert(index, digest);
        self.report(index, self.slot, digest)?;
        Ok(Some((index, digest)))
    }

    /// A digest that a node (or this one) reports for a segment. An error if it
    /// is none, or another than this node verified: its sender's fault.
    pub(super) fn report(&mut self, index: u32, from: Slot, digest: [u8; 32]) -> Result<(), EngineError> {
        if self.place.segment(index).is_none() {
            return Err(EngineError::Misplaced {
                from,
                kind: Kind::Segment,
                field: "index",
                found: index.to_string(),
                expected: format!("below {}", self.place.segments()),
            });
        }
        let own = self.verified.get(&index).copied();
        if own.is_some_and(|own| own != digest) {
            return Err(EngineError::Disagree { from, what: Kind::Segment });
        }
        if self.agreed.contains(&index) {
            return Ok(());
        }
        let nodes = usize::from(self.roster.nodes());
        let reports = self.reported.entry(index).or_insert_with(|| vec![None; nodes]);
        // A link that was made again brings what may have come before.
        if reports[from.index()].replace(digest).is_some_and(|before| before != digest) {
            return Err(EngineError::Twice { from, kind: Kind::Segment, step: index });
        }
        if own.is_some() && reports.iter().filter(|report| **report == own).count() >= self.needed {
            self.reported.remove(&index);
            self.agreed.insert(index);
        }
        Ok(())
    }

    /// Who has reported something else for a segment than this node verified.
    pub(super) fn differing(&self, index: u32) -> Vec<(Slot, EngineError)> {
        let own = self.verified.get(&index).copied();
        let reports = self.reported.get(&index).into_iter().flat_map(|reports| self.roster.slots().zip(reports));
        let differs = |(slot, report): (Slot, &Option<[u8; 32]>)| {
            (report.is_some() && *report != own)
                .then_some((slot, EngineError::Disagree { from: slot, what: Kind::Segment }))
        };
        reports.filter_map(differs).collect()
    }

    /// What this node has verified: each segment's index and digest.
    pub(super) fn reports(&self) -> impl Iterator<Item = (u32, [u8; 32])> + '_ {
        self.verified.iter().map(|(index, digest)| (*index, *digest))
    }

    /// Whether the owner has not delivered a segment yet.
    pub(super) fn lacks(&self, index: u32) -> bool {
        !self.verified.contains_key(&index)
    }

    /// Who has not reported a segment that is not agreed yet.
    pub(super) fn silent(&self, index: u32) -> Vec<Slot> {
        let reports = self.reported.get(&index);
        let reported = |slot: &Slot| reports.is_some_and(|reports| reports[slot.index()].is_some());
        self.roster.slots().filter(|slot| !reported(slot)).collect()
    }

    /// The segments that hold words below `until` and were not asked for yet.
    pub(super) fn ask(&mut self, until: u64) -> std::ops::Range<u32> {
        let end = segments_below(until).max(self.asked);
        let new = self.asked..end;
        self.asked = end;
        new
    }

    /// A segment's bytes, asked for before; verified against the signed root.
    pub(super) fn load(&mut self, index: u32, bytes: &[u8]) -> Result<(), EngineError> {
        let words = self.awaited(index)?.accept(bytes)?;
        self.loaded.insert(index, words);
        Ok(())
    }

    /// A segment that was asked for before, verified under a header that must be the one that this
    /// party has.
    pub(super) fn take(&mut self, segment: CheckedSegment) -> Result<(), EngineError> {
        let index = segment.index();
        let words = segment.words(self.awaited(index)?).ok_or(EngineError::Unasked("a segment of another header"))?;
        self.loaded.insert(index, words);
        Ok(())
    }

    /// The header of a segment that was asked for.
    fn awaited(&self, index: u32) -> Result<&CheckedHeader, EngineError> {
        let header = self.headers.get(&index).filter(|_| index < self.asked && index >= self.kept_from);
        header.ok_or(EngineError::Unasked("a segment"))
    }

    /// The first segment below `until` that is not verified and agreed yet.
    pub(super) fn missing(&self, until: u64) -> Option<u32> {
        (self.ready..segments_below(until)).find(|i| !self.loaded.contains_key(i) || !self.agreed.contains(i))
    }

    /// Absorbs, in order, the headers that a round is about to depend on.
    pub(super) fn absorb(&mut self, until: u64, transcript: &mut Transcript) {
        for index in self.absorbed..segments_below(until) {
            transcript.absorb_segment(&self.headers[&index]);
            self.absorbed = index + 1;
        }
        self.ready = self.absorbed;
    }

    /// Words of the stream, all in absorbed segments.
    pub(super) fn words(&self, offset: u64, count: u64) -> Delta<'_> {
        let mut parts = Vec::new();
        let mut at = offset;
        while at < offset + count {
            let index = (at / u64::from(SEGMENT_WORDS)) as u32;
            let start = (at % u64::from(SEGMENT_WORDS)) as usize;
            let segment = &self.loaded[&index];
            let end = segment.len().min(start + (offset + count - at) as usize);
            parts.push(&segment[start..end]);
            at += (end - start) as u64;
        }
        parts.into_iter().collect()
    }

    /// Drops all words.
    pub(super) fn clear(&mut self) {
        self.loaded.clear();
    }

    /// Drops what lies wholly below `from`; the first segment still kept, if
    /// that changed.
    pub(super) fn drop_below(&mut self, from: u64) -> Option<u32> {
        let keep = (from / u64::from(SEGMENT_WORDS)) as u32;
        if keep <= self.kept_from {
            return None;
        }
        self.kept_from = keep;
        self.loaded = self.loaded.split_off(&keep);
        self.headers = self.headers.split_off(&keep);
        Some(keep)
    }
}

/// Segments that hold words below `until`.
pub(super) fn segments_below(until: u64) -> u32 {
    until.div_ceil(u64::from(SEGMENT_WORDS)) as u32
}
