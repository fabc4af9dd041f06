//! Key files: text, mode 0600, encrypted if there is a passphrase.
//!
//! ```text
//! beaverdam-key-v1                      beaverdam-key-v1
//! public bd1…                           public bd1…
//! seed 64 hex digits                    argon2id 65536 3 1 SALT      (KiB, passes, lanes)
//!                                       xchacha20poly1305 NONCE
//!                                       sealed 96 hex digits
//! ```
//!
//! On the right the seed is encrypted under argon2id(passphrase, salt)
//! (RFC 9106), and every line above `sealed` is associated data. The public
//! line lets `beaverdam` show whose file it is, and must match the seed.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    path::Path,
};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use zeroize::{Zeroize, Zeroizing};

use super::{KeyError, PublicKey, SecretKey, hex, unhex};

/// The first line of every key file of this version.
pub(super) const HEADER: &str = "beaverdam-key-v1";

/// argon2id's memory in KiB, passes and lanes for new files.
const COST: (u32, u32, u32) = (64 * 1024, 3, 1);
/// The most that a file may ask for, so that a forged one cannot take the machine down.
const MAX_COST: (u32, u32, u32) = (1024 * 1024, 64, 16);
/// Far more than a key file needs.
const MAX_BYTES: u64 = 4096;

impl SecretKey {
    /// Writes a new key file of mode 0600 and syncs it to disk. With a
    /// passphrase the seed is encrypted (argon2id over 64 MiB, a fraction of a second);
    /// without one, the file's mode is all that protects it.
    ///
    /// # Errors
    /// [`KeyError::Exists`]: a file is never overwritten, since a lost key
    /// cannot be recovered. Otherwise an error of the disk; no half-written
    /// file is left behind.
    pub fn save(&self, path: impl AsRef<Path>, passphrase: Option<&str>) -> Result<(), KeyError> {
        let path = path.as_ref();
        let io = |source: std::io::Error| match source.kind() {
            ErrorKind::AlreadyExists => KeyError::Exists { path: show(path) },
            _ => KeyError::Io { action: "create", path: show(path), source },
        };
        let text = encode(self, passphrase)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(io)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
        written.map_err(|source| {
            // Only the file that this call created; what it holds is incomplete.
            let _ = std::fs::remove_file(path);
            io(source)
        })
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// Each fault has its own: a file that group or others can access (on
    /// Unix), another version, cut or changed content, a passphrase that is
    /// missing, wrong, or given for an unprotected file.
    pub fn load(path: impl AsRef<Path>, passphrase: Option<&str>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let io = |source| KeyError::Io { action: "read", path: show(path), source };
        let file = File::open(path).map_err(io)?;
        // Asked of the open file, not of the path, which could be exchanged in between.
        refuse_exposed(&file.metadata().map_err(io)?, path)?;
        let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES as usize));
        match file.take(MAX_BYTES).read_to_string(&mut text) {
            Ok(_) => decode(&text, passphrase, &show(path)),
            Err(e) if e.kind() == ErrorKind::InvalidData => Err(KeyError::Version { path: show(path) }),
            Err(e) => Err(io(e)),
        }
    }
}

fn encode(key: &SecretKey, passphrase: Option<&str>) -> Result<Zeroizing<String>, KeyError> {
    let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES as usize));
    text.push_str(&format!("{HEADER}\npublic {}\n", key.public()));
    match passphrase {
        None => {
            text.push_str("seed ");
            text.push_str(&Zeroizing::new(hex(&*key.seed)));
        }
        Some("") => return Err(KeyError::EmptyPassphrase),
        Some(passphrase) => {
            let (mut salt, mut nonce) = ([0; 16], [0; 24]);
            getrandom::fill(&mut salt).and_then(|()| getrandom::fill(&mut nonce)).map_err(KeyError::NoRandomness)?;
            let (memory, passes, lanes) = COST;
            text.push_str(&format!("argon2id {memory} {passes} {lanes} {}\n", hex(&salt)));
            text.push_str(&format!("xchacha20poly1305 {}\n", hex(&nonce)));
            let wrap = wrapping_key(passphrase, &salt, COST).expect("the cost of new files is within argon2's limits");
            let payload = Payload { msg: &*key.seed, aad: text.as_bytes() };
            let sealed = XChaCha20Poly1305::new(&(*wrap).into())
                .encrypt(&nonce.into(), payload)
                .expect("32 bytes are within the cipher's limits");
            text.push_str("sealed ");
            text.push_str(&hex(&sealed));
        }
    }
    text.push('\n');
    Ok(text)
}

fn decode(text: &str, passphrase: Option<&str>, path: &str) -> Result<SecretKey, KeyError> {
    let path = || path.to_owned();
    let damaged = |what| KeyError::Damaged { path: path(), what };
    if text.lines().next() != Some(HEADER) {
        return Err(KeyError::Version { path: path() });
    }
    if !text.ends_with('\n') {
        return Err(damaged("its last line is cut off"));
    }
    let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(' ').collect()).collect();
    let lines: Vec<&[&str]> = lines.iter().map(Vec::as_slice).collect();
    let (public, seed) = match (lines.as_slice(), passphrase) {
        ([["public", public], ["seed", seed]], None) => {
            let seed = unhex(seed).map(Zeroizing::new).ok_or_else(|| damaged("its seed is not 64 hex digits"))?;
            (public, seed)
        }
        ([["public", _], ["seed", _]], Some(_)) => return Err(KeyError::NotProtected { path: path() }),
        ([["public", public], kdf @ .., ["sealed", sealed]], passphrase) => {
            let [["argon2id", memory, passes, lanes, salt], ["xchacha20poly1305", nonce]] = kdf else {
                return Err(damaged("its encryption is not argon2id with xchacha20poly1305"));
            };
            let cost = (memory.parse(), passes.parse(), lanes.parse());
            let (Ok(memory), Ok(passes), Ok(lanes)) = cost else {
                return Err(damaged("its argon2id cost is not three numbers"));
            };
            if memory > MAX_COST.0 || passes > MAX_COST.1 || lanes > MAX_COST.2 {
                return Err(damaged("its argon2id cost is past 1 GiB, 64 passes or 16 lanes"));
            }
            let salt = unhex::<16>(salt).ok_or_else(|| damaged("its salt is not 32 hex digits"))?;
            let nonce = unhex::<24>(nonce).ok_or_else(|| damaged("its nonce is not 48 hex digits"))?;
            let sealed = unhex::<48>(sealed).ok_or_else(|| damaged("its sealed seed is not 96 hex digits"))?;
            let passphrase = passphrase.ok_or_else(|| KeyError::PassphraseNeeded { path: path() })?;
            let wrap = wrapping_key(passphrase, &salt, (memory, passes, lanes))
                .ok_or_else(|| damaged("its argon2id cost is impossible"))?;
            let above = text.find("sealed ").map_or("", |at| &text[..at]);
            let payload = Payload { msg: &sealed, aad: above.as_bytes() };
            let opened = XChaCha20Poly1305::new(&(*wrap).into())
                .decrypt(&nonce.into(), payload)
                .map(Zeroizing::new)
                .map_err(|_| KeyError::WrongPassphrase { path: path() })?;
            let mut seed = Zeroizing::new([0; 32]);
            seed.copy_from_slice(&opened);
            (public, seed)
        }
        _ => return Err(damaged("its lines are not those of a key file")),
    };
    let public: PublicKey = public.parse().map_err(|_| damaged("its public key cannot be read"))?;
    let key = SecretKey::from_seed(*seed);
    if key.public() != public {
        return Err(damaged("its public key does not belong to its seed"));
    }
    Ok(key)
}

/// argon2id of the passphrase; `None` if the cost is none that argon2 allows.
fn wrapping_key(passphrase: &str, salt: &[u8; 16], cost: (u32, u32, u32)) -> Option<Zeroizing<[u8; 32]>> {
    let params = Params::new(cost.0, cost.1, cost.2, Some(32)).ok()?;
    // Our own blocks, because the library's are freed without being wiped.
    let mut memory = vec![Block::default(); params.block_count()];
    let mut key = Zeroizing::new([0; 32]);
    let done = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
        passphrase.as_bytes(),
        salt,
        &mut *key,
        &mut memory,
    );
    memory.iter_mut().for_each(Zeroize::zeroize);
    done.ok().map(|()| key)
}

#[cfg(unix)]
fn refuse_exposed(meta: &std::fs::Metadata, path: &Path) -> Result<(), KeyError> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
    if mode & 0o077 != 0 { Err(KeyError::Exposed { path: show(path), mode }) } else { Ok(()) }
}

/// Elsewhere than on Unix the file's access list is the user's to keep.
#[cfg(not(unix))]
fn refuse_exposed(_: &std::fs::Metadata, _: &Path) -> Result<(), KeyError> {
    Ok(())
}

/// A new file survives a power loss only once its directory is written too.
#[cfg(unix)]
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Elsewhere than on Unix a directory cannot be opened to be synced.
#[cfg(not(unix))]
pub(crate) fn sync_parent(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
