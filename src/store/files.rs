//! Files that only grow: what a job keeps while it runs, appended as it comes.
//!
//! It is many times what a node must never forget, and serves nobody but this process and one that takes the job up
//! again, which checks it once more. So it needs no transactions, and no hash that an enemy could not forge: what a power
//! loss has torn counts as never written. A new file is begun when one is full, so that what is used can be removed while the job runs.
//!
//! Records wait in memory until there are many, or until they are to be on disk. A process that is killed forgets
//! those that wait, as if it had ended earlier.
//!
//! ```text
//! 8 bytes      MAGIC, its last byte the version
//! then, for each record:
//! 8 bytes      its number
//! 4 bytes      its length in bytes
//! 4 bytes      CRC-32 of magic, number and length, and of the record where nothing else proves it whole
//! the rest     the record
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use self::out::Out;
use super::{Held, StoreError, witness::private};
use crate::keys::sync_parent;

mod out;

const MAGIC: [u8; 8] = *b"bvdjob\0\x02";
/// Number, length and check.
const HEAD: u64 = 8 + 4 + 4;
/// A file that holds so much is full.
const FULL: u64 = 32 << 20;

/// What the records of a series are like.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// the caller can tell whether one is whole
    pub(super) proven: bool,
    /// most are read soon
    pub(super) read: bool,
}

/// One series of files, for whoever writes and whoever waits for the disk.
pub(super) struct Series {
    files: Mutex<Files>,
    /// held while the disk is waited for: who comes second waits as well
    syncing: Mutex<()>,
}

impl Series {
    /// Files whose names begin like this; none are there.
    pub(super) fn new(path: PathBuf, manner: Manner) -> Self {
        let files = Files {
            path,
            manner,
            places: BTreeMap::new(),
            counts: BTreeMap::new(),
            last: None,
            torn: false,
            unsynced: BTreeSet::new(),
            failed: false,
        };
        Self { files: Mutex::new(files), syncing: Mutex::default() }
    }

    /// Held by who writes, from before it asks whether the job runs.
    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }

    /// What was put before is on disk when this returns. Others may read and write while the disk is waited for.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.syncing);
        let (written, path) = {
            let mut files = self.files();
            files.write()?;
            if files.failed {
                // A second try may succeed without what the first has lost.
                let cause = "the disk has not taken what was written before; start the agent anew".to_owned();
                return Err(StoreError::Disk { path: files.path.display().to_string(), cause });
            }
            (std::mem::take(&mut files.unsynced), files.path.clone())
        };
        let file = |number: u32| numbered(&path, number);
        let synced = written.iter().try_for_each(|number| {
            let path = file(*number);
            match private(false).open(&path).and_then(|file| file.sync_data()).and_then(|()| sync_parent(&path)) {
                // What it held is not needed any more.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                synced => synced.map_err(|e| disk(&path, &e)),
            }
        });
        self.files().failed |= synced.is_err();
        synced
    }
}

/// Where a record lies.
#[derive(Clone, Copy)]
struct Place {
    file: u32,
    at: u64,
    len: u64,
}

/// The file that is written.
struct Last {
    number: u32,
    out: Out,
}

/// The files, and what is in them.
pub(super) struct Files {
    /// without the number of a file
    path: PathBuf,
    manner: Manner,
    places: BTreeMap<u64, Place>,
    /// how many records each file holds that are still needed
    counts: BTreeMap<u32, u64>,
    last: Option<Last>,
    /// one of them ends in the middle of a record
    torn: bool,
    unsynced: BTreeSet<u32>,
    /// the disk has refused to take something, and may have dropped it
    failed: bool,
}

impl Files {
    fn file(&self, number: u32) -> PathBuf {
        numbered(&self.path, number)
    }

    /// Notes the records of a file that an earlier process wrote, up to the first that is not whole. What lies behind
    /// that, in this and the next files, counts as never written, and goes. Files come in the
    /// order of their numbers; none of them is written to any more.
    pub(super) fn look_through(&mut self, number: u32) -> Result<(), StoreError> {
        let path = self.file(number);
        if self.torn {
            return fs::remove_file(&path).map_err(|e| disk(&path, &e));
        }
        // An empty one holds its number.
        self.counts.insert(number, 0);
        // That process may not have waited for the disk.
        self.unsynced.insert(number);
        let mut look = || {
            let opened = private(false).open(&path)?;
            let whole = opened.metadata()?.len();
            let (mut file, mut magic, mut at) = (BufReader::new(&opened), [0; 8], 0);
            if whole >= MAGIC.len() as u64 {
                file.read_exact(&mut magic)?;
                at = if magic == MAGIC { MAGIC.len() as u64 } else { 0 };
            }
            while at > 0 && whole - at >= HEAD {
                let (mut key, mut len, mut check) = ([0; 8], [0; 4], [0; 4]);
                file.read_exact(&mut key)?;
                file.read_exact(&mut len)?;
                file.read_exact(&mut check)?;
                let place = Place { file: number, at: at + HEAD, len: u32::from_le_bytes(len).into() };
                if place.len > whole - place.at {
                    break;
                }
                let mut sum = head(key, len);
                if !self.manner.proven {
                    io::copy(&mut (&mut file).take(place.len), &mut Summing(&mut sum))?;
                }
                if check != sum.finalize().to_le_bytes() {
                    break;
                }
                self.note(u64::from_le_bytes(key), place);
                at = place.at + place.len;
                file.seek(SeekFrom::Start(at))?;
            }
            if at < whole {
                self.torn = true;
                opened.set_len(at)?;
            }
            Ok(())
        };
        look().map_err(|e| disk(&path, &e))
    }

    /// The newest that stands for a number is the one.
    fn note(&mut self, key: u64, place: Place) {
        *self.counts.entry(place.file).or_default() += 1;
        if let Some(before) = self.places.insert(key, place) {
            self.counts.entry(before.file).and_modify(|count| *count -= 1);
        }
    }

    pub(super) fn has(&self, key: u64) -> bool {
        self.places.contains_key(&key)
    }

    /// Appends a record of these parts, in place of what had its number.
    pub(super) fn put(&mut self, key: u64, parts: &[&[u8]]) -> Result<(), StoreError> {
        let number = match &self.last {
            Some(last) if last.out.end() < FULL => last.number,
            _ => {
                // It is not written to any more.
                self.write()?;
                self.counts.last_key_value().map_or(0, |(number, _)| number + 1)
            }
        };
        let place = self.append(number, key, parts).map_err(|e| disk(&self.file(number), &e))?;
        self.note(key, place);
        Ok(())
    }

    fn append(&mut self, number: u32, key: u64, parts: &[&[u8]]) -> io::Result<Place> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let len = u32::try_from(len).map_err(|_| io::Error::other(format!("a record of {len} bytes is too long")))?;
        if self.last.as_ref().is_none_or(|last| last.number != number) {
            let mut out = Out::create(&self.file(number), !self.manner.read)?;
            self.counts.insert(number, 0);
            out.append(&[&MAGIC])?;
            self.last = Some(Last { number, out });
        }
        self.unsynced.insert(number);
        let out = &mut self.last.as_mut().expect("made above").out;
        let (key, place) = (key.to_le_bytes(), Place { file: number, at: out.end() + HEAD, len: len.into() });
        let mut sum = head(key, len.to_le_bytes());
        if !self.manner.proven {
            for part in parts {
                sum.update(part);
            }
        }
        let (len, sum) = (len.to_le_bytes(), sum.finalize().to_le_bytes());
        out.append(&[&[&key[..], &len, &sum], parts].concat())?;
        Ok(place)
    }

    /// Nothing waits any more: what was put before outlives the process.
    pub(super) fn write(&mut self) -> Result<(), StoreError> {
        let Some(last) = &mut self.last else { return Ok(()) };
        let written = last.out.write();
        written.map_err(|e| disk(&numbered(&self.path, last.number), &e))
    }

    /// A record that waits, or as it is on disk now; `None` if it is not there, or not whole.
    pub(super) fn get(&self, key: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(Place { file, at, len }) = self.places.get(&key).copied() else { return Ok(None) };
        let path = self.file(file);
        let read = || match &self.last {
            Some(last) if last.number == file => last.out.read(at, len as usize),
            _ => out::read_at(&path, at, len as usize),
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => Ok(None),
            Err(e) => Err(disk(&path, &e)),
        }
    }

    pub(super) fn held(&self) -> Held {
        Held { count: self.places.len() as u64, bytes: self.places.values().map(|place| place.len).sum() }
    }

    /// Drops the records below a number, and removes the files that hold no more.
    pub(super) fn drop_below(&mut self, key: u64) -> Result<(), StoreError> {
        let kept = self.places.split_off(&key);
        self.keep(kept)
    }

    /// Drops all.
    pub(super) fn clear(&mut self) -> Result<(), StoreError> {
        self.keep(BTreeMap::new())
    }

    /// What is left are these; what there is beside them goes.
    fn keep(&mut self, kept: BTreeMap<u64, Place>) -> Result<(), StoreError> {
        for place in std::mem::replace(&mut self.places, kept).values() {
            self.counts.entry(place.file).and_modify(|count| *count -= 1);
        }
        let empty: Vec<u32> = self.counts.iter().filter(|(_, count)| **count == 0).map(|(number, _)| *number).collect();
        for number in empty {
            let path = self.file(number);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(disk(&path, &e)),
                _ => {}
            }
            self.last.take_if(|last| last.number == number);
            self.counts.remove(&number);
            self.unsynced.remove(&number);
        }
        Ok(())
    }
}

/// What still waits is for the next process, as what is in the tables.
impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!(%error, "the last that a job has kept is lost");
        }
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    PathBuf::from(format!("{}-{number}", path.display()))
}

/// What is summed in front of a record.
fn head(key: [u8; 8], len: [u8; 4]) -> crc32fast::Hasher {
    let mut sum = crc32fast::Hasher::new();
    [&MAGIC[..], &key, &len].iter().for_each(|bytes| sum.update(bytes));
    sum
}

/// Sums what is written to it.
struct Summing<'a>(&'a mut crc32fast::Hasher);

impl Write for Summing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nothing behind these locks is left half-changed where others see it, so a panic elsewhere harms nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn disk(path: &Path, e: &io::Error) -> StoreError {
    StoreError::Disk { path: path.display().to_string(), cause: e.to_string() }
}

#[cfg(test)]
mod tests;
