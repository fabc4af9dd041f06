//! A file that is written from its beginning to its end: bytes wait in a block of memory until it is full, or until
//! they are to outlive the process.
//!
//! What is seldom read again goes to the disk past the system's page cache, where the system can do that: with a
//! page for each 4 KiB, writing was half of the system time that keeping the words of a training took. The disk is
//! not waited for then: one block is written while the next fills.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::private;

/// How many bytes fill a block.
pub(super) const BLOCK: usize = 1 << 20;
/// Past the page cache, addresses and places in the file are multiples of this.
const ALIGN: usize = 4096;
/// Through the page cache, longer records do not wait: they would only be copied once more.
const LONG: usize = 64 << 10;

pub(super) struct Out {
    path: PathBuf,
    file: Arc<File>,
    /// past the page cache
    past: bool,
    writer: Option<Writer>,
    /// what comes before `block`, while it is written
    flight: Option<Flight>,
    /// what comes next in the file
    block: Block,
    /// what lies before outlives the process, once nothing is under way
    written: u64,
    /// a write has failed, and may have left something behind the end
    ragged: bool,
}

/// A block on its way to the disk.
struct Flight {
    block: Arc<Block>,
    /// a thread has it; else it has failed, and is tried again
    given: bool,
}

/// A thread that writes blocks, one at a time, until nobody has any more.
struct Writer {
    blocks: Sender<Arc<Block>>,
    written: Receiver<io::Result<()>>,
}

impl Writer {
    fn start(file: Arc<File>) -> io::Result<Self> {
        let ((blocks, full), (tell, written)) = (channel::<Arc<Block>>(), channel());
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            for block in full {
                let written = write_at(&file, block.start, &[block.waiting()]);
                // It is used again.
                drop(block);
                if tell.send(written).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { blocks, written })
    }
}

impl Out {
    /// Makes a file that is not there. `past` says that few of its bytes are going to be read.
    pub(super) fn create(path: &Path, past: bool) -> io::Result<Self> {
        let (file, past) = open(private(true).create_new(true), path, past)?;
        let (path, block) = (path.to_owned(), Block::new(0));
        Ok(Self { path, file: Arc::new(file), past, writer: None, flight: None, block, written: 0, ragged: false })
    }

    /// Where the next byte goes.
    pub(super) fn end(&self) -> u64 {
        self.block.end()
    }

    /// Appends these bytes, one after another, or nothing.
    pub(super) fn append(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if len > BLOCK || (!self.past && len > LONG) {
            return self.append_long(parts, len);
        }
        let end = self.end();
        for part in parts {
            let (now, later) = part.split_at(part.len().min(self.block.room()));
            self.block.bytes.extend_from_slice(now);
            if self.block.room() == 0 {
                if let Err(error) = self.launch() {
                    self.block.cut(end);
                    return Err(error);
                }
                self.block.bytes.extend_from_slice(later);
            }
        }
        Ok(())
    }

    /// A record that is written at once, but for its last bytes where whole pages are.
    fn append_long(&mut self, parts: &[&[u8]], len: usize) -> io::Result<()> {
        self.write()?;
        let (end, ragged) = (self.end(), self.ragged);
        if !self.past {
            self.ragged = true;
            write_at(&self.file, end, parts)?;
            self.ragged = ragged;
            self.written = end + len as u64;
            self.block.clear(self.written);
            return Ok(());
        }
        // Less than a page.
        let (start, before) = (self.block.start, self.block.waiting().to_vec());
        let mut append = || {
            for part in parts {
                let mut rest = *part;
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(self.block.room()));
                    self.block.bytes.extend_from_slice(now);
                    rest = later;
                    if self.block.room() == 0 {
                        self.put(BLOCK)?;
                        self.block.clear(self.block.end());
                    }
                }
            }
            Ok(())
        };
        let appended = append();
        if appended.is_err() {
            self.ragged = true;
            self.block.clear(start);
            self.block.bytes.extend_from_slice(&before);
        }
        appended
    }

    /// The block is full: it is written, and another one fills.
    fn launch(&mut self) -> io::Result<()> {
        let next = self.block.end();
        let empty = self.land()?;
        if !self.past {
            self.put(BLOCK)?;
            self.block.clear(next);
            self.written = next;
            return Ok(());
        }
        let mut empty = empty.unwrap_or_else(|| Block::new(next));
        empty.clear(next);
        let block = Arc::new(std::mem::replace(&mut self.block, empty));
        if self.writer.is_none() {
            self.writer = Writer::start(Arc::clone(&self.file)).ok();
        }
        let given = self.writer.as_ref().is_some_and(|writer| writer.blocks.send(Arc::clone(&block)).is_ok());
        self.flight = Some(Flight { block, given });
        self.written = next;
        Ok(())
    }

    /// Waits for the block that is under way, and gives it back.
    fn land(&mut self) -> io::Result<Option<Block>> {
        let Some(flight) = &mut self.flight else { return Ok(None) };
        let (block, given) = (Arc::clone(&flight.block), std::mem::take(&mut flight.given));
        let told = self.writer.as_ref().filter(|_| given).and_then(|writer| writer.written.recv().ok());
        let mut written = told.unwrap_or_else(|| write_at(&self.file, block.start, &[block.waiting()]));
        if self.turn_to_the_cache(&written)? {
            written = write_at(&self.file, block.start, &[block.waiting()]);
        }
        self.ragged |= written.is_err();
        written?;
        self.flight = None;
        Ok(Arc::into_inner(block))
    }

    /// Whether a write has failed because its like cannot go past the page cache: that is a matter of the file system, and
    /// of the device. From then on none does.
    fn turn_to_the_cache(&mut self, written: &io::Result<()>) -> io::Result<bool> {
        let kinds = [ErrorKind::InvalidInput, ErrorKind::Unsupported];
        let refused = written.as_ref().is_err_and(|error| kinds.contains(&error.kind()));
        if !refused || !self.past {
            return Ok(false);
        }
        let (file, past) = open(&mut private(false), &self.path, false)?;
        (self.file, self.past, self.writer) = (Arc::new(file), past, None);
        Ok(true)
    }

    /// Nothing waits any more, unless this fails: then all of it does.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.land()?;
        let end = self.end();
        if self.written < end {
            self.write_rest(end)?;
        }
        if self.ragged {
            // It would hide all that comes behind it.
            self.file.set_len(end)?;
            self.ragged = false;
        }
        Ok(())
    }

    /// Writes the block, which is not full.
    fn write_rest(&mut self, end: u64) -> io::Result<()> {
        let len = self.block.waiting().len();
        self.put(len)?;
        // A page that is not full is written again with what follows.
        let kept = if self.past { len % ALIGN } else { 0 };
        let rest = self.block.waiting()[len - kept..].to_vec();
        self.block.clear(end - kept as u64);
        self.block.bytes.extend_from_slice(&rest);
        self.written = end;
        Ok(())
    }

    /// Writes so many bytes of the block. Past the cache whole pages are, and the file is cut behind the bytes.
    fn put(&mut self, len: usize) -> io::Result<()> {
        let ragged = std::mem::replace(&mut self.ragged, true);
        self.try_to_put(len)?;
        self.ragged = ragged;
        Ok(())
    }

    fn try_to_put(&mut self, len: usize) -> io::Result<()> {
        let (start, skip) = (self.block.start, self.block.skip);
        if self.past {
            let whole = len.next_multiple_of(ALIGN);
            self.block.bytes.resize(skip + whole, 0);
            let written = write_at(&self.file, start, &[self.block.waiting()]);
            self.block.bytes.truncate(skip + len);
            if !self.turn_to_the_cache(&written)? {
                return written.and_then(|()| if whole > len { self.file.set_len(self.end()) } else { Ok(()) });
            }
        }
        write_at(&self.file, start, &[self.block.waiting()])
    }

    /// The bytes from there on, as they are in the file now, or wait.
    pub(super) fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let waits = self.flight.iter().map(|flight| &*flight.block).chain([&self.block]);
        let first = self.flight.as_ref().map_or(self.block.start, |flight| flight.block.start);
        let written = usize::try_from(first.saturating_sub(at)).unwrap_or(usize::MAX).min(len);
        let mut bytes = if written > 0 { read_at(&self.path, at, written)? } else { Vec::with_capacity(len) };
        for block in waits {
            let from = (at + bytes.len() as u64).saturating_sub(block.start) as usize;
            let rest = block.waiting().get(from..).unwrap_or_default();
            bytes.extend_from_slice(&rest[..rest.len().min(len - bytes.len())]);
        }
        if bytes.len() == len { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

/// Bytes of a file that are in memory, at an aligned address.
struct Block {
    /// it is not moved, and behind `skip` bytes there is room for [`BLOCK`]
    bytes: Vec<u8>,
    skip: usize,
    /// where in the file they go
    start: u64,
}

impl Block {
    fn new(start: u64) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(ALIGN + BLOCK);
        let skip = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        bytes.resize(skip, 0);
        Self { bytes, skip, start }
    }

    fn waiting(&self) -> &[u8] {
        &self.bytes[self.skip..]
    }

    fn room(&self) -> usize {
        BLOCK - self.waiting().len()
    }

    fn end(&self) -> u64 {
        self.start + self.waiting().len() as u64
    }

    /// Forgets what comes from there on.
    fn cut(&mut self, end: u64) {
        self.bytes.truncate(self.skip + (end - self.start) as usize);
    }

    /// What comes next goes there.
    fn clear(&mut self, start: u64) {
        self.start = start;
        self.cut(start);
    }
}

/// So many bytes of a file.
pub(super) fn read_at(path: &Path, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let (mut file, mut bytes) = (File::open(path)?, vec![0; len]);
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file past the page cache, if that is wanted and can be, and says whether it is.
fn open(options: &mut OpenOptions, path: &Path, past: bool) -> io::Result<(File, bool)> {
    #[cfg(target_os = "linux")]
    if past {
        use std::os::unix::fs::OpenOptionsExt;
        match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (file, true)),
        }
        // Some systems refuse it once they have made the file.
        if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
            options.create_new(false);
        }
    }
    let _ = past;
    options.open(path).map(|file| (file, false))
}

/// Writes these one after another.
#[cfg(unix)]
fn write_at(file: &File, mut at: u64, parts: &[&[u8]]) -> io::Result<()> {
    for part in parts {
        std::os::unix::fs::FileExt::write_all_at(file, part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// The same; nothing is under way where nothing goes past the page cache.
#[cfg(not(unix))]
fn write_at(mut file: &File, at: u64, parts: &[&[u8]]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    parts.iter().try_for_each(|part| io::Write::write_all(&mut file, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len as u32).map(|i| (i / 7) as u8).collect()
    }

    /// Where a block cannot go past the page cache after all, here since its address is odd.
    #[test]
    fn what_the_system_refuses_goes_through_its_cache() {
        for step in [60_000, 100_000, 7 * BLOCK] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let mut out = Out::create(&path, true).unwrap();
            out.block.skip += 1;
            out.block.bytes.push(0);
            let bytes = bytes(6 * BLOCK + 5);
            let mut end = 0;
            for chunk in bytes.chunks(step) {
                out.append(&[chunk]).unwrap();
                end += chunk.len();
                for at in (0..end).step_by(300_000) {
                    assert!(out.read(at as u64, end - at).unwrap() == bytes[at..end], "{step}: {at} of {end}");
                }
            }
            out.write().unwrap();
            assert!(!out.past && std::fs::read(&path).unwrap() == bytes);
        }
    }

    /// Whatever a write has left that failed.
    #[test]
    fn a_file_ends_where_what_was_appended_ends() {
        for past in [true, false] {
            for len in [5, 70_000, 2 * BLOCK + 5] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("file");
                let mut out = Out::create(&path, past).unwrap();
                let bytes = bytes(3 * BLOCK);
                out.append(&[&bytes[..100_000]]).unwrap();
                out.write().unwrap();
                // It takes nothing.
                let file = std::mem::replace(&mut out.file, Arc::new(File::open(&path).unwrap()));
                let failed = out.append(&[&bytes[..len]]);
                if failed.is_ok() {
                    assert!(out.write().is_err());
                }
                let end = 100_000 + if failed.is_ok() { len } else { 0 };
                assert_eq!(out.end(), end as u64);
                // As if it had taken some.
                let mut rest = OpenOptions::new().append(true).open(&path).unwrap();
                io::Write::write_all(&mut rest, &[1; 3 * BLOCK]).unwrap();
                out.file = file;
                for part in [&bytes[..66_000], b"short"] {
                    out.append(&[part]).unwrap();
                }
                out.write().unwrap();
                let parts = [&bytes[..100_000], &bytes[..end - 100_000], &bytes[..66_000], b"short"];
                assert!(std::fs::read(&path).unwrap() == parts.concat(), "{past} {len}");
            }
        }
    }

    /// A block that was given to the writer is there, in its place, until the disk has it.
    #[test]
    fn a_block_that_failed_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut out = Out::create(&path, true).unwrap();
        let bytes = bytes(3 * BLOCK);
        let file = std::mem::replace(&mut out.file, Arc::new(File::open(&path).unwrap()));
        let mut end = 0;
        for chunk in bytes.chunks(50_000) {
            let appended = out.append(&[chunk]);
            end += if appended.is_ok() { chunk.len() } else { 0 };
            assert!(out.end() == end as u64 && out.read(0, end).unwrap() == bytes[..end]);
            if appended.is_err() {
                break;
            }
        }
        assert!(end < bytes.len(), "it has failed");
        assert!(out.write().is_err() && out.read(0, end).unwrap() == bytes[..end]);
        (out.file, out.writer) = (file, None);
        out.write().unwrap();
        out.append(&[&bytes[end..]]).unwrap();
        out.write().unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
}
