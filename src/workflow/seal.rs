//! Seals what the journal writes: a record holds user data and passwords, and a copy of the
//! journal must not give them away.
//!
//! ChaCha20-Poly1305 with a key of this host's own, in a file beside the journal that only root can
//! read. The heads of the records stay readable: an operator can open the journal with `sqlite3`.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

const KEY_LEN: usize = 32;

/// Seals and opens bodies of records.
pub struct Seal {
    key: LessSafeKey,
    random: SystemRandom,
}

/// Why something can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the key file {path} can't be {operation}")]
    KeyFile {
        path: String,
        operation: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the key file {0} doesn't hold 32 bytes")]
    KeyLength(String),
    #[error("sealed with another key, or damaged")]
    Broken,
    #[error("the system gives no random bytes")]
    NoRandom,
}

impl Seal {
    /// Reads the key file, or makes it with a fresh key and mode 0600.
    ///
    /// # Errors
    /// [`SealError::KeyFile`], [`SealError::KeyLength`], [`SealError::NoRandom`].
    pub fn open(path: &Path) -> Result<Self, SealError> {
        let random = SystemRandom::new();
        let fail = |operation| {
            let path = path.display().to_string();
            move |source| SealError::KeyFile { path, operation, source }
        };
        let mut key = [0; KEY_LEN];
        match OpenOptions::new().read(true).open(path) {
            Ok(mut file) => {
                let short = |_| SealError::KeyLength(path.display().to_string());
                file.read_exact(&mut key).map_err(short)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                random.fill(&mut key).map_err(|_| SealError::NoRandom)?;
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                let mut file = options.open(path).map_err(fail("created"))?;
                file.write_all(&key).map_err(fail("written"))?;
                file.sync_all().map_err(fail("written"))?;
            }
            Err(error) => return Err(fail("read")(error)),
        }
        Self::with_key(&key)
    }

    fn with_key(key: &[u8; KEY_LEN]) -> Result<Self, SealError> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| SealError::Broken)?;
        Ok(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    /// Seals `clear` for the record `id`: it opens as that record only.
    ///
    /// # Errors
    /// [`SealError::NoRandom`].
    pub fn seal(&self, id: &str, clear: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealError::NoRandom)?;
        let mut sealed = clear.to_vec();
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(id.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| SealError::Broken)?;
        Ok([&nonce[..], &sealed, tag.as_ref()].concat())
    }

    /// # Errors
    /// [`SealError::Broken`] for anything that [`Seal::seal`] didn't make for `id` with this key.
    pub fn unseal(&self, id: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken)?;
        let mut clear = rest.to_vec();
        let opened = self.key.open_in_place(nonce, Aad::from(id.as_bytes()), &mut clear);
        Ok(opened.map_err(|_| SealError::Broken)?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_record_and_key_alone() {
        let seal = Seal::with_key(&[7; KEY_LEN]).unwrap();
        let sealed = seal.seal("a", b"hunter2").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(seal.unseal("a", &sealed).unwrap(), b"hunter2");
        assert!(seal.unseal("b", &sealed).is_err());
        assert!(Seal::with_key(&[8; KEY_LEN]).unwrap().unseal("a", &sealed).is_err());
        for length in 0..sealed.len() {
            assert!(seal.unseal("a", &sealed[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn the_key_file_is_made_once_and_only_root_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let sealed = Seal::open(&path).unwrap().seal("a", b"x").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Seal::open(&path).unwrap().unseal("a", &sealed).unwrap(), b"x");
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(Seal::open(&path), Err(SealError::KeyLength(_))));
    }
}
