//! What one process leaves, and the next finds.

use super::*;
use crate::store::{Held, JobState, RedbStore, Store};

const A: Nonce = [0xaa; 32];
const B: Nonce = [0xbb; 32];

struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }
    fn open(&self) -> RedbStore {
        RedbStore::open(self.store()).unwrap()
    }
    fn dir(&self) -> PathBuf {
        self.0.path().join("store.jobs")
    }
    fn file(&self, nonce: Nonce, rest: &str) -> PathBuf {
        self.dir().join(format!("{}-{rest}", hex(&nonce)))
    }
    /// The names of all files, with short names of jobs.
    fn names(&self) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let short = |name: String| name.replace(&hex(&A), "A").replace(&hex(&B), "B");
        let mut names: Vec<_> = fs::read_dir(self.dir()).unwrap().map(|entry| short(name(entry))).collect();
        names.sort();
        names
    }
}

#[test]
fn what_a_process_wrote_is_found_by_the_next_which_goes_on() {
    let disk = Disk::new();
    let bytes = |i: u32| vec![i as u8; 1000 * i as usize];
    let store = disk.open();
    store.begin(A, [0; 32]).unwrap();
    for i in 0..3 {
        store.put_segment(A, i, &bytes(i)).unwrap();
        store.put_part(A, i.into(), &[&bytes(i), b"part"]).unwrap();
    }
    store.put_part(A, 1, &[b"written over"]).unwrap();
    store.append_log(A, 0, b"of this process").unwrap();
    store.sync(A).unwrap();
    drop(store);
    let store = disk.open();
    assert_eq!(disk.names(), ["A-parts-0", "A-segments-0"]);
    assert_eq!(store.log_entry(A, 0).unwrap(), None);
    for i in 3..6 {
        store.put_segment(A, i, &bytes(i)).unwrap();
        store.put_part(A, i.into(), &[&bytes(i), b"part"]).unwrap();
    }
    store.put_segment(A, 2, &bytes(2)).unwrap();
    assert!(matches!(store.put_segment(A, 2, &bytes(3)), Err(StoreError::SegmentDiffers { index: 2, .. })));
    store.put_part(A, 2, &[b"this too"]).unwrap();
    store.sync(A).unwrap();
    drop(store);
    let store = disk.open();
    assert_eq!(store.segments(A).unwrap(), Held { count: 6, bytes: 15_000 });
    for i in 0..6 {
        assert_eq!(store.segment(A, i).unwrap().unwrap(), bytes(i));
        let part = match i {
            1 => b"written over".to_vec(),
            2 => b"this too".to_vec(),
            i => [&bytes(i)[..], b"part"].concat(),
        };
        assert_eq!(store.part(A, i.into()).unwrap().unwrap(), part);
    }
}

/// Of a process that is killed.
#[test]
fn a_part_that_is_written_over_never_stands_before_what_lay_in_front_of_it() {
    let disk = Disk::new();
    let store = disk.open();
    store.begin(A, [0; 32]).unwrap();
    store.put_part(A, 0, &[b"checkpoint"]).unwrap();
    store.put_part(A, 1, &[b"words"]).unwrap();
    let written = || fs::read(disk.file(A, "parts-0")).unwrap().ends_with(b"words");
    assert!(!written());
    store.put_part(A, 0, &[b"another"]).unwrap();
    assert!(written());
}

#[test]
fn files_of_jobs_that_are_over_or_gone_are_removed_by_the_next_process() {
    let disk = Disk::new();
    let store = disk.open();
    for job in [A, B] {
        store.begin(job, [0; 32]).unwrap();
        store.put_segment(job, 0, b"segment").unwrap();
        store.put_part(job, 0, &[b"part"]).unwrap();
        store.put_part(job, 0, &[b"another"]).unwrap();
    }
    store.fail(B, "a reason").unwrap();
    drop(store);
    fs::write(disk.file([0xcc; 32], "segments-5"), b"of another store").unwrap();
    // Nobody's here.
    fs::write(disk.dir().join("notes-parts-1"), b"").unwrap();
    fs::write(disk.file(A, "parts-+1"), b"").unwrap();
    let store = disk.open();
    assert_eq!(disk.names(), ["A-parts-+1", "A-parts-0", "A-segments-0", "notes-parts-1"]);
    assert_eq!((store.segments(A).unwrap().count, store.segment(B, 0).unwrap()), (1, None));
    assert_eq!((store.part(A, 0).unwrap().unwrap(), store.part(B, 0).unwrap()), (b"another".to_vec(), None));
    store.finish(A, &[]).unwrap();
    store.forget(A).unwrap();
    assert_eq!(disk.names(), ["A-parts-+1", "notes-parts-1"]);
}

#[test]
fn a_long_result_is_a_file_until_it_is_dropped() {
    let disk = Disk::new();
    let store = disk.open();
    let (long, short) = (vec![7; 100_000], vec![8; 1000]);
    for job in [A, B] {
        store.begin(job, [0; 32]).unwrap();
        store.put_part(job, 0, &[b"part"]).unwrap();
    }
    store.finish(A, &[&short, &long]).unwrap();
    store.finish(B, &[&short]).unwrap();
    store.forget(A).unwrap();
    let whole = [&short[..], &long].concat();
    for _ in 0..2 {
        let again = store.finish(A, &[&long]).unwrap_err();
        assert!(matches!(again, StoreError::Over { .. }), "{again}");
        assert!(store.record(A).unwrap().unwrap() == whole && store.record(B).unwrap().unwrap() == short);
    }
    drop(store);
    let store = disk.open();
    assert_eq!(disk.names(), ["A-record-0"]);
    assert!(store.record(A).unwrap().unwrap() == whole && store.record(B).unwrap().unwrap() == short);
    store.drop_record(A).unwrap();
    assert_eq!((store.record(A).unwrap(), disk.names().len()), (None, 0));
    drop(store);
    assert_eq!(disk.open().record(A).unwrap(), None);
}

#[test]
fn a_long_result_counts_when_its_job_is_over_and_while_it_is_whole() {
    let disk = Disk::new();
    let store = disk.open();
    for job in [A, B] {
        store.begin(job, [0; 32]).unwrap();
    }
    store.finish(A, &[&[7; 100_000]]).unwrap();
    drop(store);
    let file = disk.file(A, "record-0");
    let whole = fs::read(&file).unwrap();
    // That of a process that died before it could say that the job is over.
    fs::copy(&file, disk.file(B, "record-0")).unwrap();
    let store = disk.open();
    assert_eq!(disk.names(), ["A-record-0"]);
    assert_eq!((store.state(B).unwrap(), store.record(B).unwrap()), (Some(JobState::Running), None));
    store.finish(B, &[&[9; 100_000]]).unwrap();
    assert!(store.record(B).unwrap().unwrap() == [9; 100_000]);
    drop(store);
    for cut in [0, 4, 30, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        let store = disk.open();
        let error = store.record(A).unwrap_err();
        assert!(matches!(&error, StoreError::RecordLost { .. }), "{error}");
        assert!(error.to_string().contains("store.jobs") && !error.to_string().contains('\n'), "{error}");
        assert!(store.record(B).unwrap().unwrap() == [9; 100_000]);
    }
    fs::remove_file(&file).unwrap();
    let store = disk.open();
    assert!(matches!(store.record(A).unwrap_err(), StoreError::RecordLost { .. }));
    store.drop_record(A).unwrap();
    assert_eq!(store.record(A).unwrap(), None);
}

#[test]
fn a_directory_that_fails_is_named_in_one_line() {
    let disk = Disk::new();
    let store = disk.open();
    store.begin(A, [0; 32]).unwrap();
    let (dir, away) = (disk.dir(), disk.0.path().join("away"));
    fs::rename(&dir, &away).unwrap();
    let error = store.put_segment(A, 0, b"segment").unwrap_err();
    assert!(matches!(&error, StoreError::Disk { path, .. } if path.ends_with("-segments-0")), "{error}");
    assert!(!error.to_string().contains('\n'));
    fs::rename(&away, &dir).unwrap();
    store.put_segment(A, 0, b"segment").unwrap();
    drop(store);
    assert_eq!(disk.open().segment(A, 0).unwrap().unwrap(), b"segment");
    fs::rename(&dir, &away).unwrap();
    // All of the job is lost, and nothing of what must never be forgotten.
    let store = disk.open();
    assert_eq!((store.segments(A).unwrap(), store.interrupted().unwrap().len()), (Held::default(), 1));
    drop(store);
    fs::remove_dir(&dir).unwrap();
    fs::write(&dir, b"a file in its place").unwrap();
    let error = RedbStore::open(disk.store()).err().unwrap();
    assert!(matches!(&error, StoreError::Disk { path, .. } if path.ends_with(".jobs")), "{error}");
}
