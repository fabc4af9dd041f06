//! The witness of a store: how many durable writes it has seen, in a file of
//! its own, so that an old copy of the store is noticed. It also is the lock
//! that keeps a second process out.
//!
//! The file holds 8 bytes little-endian and 8 of their checksum, within one
//! sector, so that a torn write does not happen on ordinary disks; if it does,
//! the store is refused rather than trusted.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Seek, Write},
};

use super::StoreError;

pub(super) struct Witness {
    file: File,
    count: u64,
}

impl Witness {
    /// Opens and locks the witness of a store. It is made only where there is
    /// no store yet.
    pub(super) fn open(store: &str, store_exists: bool) -> Result<Self, StoreError> {
        let path = format!("{store}.witness");
        let disk = |e: std::io::Error| StoreError::Disk { path: path.clone(), cause: e.to_string() };
        let missing = || StoreError::NoWitness { path: store.to_owned() };
        let mut file = private(!store_exists).open(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound if store_exists => missing(),
            _ => disk(e),
        })?;
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => StoreError::InUse { path: store.to_owned() },
            TryLockError::Error(e) => disk(e),
        })?;
        let mut bytes = Vec::new();
        (&mut file).take(17).read_to_end(&mut bytes).map_err(disk)?;
        // Made and never written: the process died before the store had content.
        if bytes.is_empty() && !store_exists {
            return Ok(Self { file, count: 0 });
        }
        let whole = <[u8; 16]>::try_from(bytes).map_err(|_| missing())?;
        let count = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i: usize| whole[i]));
        if whole != encode(count) {
            return Err(missing());
        }
        Ok(Self { file, count })
    }

    /// The newest write that it has seen.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Notes a write that is on disk; synced when this returns.
    pub(super) fn note(&mut self, count: u64) -> std::io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(&encode(count))?;
        self.file.sync_data()?;
        self.count = count;
        Ok(())
    }
}

/// How a file of the store is opened; one that is made is this user's alone.
pub(super) fn private(create: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn encode(count: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&count.to_le_bytes());
    let sum = blake3::derive_key("beaverdam v1 store witness", &count.to_le_bytes());
    out[8..].copy_from_slice(&sum[..8]);
    out
}
