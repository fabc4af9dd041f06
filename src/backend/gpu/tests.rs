//! The battery on a device, and what only a device can do wrong.

use std::sync::{Mutex, OnceLock, PoisonError};

use super::*;
use crate::backend::battery;
use crate::field::P;
use crate::prg::{Address, Domain, PrgKey};

/// The device that the tests share, or none: then they say so, unless
/// `BEAVERDAM_REQUIRE_GPU` is 1, which makes that a failure. Software adapters
/// will do here.
pub fn device() -> Option<Gpu> {
    static DEVICE: OnceLock<Option<Gpu>> = OnceLock::new();
    DEVICE.get_or_init(|| open(Options { software: true, ..Options::default() })).clone()
}

/// A device of a test's own.
pub fn open(options: Options) -> Option<Gpu> {
    match Gpu::open(options) {
        Ok(gpu) => {
            eprintln!("this test runs on {}", gpu.adapter());
            if let Ok(expected) = std::env::var("BEAVERDAM_TEST_ADAPTER") {
                let found = &gpu.adapter().name;
                assert!(found.contains(&expected), "the tests run on {found}, expected {expected}");
            }
            Some(gpu)
        }
        Err(error) => {
            let required = std::env::var_os("BEAVERDAM_REQUIRE_GPU").is_some_and(|value| value == "1");
            assert!(!required, "a GPU is required here: {error}");
            eprintln!("THIS TEST DID NOT RUN: {error}");
            None
        }
    }
}

/// A device of a test's own that draws wrong words.
pub fn wrong_device() -> Option<Gpu> {
    let gpu = open(SOFTWARE())?;
    Some(Gpu { reject: Fp61Mask(0xf), ..gpu })
}

const SOFTWARE: fn() -> Options = || Options { software: true, ..Options::default() };

#[test]
fn passes_the_battery() {
    let Some(gpu) = device() else { return };
    battery::run(gpu.clone());
    assert_eq!(gpu.fault(), None);
}

#[test]
fn passes_the_battery_without_64_bit_integers() {
    let Some(gpu) = open(Options { narrow: true, ..SOFTWARE() }) else { return };
    assert!(!gpu.is_wide());
    battery::run(gpu);
}

/// Bindings of 4096 words and three workgroups: every operand of some size is
/// cut, every kernel strides.
#[test]
fn passes_the_battery_in_small_pieces() {
    let Some(mut gpu) = open(SOFTWARE()) else { return };
    gpu.limits = Limits { binding: 4096, groups: 3, ..gpu.limits };
    battery::run(gpu.clone());
    assert_eq!(gpu.fault(), None);
}

fn stream(seed: u8) -> (PrgKey, Stream) {
    let key = PrgKey([seed; 32]);
    let stream = key.stream(Address { domain: Domain::Value, input: false, op: 0, part: 0, attempt: 0 });
    (key, stream)
}

/// p is drawn once in 2^61 words. With a mask of eight bits in its place, one
/// word in 256 is drawn again, some of them twice.
#[test]
fn rejected_words_are_drawn_again() {
    let Some(mut gpu) = device() else { return };
    gpu.reject = Fp61Mask(0xff);
    let (n, stream) = (300_000, stream(3).1);
    let found = gpu.read(&gpu.expand(n, &[(Fp61::ONE, stream.clone())], None)).unwrap().to_vec();
    let mut twice = 0;
    for (i, found) in found.iter().enumerate() {
        let mut draws = (0..).map(|nonce| stream.raw(nonce, i as u64) & P);
        let at = draws.clone().position(|word| word & 0xff != 0xff).unwrap();
        twice += usize::from(at > 1);
        assert_eq!(found.word(), draws.nth(at).unwrap(), "word {i}");
    }
    assert!(twice > 0);
}

#[test]
fn words_that_stay_do_not_cross_the_bus() {
    let Some(gpu) = open(SOFTWARE()) else { return };
    let before = gpu.traffic();
    let (n, dims) = (10_000, Dims::Matmul { m: 100, k: 100, n: 100 });
    let x = gpu.expand(n, &[(Fp61::ONE, stream(1).1)], None);
    let y = gpu.load(vec![Fp61::ONE; n]);
    let z = gpu.product(dims, &x, &gpu.beaver(dims, &x, &y, &x, &y, &x, Fp61::ONE), Some(&x));
    let z = gpu.view(&View::Sum { outer: 1, axis: 100, inner: 100 }, &[&z]);
    assert_eq!(gpu.traffic(), Traffic { up: before.up + n as u64, down: before.down });
    gpu.read(&z).unwrap();
    assert_eq!(gpu.traffic(), Traffic { up: before.up + n as u64, down: before.down + 100 });
}

#[test]
fn what_does_not_fit_is_lost_and_says_so_and_nothing_else_is() {
    let Some(gpu) = open(Options { memory: 4 << 20, ..SOFTWARE() }) else { return };
    let small = gpu.load(vec![Fp61::ONE; 1000]);
    let large = gpu.expand(1 << 20, &[(Fp61::ONE, stream(1).1)], None);
    let derived = gpu.view(&View::Slice { outer: 1, axis: 1 << 20, inner: 1, start: 0, end: 3 }, &[&large]);
    for lost in [&large, &derived] {
        let error = gpu.read(lost).err().unwrap().to_string();
        assert!(error.contains("8 MiB more are needed") && error.contains("of 4 MiB"), "{error}");
    }
    assert!(gpu.decode(&[Fp61::ONE], &[], &[&large]).is_err());
    assert!(gpu.leaf(&large, &[0], 0, 0, &large, None).1.held.is_err());
    assert!(gpu.read_all(&[small.clone(), large]).is_err());
    assert_eq!(gpu.read(&small).unwrap()[..], [Fp61::ONE; 1000]);
    // Released memory is there again.
    for _ in 0..50 {
        let words = gpu.expand(100_000, &[(Fp61::ONE, stream(1).1)], None);
        assert!(gpu.read(&words).is_ok());
    }
    assert_eq!(gpu.fault(), None);
}

#[test]
fn a_lost_device_gives_no_result_and_says_why() {
    let Some(gpu) = open(SOFTWARE()) else { return };
    let x = gpu.load(vec![Fp61::ONE; 100_000]);
    let sum = gpu.linear(100_000, &[(Fp61::ONE, &x), (Fp61::ONE, &x)], Fp61::ZERO);
    let (opened, _) = gpu.decode(&[Fp61::ONE], &[], &[&x]).unwrap();
    // In the middle of a batch: work is recorded, words are staged.
    let y = gpu.load(vec![Fp61::ONE; 100_000]);
    gpu.destroy();
    let z = gpu.product(Dims::Elementwise(100_000), &sum, &y, None);
    for words in [&z, &x, &opened] {
        let error = gpu.read(words).err().unwrap().to_string();
        assert!(error.starts_with("the gpu backend failed: the device was lost"), "{error}");
    }
    assert!(gpu.decode(&[Fp61::ONE], &[], &[&x]).is_err());
    assert!(gpu.read_all(&[]).is_err());
    assert!(gpu.fault().is_some());
}

#[test]
fn a_fault_of_the_driver_is_an_error_of_ours() {
    let Some(gpu) = open(SOFTWARE()) else { return };
    // An operand that cannot be bound, as no caller may pass it.
    let x = gpu.load(vec![Fp61::ONE; 10]);
    let held = x.held.clone().unwrap().unwrap();
    let beyond = Window { held: &held, first: 0, words: 1 << 20 };
    gpu.queue.dispatch(Kernel::Product { add: false }, &[10], &[beyond, beyond, beyond], [1, 1]);
    assert!(gpu.read(&x).is_err());
    let fault = gpu.fault().unwrap();
    assert!(fault.contains("would overflow buffer size") && !fault.contains('\n'), "{fault}");
}

/// Where a pattern of 16 bytes stands in this process's writable memory.
#[cfg(target_os = "linux")]
fn copies_in_memory(pattern: [u64; 2]) -> usize {
    use std::io::{Read, Seek, SeekFrom};
    let mut memory = std::fs::File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut copies = 0;
    let mut page = vec![0u8; 1 << 20];
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw"))) {
        let (from, until) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [mut at, until] = [from, until].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        while at < until {
            let len = page.len().min((until - at) as usize);
            if memory.seek(SeekFrom::Start(at)).is_err() || memory.read_exact(&mut page[..len]).is_err() {
                break;
            }
            let words: Vec<u64> = page[..len].as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
            copies += words.windows(2).filter(|pair| *pair == pattern).count();
            at += len as u64;
        }
    }
    page.fill(0);
    copies
}

/// On a software adapter the device's memory is this process's, so nothing of
/// a secret may be left anywhere once it is released: not in staging, not in
/// buffers, not in parameters (a MAC key), not in what was downloaded through.
/// The words are made so that no copy is left by making them.
#[cfg(target_os = "linux")]
#[test]
fn nothing_of_a_secret_is_left_after_its_release() {
    let Some(gpu) = open(SOFTWARE()) else { return };
    // The pattern itself must not stand in memory: it is masked here.
    let (mask, hidden) = (0x5555_5555_5555_5555u64, [0x1042_6b7d_0c13_95e2u64, 0x1b5e_90a4_1f77_3c21]);
    let secret = || hidden.map(|word| Fp61::reduce((word ^ mask) & (P >> 1)));
    let count = |label: &str| {
        gpu.settle();
        let found = copies_in_memory(secret().map(Fp61::word));
        eprintln!("{label}: {found} copies");
        found
    };
    let n = 200_000;
    let words = || (0..n).map(|i| secret()[i % 2]).collect::<Vec<_>>();
    let held = gpu.load(words());
    // The scan does find what is there.
    if gpu.adapter().software {
        assert!(count("while it is held") > n / 4);
    }
    let k = secret()[0];
    let scaled = gpu.linear(n, &[(Fp61::ONE, &held)], Fp61::ZERO);
    let by_key = gpu.linear(2, &[(k, &gpu.load(vec![Fp61::ONE; 2]))], secret()[1]);
    drop(gpu.read(&scaled).unwrap());
    drop(gpu.read(&by_key).unwrap());
    let mut read = gpu.read_all(&[held.clone(), scaled.clone()]).unwrap();
    zeroize::Zeroize::zeroize(&mut read);
    drop((held, scaled, by_key, read));
    // A few words on stacks and in registers' spill are not the device's.
    let left = count("after the release");
    assert!(left < 8, "{left} copies are left");
}

/// Keys travel in the parameters of kernels. A hundred uses are recorded in one
/// batch, so that what each leaves behind adds up.
#[cfg(target_os = "linux")]
#[test]
fn nothing_of_a_key_is_left_after_its_use() {
    let Some(gpu) = open(SOFTWARE()) else { return };
    // Patterns are masked, as above.
    let mask = 0x5555_5555_5555_5555u64;
    let pair = |words: [u64; 2]| words.map(|word| word ^ mask);
    let (prg, alpha) =
        ([0x3342_6b7d_0c13_95e2u64, 0x475e_90a4_1f77_3c21], [0x4842_6b7d_0c13_95e2u64, 0x4e5e_90a4_1f77_3c21]);
    // Each in a frame of its own, which the scan's will overwrite.
    let key = || {
        let mut key = PrgKey([0; 32]);
        let bytes = key.0.as_chunks_mut().0.iter_mut();
        bytes.zip(prg.iter().cycle()).for_each(|(bytes, word)| *bytes = (word ^ mask).to_le_bytes());
        Stream::of_key(key)
    };
    let secret = |i: usize| Fp61::new(alpha[i] ^ mask).unwrap();
    let small = || (0..1000).map(|i| secret(i % 2)).collect::<Vec<_>>();
    {
        let x = gpu.load(vec![Fp61::ONE; 100]);
        for _ in 0..100 {
            gpu.expand(100, &[(Fp61::ONE, key()), (-Fp61::ONE, key())], None);
            gpu.linear(100, &[(secret(1), &x), (Fp61::ONE, &x)], secret(0));
            gpu.shift(&x, &[0], 16, &x, &x, secret(0), secret(1));
        }
    }
    // Their vectors on the host, freed between others.
    for _ in 0..50 {
        drop(gpu.read(&gpu.expand(5000, &[0; 3].map(|_| (Fp61::ONE, key())), None)).unwrap());
    }
    gpu.settle();
    for (of, pattern) in [("a PRG key", prg), ("a MAC key", alpha)] {
        let left = copies_in_memory(pair(pattern));
        eprintln!("{left} copies of {of}");
        assert!(left < 20, "{left} copies of {of} are left");
    }
    // Vectors that the allocator keeps, and so would keep their words.
    let vectors: Vec<_> = (0..20).map(|_| small()).collect();
    drop(vectors.into_iter().map(|words| gpu.load(words)).collect::<Vec<_>>());
    gpu.settle();
    let left = copies_in_memory(pair(alpha));
    assert!(left < 20, "{left} copies of small vectors are left");
}

/// Work of many threads on one device.
#[test]
fn threads_share_a_device() {
    let Some(gpu) = device() else { return };
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for seed in 0..4u8 {
            let (gpu, failed) = (&gpu, &failed);
            scope.spawn(move || {
                for _ in 0..20 {
                    let x = gpu.expand(5000, &[(Fp61::ONE, stream(seed).1)], None);
                    let sum = gpu.linear(5000, &[(Fp61::ONE, &x), (Fp61::ONE, &x)], Fp61::ONE);
                    let found = gpu.read(&sum).unwrap();
                    let mut words = vec![Fp61::ZERO; 5000];
                    stream(seed).1.fill(0, &mut words);
                    if !found.iter().zip(&words).all(|(found, x)| *found == *x + *x + Fp61::ONE) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                    }
                }
            });
        }
    });
    assert!(failed.into_inner().unwrap().is_empty());
}
