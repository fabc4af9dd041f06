//! A store on disk: one `redb` file for what must never be forgotten, its witness, and files
//! that only grow for what jobs keep while they run and for long results.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::ErrorKind,
    ops::RangeInclusive,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::{
    Held, Job, JobState, Nonce, RESERVE, Store, StoreError,
    entry::{Claim, Entry},
    files::lock,
    short,
    spool::{Spool, Spools},
    witness::{Witness, private},
};

const META: TableDefinition<&str, u64> = TableDefinition::new("beaverdam");
const JOBS: TableDefinition<&Nonce, &[u8]> = TableDefinition::new("jobs");
/// All that is long: a job, what it is, its number, and which piece of it.
const BULK: TableDefinition<(&Nonce, u8, u64, u32), &[u8]> = TableDefinition::new("bulk");

/// What [`BULK`] holds; a kind's number never changes its meaning.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Record = 1,
    // 2 and 4 were what files hold now.
    /// one that was written over
    Part = 3,
    /// there is one, too long for the table: it is in a file
    LongRecord = 5,
}

/// The longest piece. `redb` gives a value that is longer than a page as many pages as the
/// next power of two, zeroes them and writes them all: this and its key fill 64 KiB, while
/// 512 KiB in one piece would take twice their bytes.
const PIECE: usize = (64 << 10) - 256;

/// The format of the tables; another number is another release's store.
const FORMAT: u64 = 6;
/// `redb` would take a gigabyte; a node is to stay small.
const CACHE_BYTES: usize = 8 << 20;

/// A [`Store`] in the file `path`, with `path.witness` and the directory `path.jobs` beside it;
/// all are made, for this user alone, if neither file exists. One process at a time.
pub struct RedbStore {
    path: String,
    db: Database,
    spools: Spools,
    /// held while something is made durable
    live: Mutex<Live>,
    /// never held while the disk is waited for; locked after `live` and after files
    running: Mutex<HashMap<Nonce, Rounds>>,
}

/// The rounds of a running job.
struct Rounds {
    /// the first unused one
    next: u64,
    /// the first one that is not reserved on disk
    reserved: u64,
}

/// What this opening of the store knows beyond the file.
struct Live {
    /// jobs that ran when the store was opened
    interrupted: HashSet<Nonce>,
    /// durable writes so far
    count: u64,
    witness: Witness,
}

impl RedbStore {
    /// Opens a store or makes a new one. Reads the whole file once to verify
    /// its checksums, so fail and [`forget`](Store::forget) dead jobs.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Damaged`],
    /// [`StoreError::RolledBack`], [`StoreError::NoWitness`] or
    /// [`StoreError::Disk`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().display().to_string();
        let disk = |e: std::io::Error| StoreError::Disk { path: path.clone(), cause: e.to_string() };
        // A file without content is what a crash leaves before the first write.
        let exists = match std::fs::metadata(&path) {
            Ok(meta) => meta.len() > 0,
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(disk(e)),
        };
        let witness = Witness::open(&path, exists)?;
        if !exists {
            if witness.count() > 0 {
                return Err(StoreError::RolledBack { path, found: 0, witnessed: witness.count() });
            }
            private(true).open(&path).map_err(disk)?;
        }
        let db = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(exists)
            .create(&path)
            .map_err(|e| failed(&path, e))?;
        let live = Live { interrupted: HashSet::new(), count: 0, witness };
        let spools = Spools::new(&path);
        let store = Self { path, db, spools, live: Mutex::new(live), running: Mutex::default() };
        store.look_back(exists)?;
        Ok(store)
    }

    /// Compares the file with its witness and finds the jobs that were running.
    fn look_back(&self, exists: bool) -> Result<(), StoreError> {
        let mut live = self.lock();
        if exists {
            let (format, count) = self.read(|txn| {
                let meta = txn.open_table(META)?;
                let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |value| value.value()));
                Ok((number("format")?, number("count")?))
            })?;
            if format != FORMAT {
                return Err(self.damaged(format!("format {format}, while this release writes {FORMAT}")));
            }
            let witnessed = live.witness.count();
            if count < witnessed {
                return Err(StoreError::RolledBack { path: self.path.clone(), found: count, witnessed });
            }
            live.count = count;
        }
        self.durable(&mut live, |txn| {
            txn.open_table(META)?.insert("format", FORMAT)?;
            txn.open_table(JOBS)?;
            txn.open_table(BULK)?;
            Ok(())
        })?;
        let (running, over): (Vec<_>, Vec<_>) =
            self.entries()?.into_iter().partition(|(_, entry)| entry.state == JobState::Running);
        for (nonce, entry) in running {
            live.interrupted.insert(nonce);
            let rounds = Rounds { next: entry.reserved, reserved: entry.reserved };
            self.running().insert(nonce, rounds);
        }
        let over: Vec<Nonce> = over.into_iter().map(|(nonce, _)| nonce).collect();
        let mut recorded = HashSet::new();
        for nonce in &over {
            if self.kept(*nonce, Kind::LongRecord, 0)?.is_some() {
                recorded.insert(*nonce);
            }
        }
        self.spools.look_back(&live.interrupted, &recorded)?;
        for nonce in &live.interrupted {
            if let Some(spool) = self.spools.of(nonce) {
                *lock(&spool.over) = self.written_over(nonce)?;
            }
        }
        // What a process that died between the end of a job and its clearing left.
        self.write(Durability::None, |txn| over.iter().try_for_each(|nonce| clear(txn, nonce)))
    }

    /// The parts of a job that are in the table.
    fn written_over(&self, nonce: &Nonce) -> Result<BTreeSet<u64>, StoreError> {
        self.read(|txn| {
            let bulk = txn.open_table(BULK)?;
            let parts = bulk.range(pieces(nonce, Kind::Part, 0..=u64::MAX))?;
            Ok(parts.map(|piece| piece.map(|(key, _)| key.value().2)).collect::<Result<_, _>>()?)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        // `Live` changes only after the disk has, so a panic leaves it sound.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Nonce, Rounds>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, e: impl Into<redb::Error>) -> StoreError {
        failed(&self.path, e)
    }

    fn damaged(&self, cause: String) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), cause }
    }

    fn read<T>(&self, look: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let txn = self.db.begin_read().map_err(|e| self.failed(e))?;
        look(&txn).map_err(|e| self.failed(e))
    }

    fn write(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let mut txn = self.db.begin_write().map_err(|e| self.failed(e))?;
        let written = (|| {
            txn.set_durability(durability)?;
            change(&txn)?;
            Ok(txn.commit()?)
        })();
        written.map_err(|e: redb::Error| self.failed(e))
    }

    /// A write that is on disk, and seen by the witness, when this returns.
    fn durable(
        &self,
        live: &mut Live,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let count = live.count + 1;
        self.write(Durability::Immediate, |txn| {
            change(txn)?;
            txn.open_table(META)?.insert("count", count)?;
            Ok(())
        })?;
        live.count = count;
        // After the store: a crash in between leaves the witness behind, which is sound.
        live.witness.note(count).map_err(|e| StoreError::Disk { path: self.path.clone(), cause: e.to_string() })
    }

    fn find(&self, nonce: Nonce) -> Result<Option<Entry>, StoreError> {
        let bytes = self.read(|txn| Ok(txn.open_table(JOBS)?.get(&nonce)?.map(|value| value.value().to_vec())))?;
        bytes.map(|bytes| self.decode(&nonce, &bytes)).transpose()
    }

    fn entry(&self, nonce: Nonce) -> Result<Entry, StoreError> {
        self.find(nonce)?.ok_or_else(|| StoreError::Unknown { job: short(&nonce) })
    }

    fn entries(&self) -> Result<Vec<(Nonce, Entry)>, StoreError> {
        let rows: Vec<(Nonce, Vec<u8>)> = self.read(|txn| {
            let jobs = txn.open_table(JOBS)?;
            let rows = jobs.iter()?.map(|row| row.map(|(nonce, value)| (*nonce.value(), value.value().to_vec())));
            Ok(rows.collect::<Result<_, _>>()?)
        })?;
        rows.into_iter().map(|(nonce, bytes)| Ok((nonce, self.decode(&nonce, &bytes)?))).collect()
    }

    fn decode(&self, nonce: &Nonce, bytes: &[u8]) -> Result<Entry, StoreError> {
        postcard::from_bytes(bytes).map_err(|e| self.damaged(format!("job {}: {e}", short(nonce))))
    }

    /// The caller holds the files that it is about to write: whoever forgets the job, once it is over, waits for them.
    fn must_run(&self, nonce: &Nonce) -> Result<(), StoreError> {
        if self.running().contains_key(nonce) { Ok(()) } else { self.entry(*nonce)?.must_run(nonce) }
    }

    /// The files of a job; `None` if it was forgotten.
    fn spool(&self, nonce: &Nonce) -> Result<Option<Arc<Spool>>, StoreError> {
        let spool = self.spools.of(nonce);
        if spool.is_none() {
            self.entry(*nonce)?;
        }
        Ok(spool)
    }

    /// The files of a job, for who may only write to them while it runs.
    fn spool_of_running(&self, nonce: &Nonce) -> Result<Arc<Spool>, StoreError> {
        match self.spool(nonce)? {
            Some(spool) => Ok(spool),
            None => self.must_run(nonce).and(Err(StoreError::Unknown { job: short(nonce) })),
        }
    }

    /// What the tables hold, its pieces put together.
    fn kept(&self, nonce: Nonce, kind: Kind, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|txn| {
            let bulk = txn.open_table(BULK)?;
            let mut whole: Option<Vec<u8>> = None;
            for piece in bulk.range(pieces(&nonce, kind, number..=number))? {
                whole.get_or_insert_default().extend_from_slice(piece?.1.value());
            }
            Ok(whole)
        })
    }

    /// Changes a job's entry, and what else goes with it, durably.
    fn change(
        &self,
        nonce: Nonce,
        change: impl FnOnce(&mut Entry) -> Result<(), StoreError>,
        also: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let mut live = self.lock();
        let mut entry = self.entry(nonce)?;
        change(&mut entry)?;
        self.durable(&mut live, |txn| {
            put_entry(txn, &nonce, &entry)?;
            also(txn)
        })?;
        if entry.state != JobState::Running {
            self.running().remove(&nonce);
        }
        Ok(())
    }
}

impl Store for RedbStore {
    fn begin(&self, nonce: Nonce, digest: [u8; 32]) -> Result<(), StoreError> {
        let mut live = self.lock();
        let entry = Entry::begin(self.find(nonce)?.as_ref(), &nonce, digest)?;
        self.durable(&mut live, |txn| put_entry(txn, &nonce, &entry))?;
        self.spools.add(nonce);
        self.running().insert(nonce, Rounds { next: 0, reserved: entry.reserved });
        Ok(())
    }

    fn state(&self, nonce: Nonce) -> Result<Option<JobState>, StoreError> {
        Ok(self.find(nonce)?.map(|entry| entry.state))
    }

    fn jobs(&self) -> Result<Vec<Job>, StoreError> {
        Ok(self.entries()?.into_iter().map(|(nonce, entry)| entry.job(nonce)).collect())
    }

    fn interrupted(&self) -> Result<Vec<Job>, StoreError> {
        let mut jobs = self.jobs()?;
        let live = self.lock();
        jobs.retain(|job| job.state == JobState::Running && live.interrupted.contains(&job.nonce));
        Ok(jobs)
    }

    fn finish(&self, nonce: Nonce, record: &[&[u8]]) -> Result<(), StoreError> {
        let end = |entry: &mut Entry| entry.end(&nonce, JobState::Finished);
        if record.iter().map(|part| part.len()).sum::<usize>() <= PIECE {
            return self.change(nonce, end, |txn| put(txn, &nonce, (Kind::Record as u8, 0), record));
        }
        // In the table it would be copied and zeroed several times, and never give its pages back.
        let _one_at_a_time = self.spools.recording();
        self.must_run(&nonce)?;
        self.spools.put_record(nonce, record)?;
        // If this fails the job may be over all the same, on a disk that has taken it: the file stays.
        self.change(nonce, end, |txn| put(txn, &nonce, (Kind::LongRecord as u8, 0), &[]))
    }

    fn fail(&self, nonce: Nonce, reason: &str) -> Result<(), StoreError> {
        self.change(nonce, |entry| entry.end(&nonce, JobState::Failed(reason.to_owned())), |_| Ok(()))?;
        // What is left of a result that could not be kept.
        self.spools.drop_record(&nonce)
    }

    fn record(&self, nonce: Nonce) -> Result<Option<Vec<u8>>, StoreError> {
        self.entry(nonce)?;
        if self.kept(nonce, Kind::LongRecord, 0)?.is_none() {
            return self.kept(nonce, Kind::Record, 0);
        }
        match self.spools.record(&nonce)? {
            Some(record) => Ok(Some(record)),
            // Dropped since it was asked for.
            None if self.kept(nonce, Kind::LongRecord, 0)?.is_none() => Ok(None),
            None => Err(StoreError::RecordLost { job: short(&nonce), dir: format!("{}.jobs", self.path) }),
        }
    }

    fn advance(&self, nonce: Nonce, round: u32) -> Result<(), StoreError> {
        let after = u64::from(round) + 1;
        if let Some(rounds) = self.running().get_mut(&nonce)
            && (rounds.next..rounds.reserved).contains(&u64::from(round))
        {
            rounds.next = after;
            return Ok(());
        }
        let mut live = self.lock();
        let mut entry = self.entry(nonce)?;
        let next = self.running().get(&nonce).map_or(entry.reserved, |rounds| rounds.next);
        if entry.claim(&nonce, next, round)? == Claim::Extended {
            self.durable(&mut live, |txn| put_entry(txn, &nonce, &entry))?;
        }
        self.running().insert(nonce, Rounds { next: after, reserved: entry.reserved });
        Ok(())
    }

    fn check_opened(&self, nonce: Nonce, check: u32) -> Result<(), StoreError> {
        self.change(nonce, |entry| entry.check_opened(&nonce, check), |_| Ok(()))
    }

    fn check_passed(&self, nonce: Nonce, check: u32) -> Result<(), StoreError> {
        let _one_at_a_time = self.lock();
        let mut entry = self.entry(nonce)?;
        entry.check_passed(&nonce, check)?;
        self.write(Durability::None, |txn| put_entry(txn, &nonce, &entry))
    }

    fn open_check(&self, nonce: Nonce) -> Result<Option<u32>, StoreError> {
        Ok(self.entry(nonce)?.open_check())
    }

    fn put_segment(&self, nonce: Nonce, index: u32, bytes: &[u8]) -> Result<(), StoreError> {
        let spool = self.spool_of_running(&nonce)?;
        let mut files = spool.segments.files();
        self.must_run(&nonce)?;
        match files.get(index.into())? {
            Some(held) if held == bytes => Ok(()),
            Some(_) => Err(StoreError::SegmentDiffers { job: short(&nonce), index }),
            None => files.put(index.into(), &[bytes]),
        }
    }

    fn segment(&self, nonce: Nonce, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.spool(&nonce)?.map_or(Ok(None), |spool| spool.segments.files().get(index.into()))
    }

    fn sync_segments(&self, nonce: Nonce) -> Result<(), StoreError> {
        self.spool(&nonce)?.map_or(Ok(()), |spool| spool.segments.sync())
    }

    fn put_part(&self, nonce: Nonce, part: u64, bytes: &[&[u8]]) -> Result<(), StoreError> {
        let spool = self.spool_of_running(&nonce)?;
        let mut files = spool.parts.files();
        self.must_run(&nonce)?;
        let mut over = lock(&spool.over);
        // Also where a power loss has taken what was written first.
        if files.has(part) || over.contains(&part) {
            // Nor does it stand before what lay in front of it, if this process is killed.
            files.write()?;
            self.write(Durability::None, |txn| put(txn, &nonce, (Kind::Part as u8, part), bytes))?;
            over.insert(part);
            return Ok(());
        }
        files.put(part, bytes)
    }

    fn part(&self, nonce: Nonce, part: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(spool) = self.spool(&nonce)? else { return Ok(None) };
        // What was written over is the newer one.
        if lock(&spool.over).contains(&part) {
            return self.kept(nonce, Kind::Part, part);
        }
        spool.parts.files().get(part)
    }

    fn sync(&self, nonce: Nonce) -> Result<(), StoreError> {
        // What was written over never stands before what lay in front of it. A durable commit takes all earlier ones with it.
        self.spool(&nonce)?.map_or(Ok(()), |spool| spool.parts.sync())?;
        self.durable(&mut self.lock(), |_| Ok(()))
    }

    fn resume(&self, nonce: Nonce) -> Result<(), StoreError> {
        let mut live = self.lock();
        let entry = self.entry(nonce)?;
        entry.resume(&nonce)?;
        live.interrupted.remove(&nonce);
        self.running().insert(nonce, Rounds { next: 0, reserved: entry.reserved });
        Ok(())
    }

    fn begin_attempt(&self, nonce: Nonce, attempt: u32) -> Result<(), StoreError> {
        self.change(nonce, |entry| entry.begin_attempt(&nonce, attempt), |_| Ok(()))?;
        self.running().insert(nonce, Rounds { next: 0, reserved: u64::from(RESERVE) });
        Ok(())
    }

    fn attempt(&self, nonce: Nonce) -> Result<u32, StoreError> {
        Ok(self.entry(nonce)?.attempt)
    }

    fn append_log(&self, nonce: Nonce, index: u32, entry: &[u8]) -> Result<(), StoreError> {
        let spool = self.spool_of_running(&nonce)?;
        let mut files = spool.log.files();
        self.must_run(&nonce)?;
        files.put(index.into(), &[entry])
    }

    fn log_entry(&self, nonce: Nonce, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.spool(&nonce)?.map_or(Ok(None), |spool| spool.log.files().get(index.into()))
    }

    fn drop_segments_below(&self, nonce: Nonce, index: u32) -> Result<(), StoreError> {
        self.spool(&nonce)?.map_or(Ok(()), |spool| spool.segments.files().drop_below(index.into()))
    }

    fn segments(&self, nonce: Nonce) -> Result<Held, StoreError> {
        Ok(self.spool(&nonce)?.map_or_else(Held::default, |spool| spool.segments.files().held()))
    }

    fn forget(&self, nonce: Nonce) -> Result<(), StoreError> {
        let over = |entry: &mut Entry| entry.must_be_over(&nonce);
        self.entry(nonce)?.must_be_over(&nonce)?;
        // First: who still writes holds them.
        self.spools.forget(&nonce)?;
        self.change(nonce, over, |txn| clear(txn, &nonce))
    }

    fn drop_record(&self, nonce: Nonce) -> Result<(), StoreError> {
        let over = |entry: &mut Entry| entry.must_be_over(&nonce);
        self.change(nonce, over, |txn| {
            [Kind::Record, Kind::LongRecord].into_iter().try_for_each(|kind| remove(txn, pieces(&nonce, kind, 0..=0)))
        })?;
        self.spools.drop_record(&nonce)
    }
}

/// A key of [`BULK`].
type Key<'a> = (&'a Nonce, u8, u64, u32);

/// Where the pieces of one kind lie, from the first to the last of these numbers.
fn pieces(nonce: &Nonce, kind: Kind, numbers: RangeInclusive<u64>) -> RangeInclusive<Key<'_>> {
    (nonce, kind as u8, *numbers.start(), 0)..=(nonce, kind as u8, *numbers.end(), u32::MAX)
}

/// Writes the parts one after another, over what is there. What is empty is one empty piece.
fn put(txn: &WriteTransaction, nonce: &Nonce, (kind, number): (u8, u64), parts: &[&[u8]]) -> Result<(), redb::Error> {
    let mut bulk = txn.open_table(BULK)?;
    let mut piece = 0;
    for bytes in parts.iter().flat_map(|part| part.chunks(PIECE)) {
        bulk.insert((nonce, kind, number, piece), bytes)?;
        piece += 1;
    }
    if piece == 0 {
        bulk.insert((nonce, kind, number, 0), &[][..])?;
        piece = 1;
    }
    // What a longer one has left, if there was one.
    let rest = (nonce, kind, number, piece)..=(nonce, kind, number, u32::MAX);
    if bulk.range(rest.clone())?.next().is_some() {
        bulk.retain_in(rest, |_, _| false)?;
    }
    Ok(())
}

fn remove(txn: &WriteTransaction, pieces: RangeInclusive<Key<'_>>) -> Result<(), redb::Error> {
    Ok(txn.open_table(BULK)?.retain_in(pieces, |_, _| false)?)
}

/// Drops what the tables hold of a job but its record.
fn clear(txn: &WriteTransaction, nonce: &Nonce) -> Result<(), redb::Error> {
    remove(txn, pieces(nonce, Kind::Part, 0..=u64::MAX))
}

fn put_entry(txn: &WriteTransaction, nonce: &Nonce, entry: &Entry) -> Result<(), redb::Error> {
    let bytes = postcard::to_stdvec(entry).expect("an entry has no part that postcard cannot write");
    txn.open_table(JOBS)?.insert(nonce, bytes.as_slice())?;
    Ok(())
}

fn failed(path: &str, e: impl Into<redb::Error>) -> StoreError {
    let (path, e) = (path.to_owned(), e.into());
    match e {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse { path },
        redb::Error::PreviousIo => {
            StoreError::Disk { path, cause: "an earlier write failed: mend the disk and restart the node".to_owned() }
        }
        // A file that is too short or has no magic number is no fault of the disk.
        redb::Error::Io(ref io) if !matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            StoreError::Disk { path, cause: io.to_string() }
        }
        e => StoreError::Damaged { path, cause: e.to_string() },
    }
}
