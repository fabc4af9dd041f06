//! What becomes of files that are torn, changed, used up, or too much for the disk.

use std::{fs::File, sync::OnceLock};

use proptest::prelude::*;

use super::*;

/// What a process finds; what is not proven is seldom read, too.
fn found(dir: &Path, proven: bool) -> Series {
    let series = Series::new(dir.join("job-name"), Manner { proven, read: proven });
    names(dir).into_iter().for_each(|number| series.files().look_through(number).unwrap());
    series
}

/// The numbers of the files that are there.
fn names(dir: &Path) -> Vec<u32> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let numbers = fs::read_dir(dir).unwrap().map(name);
    let mut numbers: Vec<u32> = numbers.map(|name| name.strip_prefix("job-name-").unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

fn file(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("job-name-{number}"))
}

#[test]
fn the_form_is_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let hex = |number| crate::keys::hex(&fs::read(file(dir.path(), number)).unwrap());
    let series = found(dir.path(), false);
    series.files().put(7, &[b"two ", b"parts"]).unwrap();
    series.files().put(u64::MAX, &[]).unwrap();
    series.sync().unwrap();
    insta::assert_snapshot!(hex(0), @"6276646a6f620002070000000000000009000000741defaa74776f207061727473ffffffffffffffff00000000ba921f81");
    found(dir.path(), true).files().put(7, &[b"segment"]).unwrap();
    insta::assert_snapshot!(hex(1), @"6276646a6f6200020700000000000000070000008a5aa7767365676d656e74");
}

/// Wherever a power loss tears it.
#[test]
fn a_torn_file_holds_what_is_whole() {
    for proven in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let series = found(dir.path(), proven);
        (0..3).for_each(|i| series.files().put(i, &[&[9 - i as u8; 10]]).unwrap());
        series.sync().unwrap();
        let whole = fs::read(file(dir.path(), 0)).unwrap();
        assert_eq!(whole.len(), 8 + 3 * 26);
        for len in 0..whole.len() {
            let held = len.saturating_sub(8) as u64 / 26;
            // The rest is gone, or was never written where the system had reserved it.
            let zeros = [&whole[..len], &vec![0; whole.len() - len][..]].concat();
            for torn in [&whole[..len], &zeros] {
                fs::write(file(dir.path(), 0), torn).unwrap();
                let series = found(dir.path(), proven);
                let mut files = series.files();
                if !proven {
                    assert_eq!(files.held().count, held);
                }
                for i in 0..held {
                    assert_eq!(files.get(i).unwrap().unwrap(), [9 - i as u8; 10]);
                }
                // What is missing may come again, and does not lie behind what is torn.
                files.put(2, &[&[7; 10]]).unwrap();
                files.write().unwrap();
                assert_eq!(found(dir.path(), proven).files().get(2).unwrap().unwrap(), [7; 10]);
                fs::remove_file(file(dir.path(), 1)).unwrap();
            }
        }
    }
}

/// What a power loss has torn takes what was written behind it along, and nothing that a later process writes.
#[test]
fn behind_a_torn_file_nothing_counts_but_what_comes_after() {
    let dir = tempfile::tempdir().unwrap();
    for (key, bytes) in [(0, b"first"), (1, b"other"), (2, b"third")] {
        // Each process begins a file.
        found(dir.path(), false).files().put(key, &[bytes]).unwrap();
    }
    assert_eq!(names(dir.path()), [0, 1, 2]);
    let torn = File::options().write(true).open(file(dir.path(), 1)).unwrap();
    torn.set_len(torn.metadata().unwrap().len() - 1).unwrap();
    for life in 0..2 {
        let series = found(dir.path(), false);
        let has = [0, 1, 2, 3, 4].map(|key| series.files().has(key));
        assert_eq!(has, [true, false, false, life > 0, false]);
        series.files().put(3 + life, &[b"after"]).unwrap();
    }
    assert_eq!(names(dir.path()), [0, 1, 2, 3]);
}

#[test]
fn files_of_another_version_hold_nothing() {
    let dir = tempfile::tempdir().unwrap();
    found(dir.path(), true).files().put(0, &[b"segment"]).unwrap();
    let mut bytes = fs::read(file(dir.path(), 0)).unwrap();
    bytes[7] += 1;
    fs::write(file(dir.path(), 0), bytes).unwrap();
    let series = found(dir.path(), true);
    let files = series.files();
    assert_eq!((files.held(), files.get(0).unwrap()), (Held::default(), None));
}

#[test]
fn what_is_used_up_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let series = found(dir.path(), true);
    let long = vec![1; FULL as usize / 4];
    (0..10).for_each(|i| series.files().put(i, &[&long]).unwrap());
    assert_eq!(names(dir.path()), [0, 1, 2]);
    series.files().drop_below(3).unwrap();
    assert_eq!(names(dir.path()), [0, 1, 2]);
    series.files().drop_below(8).unwrap();
    assert_eq!(names(dir.path()), [2]);
    series.sync().unwrap();
    series.files().drop_below(10).unwrap();
    assert!(names(dir.path()).is_empty());
    series.files().put(10, &[&long]).unwrap();
    assert_eq!(series.files().held(), Held { count: 1, bytes: long.len() as u64 });
    series.files().clear().unwrap();
    series.files().clear().unwrap();
    assert!(names(dir.path()).is_empty());
    assert_eq!(series.files().get(10).unwrap(), None);
}

#[test]
fn the_newest_of_a_number_is_the_one() {
    let dir = tempfile::tempdir().unwrap();
    let series = found(dir.path(), false);
    (0..5).for_each(|i| series.files().put(i % 2, &[&[i as u8; 3]]).unwrap());
    series.sync().unwrap();
    for series in [series, found(dir.path(), false)] {
        let files = series.files();
        assert_eq!((files.get(0).unwrap().unwrap(), files.get(1).unwrap().unwrap()), (vec![4; 3], vec![3; 3]));
        assert_eq!(files.held(), Held { count: 2, bytes: 6 });
    }
}

#[test]
fn what_vanishes_while_it_is_open_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let series = found(dir.path(), true);
    (0..3).for_each(|i| series.files().put(i, &[&[i as u8; 10]]).unwrap());
    series.sync().unwrap();
    File::options().write(true).open(file(dir.path(), 0)).unwrap().set_len(40).unwrap();
    assert_eq!(series.files().get(0).unwrap().unwrap(), [0; 10]);
    assert_eq!(series.files().get(1).unwrap(), None);
    fs::remove_file(file(dir.path(), 0)).unwrap();
    assert_eq!(series.files().get(0).unwrap(), None);
    series.sync().unwrap();
    series.files().clear().unwrap();
}

/// Until they are to be on disk, or much waits; a process that is killed in between leaves the beginning.
#[test]
fn records_wait_and_come_in_their_order() {
    for proven in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let kept = || {
            let copy = tempfile::tempdir().unwrap();
            for number in names(dir.path()) {
                fs::copy(file(dir.path(), number), file(copy.path(), number)).unwrap();
            }
            found(copy.path(), proven).files().held().count
        };
        let series = found(dir.path(), proven);
        let whole = |i: u64| [&[i as u8; 5][..], &vec![7; i as usize % 3]].concat();
        let put = |keys: std::ops::Range<u64>| {
            keys.for_each(|i| series.files().put(i, &[&[i as u8; 5], &vec![7; i as usize % 3]]).unwrap())
        };
        put(0..3);
        assert_eq!(kept(), 0);
        series.sync().unwrap();
        assert_eq!(kept(), 3);
        put(3..6);
        assert_eq!(kept(), 3);
        // Those that wait, those that do not, one that takes the place of another, and nothing.
        series.files().put(1, &[b"another"]).unwrap();
        series.files().put(6, &[]).unwrap();
        assert!((2..6).all(|i| series.files().get(i).unwrap().unwrap() == whole(i)));
        assert_eq!(series.files().get(1).unwrap().unwrap(), b"another");
        assert_eq!(series.files().get(6).unwrap().unwrap(), b"");
        series.sync().unwrap();
        assert_eq!((kept(), series.files().get(6).unwrap().unwrap().len()), (7, 0));
        // Records of all lengths, across the ends of blocks and longer than these.
        let long = |i: u64| vec![i as u8; [100_000, 5, 0, out::BLOCK, 4096, 3 * out::BLOCK + 7][i as usize % 6]];
        for i in 7..50 {
            series.files().put(i, &[&long(i)]).unwrap();
            let files = series.files();
            assert!((7..=i).all(|i| files.get(i).unwrap().unwrap() == long(i)));
            assert!(files.last.as_ref().unwrap().out.end() >= files.held().bytes.min(FULL));
        }
        // What waits is not much.
        assert!(kept() > 40);
        series.sync().unwrap();
        series.files().put(50, &[b"waits"]).unwrap();
        assert_eq!(kept(), 50);
        // As if it were killed.
        std::mem::forget(series);
        let next = found(dir.path(), proven);
        let files = next.files();
        assert_eq!(files.held().count, 50);
        assert_eq!((files.get(5).unwrap().unwrap(), files.get(1).unwrap().unwrap()), (whole(5), b"another".to_vec()));
        assert!((7..50).all(|i| files.get(i).unwrap().unwrap() == long(i)));
    }
}

/// A file that is full is not written to any more.
#[test]
fn nothing_waits_for_a_file_that_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let series = found(dir.path(), false);
    let count = 2 * FULL / 10_016 + 10;
    (0..count).for_each(|i| series.files().put(i, &[&[i as u8; 10_000]]).unwrap());
    assert_eq!(names(dir.path()), [0, 1, 2]);
    series.sync().unwrap();
    for series in [series, found(dir.path(), false)] {
        let files = series.files();
        assert!((0..count).all(|i| files.get(i).unwrap().unwrap() == [i as u8; 10_000]));
    }
}

#[test]
fn what_waits_is_written_by_who_closes_the_files_and_by_nobody_once_it_is_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    let series = found(dir.path(), false);
    series.files().put(0, &[b"one"]).unwrap();
    drop(series);
    let series = found(dir.path(), false);
    assert_eq!(series.files().get(0).unwrap().unwrap(), b"one");
    series.files().put(1, &[b"two"]).unwrap();
    series.files().drop_below(1).unwrap();
    assert_eq!((names(dir.path()), series.files().get(1).unwrap().unwrap()), (vec![1], b"two".to_vec()));
    series.files().clear().unwrap();
    series.sync().unwrap();
    drop(series);
    assert!(names(dir.path()).is_empty());
}

/// Run by the test below, in a process whose files may not grow beyond some megabytes.
#[test]
#[ignore = "a part of another test"]
fn child() {
    let dir = std::env::var_os("BEAVERDAM_TEST_FILES").expect("run by another test");
    let series = found(Path::new(&dir), std::env::var_os("BEAVERDAM_TEST_PROVEN").is_some());
    let mut count = 0;
    let error = loop {
        match series.files().put(count, &[&[count as u8; 700_001]]) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, StoreError::Disk { .. }) && count > 0, "{error}");
    // It is as if nobody had tried, and what fits fits.
    let error = series.files().put(count, &[&[9; 5 << 20]]).unwrap_err();
    assert!(matches!(&error, StoreError::Disk { path, .. } if path.ends_with("job-name-0")), "{error}");
    (0..count).for_each(|i| assert!(series.files().get(i).unwrap().unwrap() == [i as u8; 700_001]));
    match series.sync() {
        Ok(()) => series.files().put(count + 1, &[b"short"]).unwrap(),
        // What waits for the disk is there until it is on it.
        Err(error) => {
            assert!(matches!(&error, StoreError::Disk { path, .. } if path.ends_with("job-name-0")), "{error}");
            (0..count).for_each(|i| assert!(series.files().get(i).unwrap().unwrap() == [i as u8; 700_001]));
            series.files().put(count + 1, &[b"short"]).unwrap();
            assert!(series.sync().is_err());
        }
    }
    println!("{count} records");
}

/// What does not fit is refused, and nothing that was there is lost.
#[cfg(unix)]
#[test]
fn a_full_disk_takes_nothing_away() {
    for proven in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let child =
            "ulimit -f 8192; trap '' XFSZ; exec \"$0\" --exact store::files::tests::child --ignored --nocapture";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", child]).arg(std::env::current_exe().unwrap()).env("BEAVERDAM_TEST_FILES", dir.path());
        if proven {
            command.env("BEAVERDAM_TEST_PROVEN", "1");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let count: u64 = text.lines().find_map(|line| line.strip_suffix(" records")?.parse().ok()).unwrap();
        let series = found(dir.path(), proven);
        let files = series.files();
        // Those that still waited are gone with the process.
        let held = (0..).take_while(|i| files.has(*i)).count() as u64;
        assert!(held >= 3 && held <= count && held + 4 >= count, "{held} of {count}");
        assert!((0..held).all(|i| files.get(i).unwrap().unwrap() == [i as u8; 700_001]));
        assert_eq!(files.get(count).unwrap(), None);
        let short = files.get(count + 1).unwrap();
        assert_eq!(short, (held == count && short.is_some()).then(|| b"short".to_vec()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever somebody writes there, nothing panics; and a record that nobody else can prove whole is
    /// given as it was written, or not at all.
    #[test]
    fn a_changed_file_gives_no_changed_part(at in any::<prop::sample::Index>(), flip in prop::collection::vec(1u8.., 1..20), cut in any::<prop::sample::Index>()) {
        static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
        let dir = tempfile::tempdir().unwrap();
        let whole = WHOLE.get_or_init(|| {
            let series = found(dir.path(), false);
            (0..4).for_each(|i| series.files().put(i, &[&[i as u8; 10]]).unwrap());
            series.sync().unwrap();
            fs::read(file(dir.path(), 0)).unwrap()
        });
        let (mut bytes, start) = (whole.clone(), at.index(whole.len()));
        for (byte, flip) in bytes[start..].iter_mut().zip(&flip) {
            *byte ^= flip;
        }
        bytes.truncate(bytes.len() - cut.index(20));
        fs::write(file(dir.path(), 0), &bytes).unwrap();
        for proven in [true, false] {
            let series = found(dir.path(), proven);
            let files = series.files();
            prop_assert!(files.held().bytes <= bytes.len() as u64);
            for (i, key) in (0..5).enumerate() {
                let record = files.get(key).unwrap();
                prop_assert!(proven || record.is_none_or(|record| record == [i as u8; 10]));
            }
        }
    }
}
