//! What the jobs of a store on disk keep, in the directory `store.jobs` beside its file: three
//! series of files for each job while it runs, removed when it is over, and then its result, if that is long.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use super::{
    Nonce, StoreError,
    files::{Manner, Series, disk, lock},
};
use crate::keys::{hex, sync_parent};

/// All jobs that were not forgotten.
pub(super) struct Spools {
    dir: PathBuf,
    jobs: Mutex<HashMap<Nonce, Arc<Spool>>>,
    /// long results
    records: Mutex<HashMap<Nonce, Arc<Series>>>,
    /// held by who writes one, from before it asks whether the job runs until the job is over
    recording: Mutex<()>,
}

/// One job.
pub(super) struct Spool {
    /// each is checked against the root that the owner has signed
    pub(super) segments: Series,
    /// those that were not written over: files only grow
    pub(super) parts: Series,
    /// those that were, and are in the store's own file
    pub(super) over: Mutex<BTreeSet<u64>>,
    /// of this process alone
    pub(super) log: Series,
}

impl Spool {
    fn new(dir: &Path, nonce: &Nonce) -> Self {
        let series = |name, proven, read| series(dir, nonce, name, Manner { proven, read });
        let segments = series("segments", true, true);
        let (parts, log) = (series("parts", false, false), series("log", true, false));
        Self { segments, parts, over: Mutex::default(), log }
    }

    fn named(&self, name: &str) -> Option<&Series> {
        match name {
            "segments" => Some(&self.segments),
            "parts" => Some(&self.parts),
            _ => None,
        }
    }
}

impl Spools {
    pub(super) fn new(store: &str) -> Self {
        Self {
            dir: PathBuf::from(format!("{store}.jobs")),
            jobs: Mutex::default(),
            records: Mutex::default(),
            recording: Mutex::default(),
        }
    }

    /// Finds what these jobs have, and the long results of those, and removes what others have left. Nobody else
    /// has the store open.
    pub(super) fn look_back(&self, running: &HashSet<Nonce>, recorded: &HashSet<Nonce>) -> Result<(), StoreError> {
        let dir = &self.dir;
        make(dir).map_err(|e| disk(dir, &e))?;
        running.iter().for_each(|nonce| self.add(*nonce));
        recorded.iter().for_each(|nonce| drop(self.record_of(*nonce)));
        let names: HashMap<_, _> = running.union(recorded).map(|nonce| (hex(nonce), *nonce)).collect();
        // In the order in which they were written.
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(|e| disk(dir, &e))? {
            let path = entry.map_err(|e| disk(dir, &e))?.path();
            let Some((job, series, number)) = parse(&path) else { continue };
            match names.get(job) {
                Some(nonce) => drop(found.insert((*nonce, series.to_owned(), number), path)),
                None => fs::remove_file(&path).map_err(|e| disk(&path, &e))?,
            }
        }
        for ((nonce, series, number), path) in found {
            let (spool, record) = (self.of(&nonce), lock(&self.records).get(&nonce).cloned());
            match spool
                .as_ref()
                .and_then(|spool| spool.named(&series))
                .or(record.as_deref().filter(|_| series == RECORD))
            {
                Some(series) => series.files().look_through(number)?,
                None => fs::remove_file(&path).map_err(|e| disk(&path, &e))?,
            }
        }
        Ok(())
    }

    /// A job begins.
    pub(super) fn add(&self, nonce: Nonce) {
        lock(&self.jobs).insert(nonce, Arc::new(Spool::new(&self.dir, &nonce)));
    }

    pub(super) fn of(&self, nonce: &Nonce) -> Option<Arc<Spool>> {
        lock(&self.jobs).get(nonce).cloned()
    }

    /// Removes the files of a job that is over.
    pub(super) fn forget(&self, nonce: &Nonce) -> Result<(), StoreError> {
        if let Some(spool) = self.of(nonce) {
            [&spool.segments, &spool.parts, &spool.log].iter().try_for_each(|series| series.files().clear())?;
            lock(&self.jobs).remove(nonce);
        }
        Ok(())
    }

    fn record_of(&self, nonce: Nonce) -> Arc<Series> {
        // Whoever fetches it has the node's receipt, which says what it is.
        let new = || Arc::new(series(&self.dir, &nonce, RECORD, Manner { proven: true, read: true }));
        Arc::clone(lock(&self.records).entry(nonce).or_insert_with(new))
    }

    /// The result is on disk when this returns. It counts once the store's own file says that there is one.
    pub(super) fn put_record(&self, nonce: Nonce, parts: &[&[u8]]) -> Result<(), StoreError> {
        let record = self.record_of(nonce);
        record.files().put(0, parts)?;
        record.sync()
    }

    /// A long result; `None` if it is not there, or not whole.
    pub(super) fn record(&self, nonce: &Nonce) -> Result<Option<Vec<u8>>, StoreError> {
        let record = lock(&self.records).get(nonce).cloned();
        record.map_or(Ok(None), |record| record.files().get(0))
    }

    /// Removes a long result, if there is one.
    pub(super) fn drop_record(&self, nonce: &Nonce) -> Result<(), StoreError> {
        let mut records = lock(&self.records);
        if let Some(record) = records.get(nonce) {
            record.files().clear()?;
            records.remove(nonce);
        }
        Ok(())
    }

    pub(super) fn recording(&self) -> MutexGuard<'_, ()> {
        lock(&self.recording)
    }
}

/// What the files of a long result are called.
const RECORD: &str = "record";

fn series(dir: &Path, nonce: &Nonce, name: &str, manner: Manner) -> Series {
    Series::new(dir.join(format!("{}-{name}", hex(nonce))), manner)
}

/// The job, the series and the number in a file's name, if it is that of such a file.
fn parse(path: &Path) -> Option<(&str, &str, u32)> {
    let mut words = path.file_name()?.to_str()?.split('-');
    let (job, series, text) = (words.next()?, words.next()?, words.next()?);
    let number: u32 = text.parse().ok()?;
    let ours = job.len() == 64 && number.to_string() == text && ["segments", "parts", "log", RECORD].contains(&series);
    (ours && words.next().is_none()).then_some((job, series, number))
}

/// Makes a directory that is this user's alone, unless it is there.
fn make(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| sync_parent(dir)),
    }
}

#[cfg(test)]
mod tests;
