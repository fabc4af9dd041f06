//! One battery for every store, then the attacks on the one that is on disk.

use super::*;

const A: Nonce = [1; 32];
const B: Nonce = [2; 32];
const DIGEST: [u8; 32] = [9; 32];

fn nonces_are_burnt_by_begin(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    assert_eq!(store.state(A).unwrap(), Some(JobState::Running));
    let before = store.jobs().unwrap();
    assert!(matches!(store.begin(A, DIGEST), Err(StoreError::AlreadyStarted { .. })));
    assert!(matches!(store.begin(A, [8; 32]), Err(StoreError::NonceReused { .. })));
    assert_eq!(store.jobs().unwrap(), before, "a refused begin changes nothing");
    store.begin(B, DIGEST).unwrap();
    store.fail(A, "a peer left").unwrap();
    store.finish(B, &[b"record"]).unwrap();
    for nonce in [A, B] {
        assert!(matches!(store.begin(nonce, DIGEST), Err(StoreError::AlreadyStarted { .. })));
        assert!(matches!(store.begin(nonce, [8; 32]), Err(StoreError::NonceReused { .. })));
    }
    let jobs = store.jobs().unwrap();
    assert_eq!(jobs.iter().map(|job| (job.nonce, job.digest)).collect::<Vec<_>>(), [(A, DIGEST), (B, DIGEST)]);
    assert_eq!(jobs[0].state, JobState::Failed("a peer left".into()));
    assert!(store.interrupted().unwrap().is_empty(), "jobs of this opening are not interrupted");
}

fn an_outcome_never_changes(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    assert_eq!(store.record(A).unwrap(), None);
    store.finish(A, &[b"sealed"]).unwrap();
    assert_eq!(store.record(A).unwrap().unwrap(), b"sealed");
    assert!(matches!(store.finish(A, &[b"other"]), Err(StoreError::Over { .. })));
    assert!(matches!(store.fail(A, "no"), Err(StoreError::Over { .. })));
    assert!(matches!(store.advance(A, 0), Err(StoreError::Over { .. })));
    assert!(matches!(store.check_opened(A, 0), Err(StoreError::Over { .. })));
    assert!(matches!(store.put_segment(A, 0, b"x"), Err(StoreError::Over { .. })));
    assert_eq!(store.record(A).unwrap().unwrap(), b"sealed");
    assert_eq!(store.state(A).unwrap(), Some(JobState::Finished));
}

fn a_round_is_used_once(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    store.begin(B, DIGEST).unwrap();
    let used = |round| matches!(store.advance(A, round), Err(StoreError::UsedMaterial { round: r, .. }) if r == round);
    for round in (0..3).chain([7, RESERVE - 1, RESERVE, 3 * RESERVE]) {
        store.advance(A, round).unwrap();
        assert!(used(round) && used(0) && used(round.saturating_sub(1)));
    }
    store.advance(B, 0).unwrap(); // every job has its own cursor
    store.advance(A, u32::MAX).unwrap();
    assert!(used(u32::MAX) && used(5));
}

fn checks_go_one_at_a_time(store: &dyn Store) {
    let refused = |result| matches!(result, Err(StoreError::CheckOrder { .. }));
    store.begin(A, DIGEST).unwrap();
    assert_eq!(store.open_check(A).unwrap(), None);
    assert!(refused(store.check_passed(A, 0)), "passed without having been opened");
    store.check_opened(A, 0).unwrap();
    assert_eq!(store.open_check(A).unwrap(), Some(0));
    assert!(refused(store.check_opened(A, 0)), "opened twice");
    assert!(refused(store.check_opened(A, 1)), "two at once");
    assert!(refused(store.check_passed(A, 1)), "another one passed");
    store.check_passed(A, 0).unwrap();
    assert_eq!(store.open_check(A).unwrap(), None);
    assert!(refused(store.check_passed(A, 0)) && refused(store.check_opened(A, 0)), "once more");
    store.check_opened(A, 5).unwrap();
    assert!(refused(store.check_opened(A, 6)));
    store.check_passed(A, 5).unwrap();
    assert!(refused(store.check_opened(A, 4)), "back");
}

fn segments_come_back_and_are_dropped(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    store.begin(B, DIGEST).unwrap();
    for index in [0, 1, 2, u32::MAX] {
        store.put_segment(A, index, &vec![index as u8; 1000]).unwrap();
    }
    store.put_segment(B, 1, b"of another job").unwrap();
    store.put_segment(A, 1, &[1; 1000]).unwrap();
    assert!(matches!(store.put_segment(A, 1, &[7; 1000]), Err(StoreError::SegmentDiffers { index: 1, .. })));
    assert_eq!(store.segment(A, 1).unwrap().unwrap(), [1; 1000]);
    assert_eq!(store.segment(A, 3).unwrap(), None);
    assert_eq!(store.segments(A).unwrap(), Held { count: 4, bytes: 4000 });
    store.sync_segments(A).unwrap();
    store.drop_segments_below(A, 2).unwrap();
    assert_eq!(store.segments(A).unwrap(), Held { count: 2, bytes: 2000 });
    assert_eq!(store.segment(A, 1).unwrap(), None);
    assert!(store.segment(A, 2).unwrap().is_some());
    assert_eq!(store.segments(B).unwrap(), Held { count: 1, bytes: 14 });
    // A place that was dropped is free again.
    store.put_segment(A, 1, &[7; 1000]).unwrap();
    assert_eq!(store.segment(A, 1).unwrap().unwrap(), [7; 1000]);
    store.drop_segments_below(A, u32::MAX).unwrap();
    store.sync_segments(A).unwrap();
    assert_eq!(store.segments(A).unwrap(), Held { count: 1, bytes: 1000 });
    store.finish(A, &[b"record"]).unwrap();
    store.drop_segments_below(A, 9).unwrap();
    assert!(matches!(store.put_segment(A, 5, b"late"), Err(StoreError::Over { .. })));
    assert_eq!(store.segment(A, u32::MAX).unwrap().unwrap(), [255; 1000]);
    store.forget(A).unwrap();
    assert_eq!((store.segment(A, u32::MAX).unwrap(), store.segments(A).unwrap()), (None, Held::default()));
    assert!(matches!(store.put_segment(A, 5, b"late"), Err(StoreError::Over { .. })));
    store.sync_segments(A).unwrap();
    store.drop_segments_below(A, 9).unwrap();
}

fn a_log_comes_back_until_it_is_forgotten(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    store.begin(B, DIGEST).unwrap();
    for index in [0, 1, u32::MAX] {
        store.append_log(A, index, &vec![index as u8; 1000]).unwrap();
    }
    store.append_log(B, 1, b"of another job").unwrap();
    assert_eq!(store.log_entry(A, u32::MAX).unwrap().unwrap(), [255; 1000]);
    assert_eq!(store.log_entry(A, 2).unwrap(), None);
    store.fail(A, "a reason").unwrap();
    assert!(matches!(store.append_log(A, 2, b""), Err(StoreError::Over { .. })));
    assert!(matches!(store.append_log([9; 32], 2, b""), Err(StoreError::Unknown { .. })));
    store.forget(A).unwrap();
    assert_eq!(store.log_entry(A, 0).unwrap(), None);
    assert_eq!(store.log_entry(B, 1).unwrap().unwrap(), b"of another job");
}

fn parts_come_back_until_they_are_forgotten(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    store.begin(B, DIGEST).unwrap();
    for part in [0, 1, u64::from(u32::MAX) + 1, u64::MAX] {
        store.put_part(A, part, &[&part.to_le_bytes()]).unwrap();
    }
    store.put_part(A, 1, &[b"another"]).unwrap();
    store.put_part(B, 1, &[b"of another job"]).unwrap();
    store.sync(A).unwrap();
    assert_eq!(store.part(A, u64::MAX).unwrap().unwrap(), [255; 8]);
    assert_eq!(store.part(A, 1).unwrap().unwrap(), b"another");
    assert_eq!(store.part(A, 2).unwrap(), None);
    store.finish(A, &[b"record"]).unwrap();
    // Others may still ask for it.
    assert_eq!(store.part(A, 0).unwrap().unwrap(), [0; 8]);
    assert!(matches!(store.put_part(A, 2, &[b""]), Err(StoreError::Over { .. })));
    assert!(matches!(store.put_part([9; 32], 2, &[b""]), Err(StoreError::Unknown { .. })));
    store.forget(A).unwrap();
    assert_eq!(store.part(A, 0).unwrap(), None);
    assert_eq!(store.part(A, u64::MAX).unwrap(), None);
    assert_eq!(store.part(B, 1).unwrap().unwrap(), b"of another job");
}

/// Nothing is lost, left over or put together wrongly, wherever long bytes are cut.
fn long_bytes_come_back_whole(store: &dyn Store) {
    let bytes = |len: usize| (0..len).map(|i| (i / 7) as u8 ^ (i >> 16) as u8).collect::<Vec<_>>();
    store.begin(A, DIGEST).unwrap();
    for len in [0, 1, (64 << 10) - 257, (64 << 10) - 256, (64 << 10) - 255, 200_000, 1, 0] {
        let long = bytes(len);
        store.put_part(A, 0, &[&long[..len / 3], &[], &long[len / 3..]]).unwrap();
        assert!(store.part(A, 0).unwrap().unwrap() == long, "{len} bytes over longer ones or shorter ones");
        store.put_segment(A, len as u32, &long).unwrap();
        assert!(store.segment(A, len as u32).unwrap().unwrap() == long);
    }
    let mut other = bytes(200_000);
    other[199_999] ^= 1;
    assert!(matches!(store.put_segment(A, 200_000, &other), Err(StoreError::SegmentDiffers { .. })));
    assert_eq!(store.segments(A).unwrap().count, 6);
    store.drop_segments_below(A, 200_000).unwrap();
    assert_eq!(store.segments(A).unwrap(), Held { count: 1, bytes: 200_000 });
    store.finish(A, &[&other, b"", &other]).unwrap();
    assert!(store.record(A).unwrap().unwrap() == [&other[..], &other].concat());
    store.forget(A).unwrap();
    assert_eq!((store.segments(A).unwrap(), store.part(A, 0).unwrap()), (Held::default(), None));
    assert_eq!(store.record(A).unwrap().unwrap().len(), 400_000, "the record stays");
    store.drop_record(A).unwrap();
    assert_eq!(store.record(A).unwrap(), None);
}

/// More of them than wait in memory, among long ones, some written over.
fn many_short_parts_come_back(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    let written = |part: u64| [part.to_le_bytes().repeat(2000), vec![7; part as usize % 5]].concat();
    for part in 0..700 {
        store.put_part(A, part, &[&written(part + 1)]).unwrap();
        if part % 100 == 50 {
            store.put_part(A, part, &[&vec![1; 100_000]]).unwrap();
        }
        store.put_part(A, part, &[&written(part)]).unwrap();
        assert!(store.part(A, part / 2).unwrap().unwrap() == written(part / 2));
    }
    store.sync(A).unwrap();
    assert!((0..700).all(|part| store.part(A, part).unwrap().unwrap() == written(part)));
}

fn only_jobs_that_run_are_resumed(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    store.advance(A, 3).unwrap();
    assert!(matches!(store.resume(B), Err(StoreError::Unknown { .. })));
    assert!(matches!(store.advance(A, 3), Err(StoreError::UsedMaterial { .. })));
    store.resume(A).unwrap();
    store.advance(A, 0).unwrap();
    assert!(matches!(store.advance(A, 0), Err(StoreError::UsedMaterial { .. })));
    store.check_opened(A, 0).unwrap();
    assert!(matches!(store.resume(A), Err(StoreError::NoResume { .. })));
    store.fail(A, "a reason").unwrap();
    assert!(matches!(store.resume(A), Err(StoreError::Over { .. })));
}

/// Each has rounds and checks of its own; an open check ends them all.
fn attempts_only_rise(store: &dyn Store) {
    assert!(matches!(store.begin_attempt(A, 1), Err(StoreError::Unknown { .. })));
    store.begin(A, DIGEST).unwrap();
    assert_eq!(store.attempt(A).unwrap(), 0);
    assert!(matches!(store.begin_attempt(A, 0), Err(StoreError::UsedAttempt { used: 0, .. })));
    store.advance(A, 7).unwrap();
    store.check_opened(A, 0).unwrap();
    assert!(matches!(store.begin_attempt(A, 1), Err(StoreError::NoResume { .. })));
    store.check_passed(A, 0).unwrap();
    store.begin_attempt(A, 2).unwrap();
    assert_eq!(store.attempt(A).unwrap(), 2);
    for used in 0..=2 {
        assert!(matches!(store.begin_attempt(A, used), Err(StoreError::UsedAttempt { used: 2, .. })));
    }
    store.advance(A, 0).unwrap();
    assert!(matches!(store.advance(A, 0), Err(StoreError::UsedMaterial { .. })));
    store.check_opened(A, 0).unwrap();
    assert_eq!(store.open_check(A).unwrap(), Some(0));
    assert!(matches!(store.begin_attempt(A, 3), Err(StoreError::NoResume { .. })));
    store.fail(A, "a reason").unwrap();
    assert!(matches!(store.begin_attempt(A, 3), Err(StoreError::Over { .. })));
}

/// What a second process finds of an attempt that the first has begun.
fn the_attempt_is_still_begun(store: &dyn Store) {
    assert_eq!(store.attempt(A).unwrap(), 1);
    assert!(matches!(store.begin_attempt(A, 1), Err(StoreError::UsedAttempt { used: 1, .. })));
    store.begin_attempt(A, 2).unwrap();
    store.advance(A, 0).unwrap();
}

fn begins_an_attempt(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    store.begin_attempt(A, 1).unwrap();
}

#[test]
fn an_attempt_that_was_begun_stays_so_when_the_process_dies() {
    let store = MemoryStore::new();
    begins_an_attempt(&store);
    the_attempt_is_still_begun(&store.crashed(|_| 0));
}

#[test]
fn segments_are_durable_once_they_are_synced_and_not_before() {
    let store = MemoryStore::new();
    for job in [A, B] {
        store.begin(job, DIGEST).unwrap();
        store.put_part(job, 0, &[b"part"]).unwrap();
        store.put_segment(job, 0, b"segment").unwrap();
    }
    store.sync_segments(B).unwrap();
    [A, B].into_iter().for_each(|job| store.sync(job).unwrap());
    let found = store.crashed(|_| 0);
    assert_eq!((found.segment(A, 0).unwrap(), found.part(A, 0).unwrap().unwrap()), (None, b"part".to_vec()));
    assert_eq!(found.segment(B, 0).unwrap().unwrap(), b"segment");
}

/// Two jobs in the middle, of which one has opened a check.
fn left_behind(first: &dyn Store) {
    for job in [A, B] {
        first.begin(job, DIGEST).unwrap();
        (0..RESERVE + 2).for_each(|round| first.advance(job, round).unwrap());
        first.put_part(job, 7, &[b"part"]).unwrap();
    }
    first.check_opened(B, 0).unwrap();
    first.check_passed(B, 0).unwrap();
}

/// What a second process makes of them.
fn rounds_are_claimed_again_by_who_resumes(store: &dyn Store) {
    assert_eq!(store.interrupted().unwrap().len(), 2);
    assert!(matches!(store.advance(A, 0), Err(StoreError::UsedMaterial { .. })));
    assert!(matches!(store.resume(B), Err(StoreError::NoResume { .. })));
    store.resume(A).unwrap();
    assert_eq!(store.interrupted().unwrap().iter().map(|job| job.nonce).collect::<Vec<_>>(), [B]);
    assert_eq!(store.part(A, 7).unwrap().unwrap(), b"part");
    for round in 0..2 * RESERVE {
        store.advance(A, round).unwrap();
        assert!(matches!(store.advance(A, round), Err(StoreError::UsedMaterial { .. })));
    }
    assert!(matches!(store.advance(B, 0), Err(StoreError::UsedMaterial { .. })));
}

#[test]
fn a_resumed_job_claims_its_rounds_again() {
    let store = MemoryStore::new();
    left_behind(&store);
    rounds_are_claimed_again_by_who_resumes(&store.crashed(|all| all));
}

fn what_is_forgotten_stays_burnt(store: &dyn Store) {
    store.begin(A, DIGEST).unwrap();
    store.begin(B, DIGEST).unwrap();
    for index in [0, u32::MAX] {
        store.put_segment(A, index, b"bulk").unwrap();
        store.put_segment(B, index, b"bulk").unwrap();
    }
    assert!(matches!(store.forget(A), Err(StoreError::StillRunning { .. })));
    assert!(matches!(store.drop_record(A), Err(StoreError::StillRunning { .. })));
    store.finish(A, &[b"record"]).unwrap();
    store.forget(A).unwrap();
    assert_eq!(store.segments(A).unwrap(), Held::default());
    assert_eq!(store.segments(B).unwrap().count, 2);
    assert_eq!(store.record(A).unwrap().unwrap(), b"record");
    store.drop_record(A).unwrap();
    assert_eq!(store.record(A).unwrap(), None);
    assert_eq!(store.jobs().unwrap()[0], Job { nonce: A, digest: DIGEST, state: JobState::Finished });
    assert!(matches!(store.begin(A, DIGEST), Err(StoreError::AlreadyStarted { .. })));
}

fn unknown_jobs_are_named(store: &dyn Store) {
    let unknown = |result| matches!(result, Err(StoreError::Unknown { job }) if job == "01010101");
    assert_eq!(store.state(A).unwrap(), None);
    assert!(unknown(store.finish(A, &[b""])) && unknown(store.fail(A, "")) && unknown(store.advance(A, 0)));
    assert!(unknown(store.check_opened(A, 0)) && unknown(store.check_passed(A, 0)));
    assert!(unknown(store.put_segment(A, 0, b"")) && unknown(store.drop_segments_below(A, 1)));
    assert!(unknown(store.forget(A)) && unknown(store.drop_record(A)));
    assert!(unknown(store.open_check(A).map(drop)) && unknown(store.segment(A, 0).map(drop)));
    assert!(unknown(store.sync_segments(A)));
    assert!(unknown(store.segments(A).map(drop)) && unknown(store.record(A).map(drop)));
}

macro_rules! battery {
    ($room:ident, $with_store:expr, [$($test:ident),* $(,)?]) => {
        mod $room {
            $(#[test]
            fn $test() {
                $with_store(super::$test)
            })*
        }
    };
}

macro_rules! whole_battery {
    ($room:ident, $with_store:expr) => {
        battery!(
            $room,
            $with_store,
            [
                nonces_are_burnt_by_begin,
                an_outcome_never_changes,
                a_round_is_used_once,
                checks_go_one_at_a_time,
                segments_come_back_and_are_dropped,
                a_log_comes_back_until_it_is_forgotten,
                parts_come_back_until_they_are_forgotten,
                long_bytes_come_back_whole,
                many_short_parts_come_back,
                only_jobs_that_run_are_resumed,
                attempts_only_rise,
                what_is_forgotten_stays_burnt,
                unknown_jobs_are_named,
            ]
        );
    };
}

whole_battery!(in_memory, |test: fn(&dyn super::Store)| test(&super::MemoryStore::new()));

#[cfg(feature = "net")]
whole_battery!(on_disk, |test: fn(&dyn super::Store)| {
    let dir = tempfile::tempdir().unwrap();
    test(&super::RedbStore::open(dir.path().join("store")).unwrap())
});

#[cfg(feature = "net")]
mod disk {
    use std::{
        fs,
        path::{Path, PathBuf},
        process::Command,
        sync::OnceLock,
    };

    use proptest::prelude::*;

    use super::*;

    fn refused(path: &Path) -> StoreError {
        RedbStore::open(path).err().expect("this store must be refused")
    }

    fn witness(path: &Path) -> PathBuf {
        PathBuf::from(format!("{}.witness", path.display()))
    }

    /// A store with one running job of which rounds 0 to 9 are used, and one finished.
    fn used(path: &Path) {
        let store = RedbStore::open(path).unwrap();
        store.begin(A, DIGEST).unwrap();
        (0..10).for_each(|round| store.advance(A, round).unwrap());
        store.begin(B, DIGEST).unwrap();
        store.finish(B, &[b"record"]).unwrap();
    }

    #[test]
    fn after_a_restart_everything_used_is_still_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        used(&path);
        let store = RedbStore::open(&path).unwrap();
        store.check_opened(A, 3).unwrap();
        drop(store);
        let store = RedbStore::open(&path).unwrap();
        assert_eq!(store.interrupted().unwrap().iter().map(|job| job.nonce).collect::<Vec<_>>(), [A]);
        assert!(matches!(store.begin(A, DIGEST), Err(StoreError::AlreadyStarted { .. })));
        assert!(matches!(store.begin(B, [0; 32]), Err(StoreError::NonceReused { .. })));
        for round in 0..10 {
            assert!(matches!(store.advance(A, round), Err(StoreError::UsedMaterial { .. })));
        }
        assert_eq!(store.open_check(A).unwrap(), Some(3));
        assert_eq!(store.record(B).unwrap().unwrap(), b"record");
        store.fail(A, "the node was restarted").unwrap();
        assert!(store.interrupted().unwrap().is_empty());
    }

    #[test]
    fn a_resumed_job_claims_its_rounds_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        left_behind(&RedbStore::open(&path).unwrap());
        rounds_are_claimed_again_by_who_resumes(&RedbStore::open(&path).unwrap());
    }

    /// Run by the tests below in a process of its own.
    #[test]
    #[ignore = "a part of other tests"]
    fn child() {
        let path = std::env::var_os("BEAVERDAM_TEST_STORE").expect("run by another test");
        match std::env::var("BEAVERDAM_TEST_STORE_DO").as_deref() {
            Ok("open") => assert!(matches!(refused(Path::new(&path)), StoreError::InUse { .. })),
            Ok("die") => {
                let store = RedbStore::open(path).unwrap();
                store.begin(A, DIGEST).unwrap();
                (0..RESERVE + 10).for_each(|round| store.advance(A, round).unwrap());
                store.check_opened(A, 0).unwrap();
                store.put_part(A, 0, &[b"synced"]).unwrap();
                store.sync(A).unwrap();
                store.put_part(A, 1, &[b"taken along"]).unwrap();
                store.put_part(A, 0, &[b"nor this"]).unwrap();
                store.put_segment(A, 0, b"synced too").unwrap();
                store.sync_segments(A).unwrap();
                store.put_segment(A, 1, b"waits").unwrap();
                store.put_part(A, 2, &[b"waits too"]).unwrap();
                std::process::abort();
            }
            other => panic!("{other:?}"),
        }
    }

    fn in_another_process(what: &str, path: &Path) -> std::process::ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::disk::child", "--ignored", "--nocapture"])
            .env("BEAVERDAM_TEST_STORE", path)
            .env("BEAVERDAM_TEST_STORE_DO", what)
            .status()
            .unwrap()
    }

    #[test]
    fn a_second_opening_is_refused_in_this_process_and_in_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let first = RedbStore::open(&path).unwrap();
        assert!(matches!(refused(&path), StoreError::InUse { .. }));
        assert!(in_another_process("open", &path).success());
        // Without its witness (removed, so that its lock is gone too) the file is still locked.
        let count = fs::read(witness(&path)).unwrap();
        fs::remove_file(witness(&path)).unwrap();
        fs::write(witness(&path), count).unwrap();
        assert!(matches!(refused(&path), StoreError::InUse { .. }));
        drop(first);
        RedbStore::open(&path).unwrap();
    }

    #[test]
    fn a_process_that_dies_has_used_what_it_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        assert!(!in_another_process("die", &path).success());
        let store = RedbStore::open(&path).unwrap();
        assert_eq!(store.interrupted().unwrap().len(), 1, "the child reached its job");
        for round in [0, RESERVE, RESERVE + 9] {
            assert!(matches!(store.advance(A, round), Err(StoreError::UsedMaterial { .. })));
        }
        store.advance(A, 2 * RESERVE).unwrap();
        assert_eq!(store.open_check(A).unwrap(), Some(0));
        assert_eq!(store.part(A, 0).unwrap().unwrap(), b"synced");
        // It lay in front of one that was written over.
        assert_eq!(store.part(A, 1).unwrap().unwrap(), b"taken along");
        assert_eq!(store.part(A, 2).unwrap(), None);
        assert_eq!(store.segment(A, 0).unwrap().unwrap(), b"synced too");
        assert_eq!(store.segment(A, 1).unwrap(), None);
    }

    #[test]
    fn what_a_job_left_that_is_over_is_cleared_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = RedbStore::open(&path).unwrap();
        for job in [A, B] {
            store.begin(job, DIGEST).unwrap();
            store.put_part(job, 1, &[b"part"]).unwrap();
            store.put_segment(job, 0, b"segment").unwrap();
        }
        store.finish(A, &[b"record"]).unwrap();
        drop(store);
        let store = RedbStore::open(&path).unwrap();
        assert_eq!((store.part(A, 1).unwrap(), store.segment(A, 0).unwrap()), (None, None));
        assert_eq!(store.record(A).unwrap().unwrap(), b"record");
        assert_eq!(store.part(B, 1).unwrap().unwrap(), b"part");
        assert_eq!(store.segment(B, 0).unwrap().unwrap(), b"segment");
    }

    #[test]
    fn an_old_copy_of_the_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        used(&path);
        let (old, old_witness) = (fs::read(&path).unwrap(), fs::read(witness(&path)).unwrap());
        let store = RedbStore::open(&path).unwrap();
        store.advance(A, 5000).unwrap();
        drop(store);
        let new = fs::read(&path).unwrap();

        fs::write(&path, &old).unwrap();
        assert!(matches!(refused(&path), StoreError::RolledBack { .. }));
        fs::write(&path, b"").unwrap();
        assert!(matches!(refused(&path), StoreError::RolledBack { found: 0, .. }));
        fs::remove_file(&path).unwrap();
        assert!(matches!(refused(&path), StoreError::RolledBack { found: 0, .. }));

        fs::write(&path, &new).unwrap();
        fs::remove_file(witness(&path)).unwrap();
        assert!(matches!(refused(&path), StoreError::NoWitness { .. }));
        for torn in [&b""[..], &[0; 16], &old_witness[..15], &[&old_witness[..], &[0]].concat()] {
            fs::write(witness(&path), torn).unwrap();
            assert!(matches!(refused(&path), StoreError::NoWitness { .. }));
        }
        // What the module's documentation admits: both from the past are not
        // noticed, but the job is reported as interrupted.
        fs::write(&path, &old).unwrap();
        fs::write(witness(&path), &old_witness).unwrap();
        assert_eq!(RedbStore::open(&path).unwrap().interrupted().unwrap().len(), 1);
        // A crash between the two writes leaves the witness behind the store: sound.
        fs::write(&path, &new).unwrap();
        fs::write(witness(&path), &old_witness).unwrap();
        RedbStore::open(&path).unwrap();
    }

    #[test]
    fn garbage_and_cut_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        used(&path);
        let whole = fs::read(&path).unwrap();
        let text = b"this is no store\n".repeat(1000);
        let torn = [1, 9, 100, 4096, 5000, whole.len() / 2, whole.len() - 1].map(|len| &whole[..len]);
        for bytes in torn.into_iter().chain([&text[..], &[0; 8192], &[0xff; 8192]]) {
            fs::write(&path, bytes).unwrap();
            let error = refused(&path);
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_files_are_this_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        used(&path);
        let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
        for file in [&path, &witness(&path)] {
            assert_eq!(mode(file), 0o600);
        }
        RedbStore::open(&path).unwrap().put_segment(A, 0, b"segment").unwrap();
        let files = dir.path().join("store.jobs");
        assert_eq!(mode(&files), 0o700);
        let files: Vec<_> = fs::read_dir(files).unwrap().map(|file| mode(&file.unwrap().path())).collect();
        assert_eq!(files, [0o600]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Whatever bytes change, opening neither panics nor makes used material unused.
        #[test]
        fn changed_bytes_never_give_material_back(at in any::<prop::sample::Index>(), flip in prop::collection::vec(1u8.., 1..64)) {
            static USED: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            let (store, count) = USED.get_or_init(|| {
                used(&path);
                (fs::read(&path).unwrap(), fs::read(witness(&path)).unwrap())
            });
            fs::write(witness(&path), count).unwrap();
            let mut bytes = store.clone();
            let used_part = bytes.iter().rposition(|&b| b != 0).unwrap();
            let start = at.index(used_part);
            for (byte, flip) in bytes[start..].iter_mut().zip(&flip) {
                *byte ^= flip;
            }
            fs::write(&path, bytes).unwrap();
            if let Ok(store) = RedbStore::open(&path) {
                prop_assert!(store.begin(A, DIGEST).is_err());
                prop_assert!(store.advance(A, 9).is_err());
            }
        }
    }
}
