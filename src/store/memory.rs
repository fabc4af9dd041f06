//! A store that lives and dies with its process.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Held, Job, JobState, Nonce, Store, StoreError, entry::Entry, short};

/// A [`Store`] in memory: for tests of user programs and for jobs whose nodes
/// all live in one process. It keeps every rule while it lives, and forgets
/// with its process which nonces were used: never give it a nonce twice.
#[derive(Default)]
pub struct MemoryStore {
    jobs: Mutex<BTreeMap<Nonce, Kept>>,
    /// what a crash could still undo, in order
    #[cfg(test)]
    undurable: Mutex<Vec<(Nonce, Undurable)>>,
}

/// A write that needs a sync.
#[cfg(test)]
enum Undurable {
    /// and what was there before
    Part(u64, Option<Vec<u8>>),
    Segment(u32),
}

#[cfg_attr(test, derive(Clone))]
struct Kept {
    entry: Entry,
    next: u64,
    record: Option<Vec<u8>>,
    segments: BTreeMap<u32, Vec<u8>>,
    log: BTreeMap<u32, Vec<u8>>,
    parts: BTreeMap<u64, Vec<u8>>,
    /// it was running when this store was copied from one that crashed
    interrupted: bool,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a process that starts now would find if this one crashed, where
    /// `keep` says how many of the segments, and then of the parts, that were never synced are on disk.
    #[cfg(test)]
    pub(crate) fn crashed(&self, mut keep: impl FnMut(usize) -> usize) -> Self {
        let copy = |kept: &Kept| Kept { next: kept.entry.reserved, interrupted: true, ..kept.clone() };
        let mut jobs: BTreeMap<_, _> = self.lock().iter().map(|(nonce, kept)| (*nonce, copy(kept))).collect();
        let undurable = self.undurable.lock().unwrap();
        // Segments and parts are written apart.
        let (segments, parts): (Vec<_>, Vec<_>) =
            undurable.iter().partition(|(_, write)| matches!(write, Undurable::Segment(_)));
        let lost = [segments, parts].map(|mut writes| writes.split_off(keep(writes.len())));
        for (nonce, write) in lost.iter().flat_map(|writes| writes.iter().rev()) {
            let Some(kept) = jobs.get_mut(nonce) else { continue };
            match write {
                Undurable::Part(part, Some(before)) => drop(kept.parts.insert(*part, before.clone())),
                Undurable::Part(part, None) => drop(kept.parts.remove(part)),
                Undurable::Segment(index) => drop(kept.segments.remove(index)),
            }
        }
        Self { jobs: Mutex::new(jobs), undurable: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Nonce, Kept>> {
        // No call leaves an entry half-changed, so a panic elsewhere harms nothing here.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, nonce: Nonce, change: impl FnOnce(&mut Kept) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.lock().get_mut(&nonce) {
            Some(kept) => change(kept),
            None => Err(StoreError::Unknown { job: short(&nonce) }),
        }
    }
}

impl Store for MemoryStore {
    fn begin(&self, nonce: Nonce, digest: [u8; 32]) -> Result<(), StoreError> {
        let mut jobs = self.lock();
        let entry = Entry::begin(jobs.get(&nonce).map(|kept| &kept.entry), &nonce, digest)?;
        let (segments, log, parts) = Default::default();
        jobs.insert(nonce, Kept { entry, next: 0, record: None, segments, log, parts, interrupted: false });
        Ok(())
    }

    fn state(&self, nonce: Nonce) -> Result<Option<JobState>, StoreError> {
        Ok(self.lock().get(&nonce).map(|kept| kept.entry.state.clone()))
    }

    fn jobs(&self) -> Result<Vec<Job>, StoreError> {
        Ok(self.lock().iter().map(|(nonce, kept)| kept.entry.job(*nonce)).collect())
    }

    fn interrupted(&self) -> Result<Vec<Job>, StoreError> {
        // None but of copies that tests make: no earlier process is known.
        let jobs = self.lock();
        let interrupted = jobs.iter().filter(|(_, kept)| kept.interrupted && kept.entry.state == JobState::Running);
        Ok(interrupted.map(|(nonce, kept)| kept.entry.job(*nonce)).collect())
    }

    fn finish(&self, nonce: Nonce, record: &[&[u8]]) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.entry.end(&nonce, JobState::Finished)?;
            kept.record = Some(record.concat());
            Ok(())
        })
    }

    fn fail(&self, nonce: Nonce, reason: &str) -> Result<(), StoreError> {
        self.with(nonce, |kept| kept.entry.end(&nonce, JobState::Failed(reason.to_owned())))
    }

    fn record(&self, nonce: Nonce) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(nonce, |kept| Ok(kept.record.clone()))
    }

    fn advance(&self, nonce: Nonce, round: u32) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.entry.claim(&nonce, kept.next, round)?;
            kept.next = u64::from(round) + 1;
            Ok(())
        })
    }

    fn check_opened(&self, nonce: Nonce, check: u32) -> Result<(), StoreError> {
        self.with(nonce, |kept| kept.entry.check_opened(&nonce, check))
    }

    fn check_passed(&self, nonce: Nonce, check: u32) -> Result<(), StoreError> {
        self.with(nonce, |kept| kept.entry.check_passed(&nonce, check))
    }

    fn open_check(&self, nonce: Nonce) -> Result<Option<u32>, StoreError> {
        self.with(nonce, |kept| Ok(kept.entry.open_check()))
    }

    fn put_segment(&self, nonce: Nonce, index: u32, bytes: &[u8]) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.entry.must_run(&nonce)?;
            #[cfg(test)]
            self.undurable.lock().unwrap().push((nonce, Undurable::Segment(index)));
            let held = kept.segments.entry(index).or_insert_with(|| bytes.to_vec());
            if held == bytes { Ok(()) } else { Err(StoreError::SegmentDiffers { job: short(&nonce), index }) }
        })
    }

    fn segment(&self, nonce: Nonce, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(nonce, |kept| Ok(kept.segments.get(&index).cloned()))
    }

    fn sync_segments(&self, nonce: Nonce) -> Result<(), StoreError> {
        self.with(nonce, |_| Ok(()))?;
        #[cfg(test)]
        self.undurable.lock().unwrap().retain(|(job, write)| *job != nonce || !matches!(write, Undurable::Segment(_)));
        Ok(())
    }

    fn drop_segments_below(&self, nonce: Nonce, index: u32) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.segments = kept.segments.split_off(&index);
            Ok(())
        })
    }

    fn put_part(&self, nonce: Nonce, part: u64, bytes: &[&[u8]]) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.entry.must_run(&nonce)?;
            let _before = kept.parts.insert(part, bytes.concat());
            #[cfg(test)]
            self.undurable.lock().unwrap().push((nonce, Undurable::Part(part, _before)));
            Ok(())
        })
    }

    fn part(&self, nonce: Nonce, part: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(nonce, |kept| Ok(kept.parts.get(&part).cloned()))
    }

    fn sync(&self, nonce: Nonce) -> Result<(), StoreError> {
        self.with(nonce, |_| Ok(()))?;
        #[cfg(test)]
        self.undurable.lock().unwrap().retain(|(job, write)| *job != nonce || matches!(write, Undurable::Segment(_)));
        Ok(())
    }

    fn resume(&self, nonce: Nonce) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.entry.resume(&nonce)?;
            (kept.next, kept.interrupted) = (0, false);
            Ok(())
        })
    }

    fn begin_attempt(&self, nonce: Nonce, attempt: u32) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.entry.begin_attempt(&nonce, attempt)?;
            kept.next = 0;
            Ok(())
        })
    }

    fn attempt(&self, nonce: Nonce) -> Result<u32, StoreError> {
        self.with(nonce, |kept| Ok(kept.entry.attempt))
    }

    fn append_log(&self, nonce: Nonce, index: u32, entry: &[u8]) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.entry.must_run(&nonce)?;
            kept.log.insert(index, entry.to_vec());
            Ok(())
        })
    }

    fn log_entry(&self, nonce: Nonce, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(nonce, |kept| Ok(kept.log.get(&index).cloned()))
    }

    fn segments(&self, nonce: Nonce) -> Result<Held, StoreError> {
        self.with(nonce, |kept| {
            let bytes = kept.segments.values().map(|segment| segment.len() as u64).sum();
            Ok(Held { count: kept.segments.len() as u64, bytes })
        })
    }

    fn forget(&self, nonce: Nonce) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.entry.must_be_over(&nonce)?;
            kept.segments.clear();
            kept.log.clear();
            kept.parts.clear();
            Ok(())
        })
    }

    fn drop_record(&self, nonce: Nonce) -> Result<(), StoreError> {
        self.with(nonce, |kept| {
            kept.entry.must_be_over(&nonce)?;
            kept.record = None;
            Ok(())
        })
    }
}
