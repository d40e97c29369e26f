//! The checksum of an image, computed while it streams.

use md5::Md5;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha256, Sha512};

use super::{Checksum, ImageError, ImageRequest};

/// Strongest first. nova takes Glance's `os_hash_algo`, else `checksum`, which is MD5.
const ALGORITHMS: [&str; 4] = ["sha512", "sha256", "sha1", "md5"];

/// The strongest checksum that a request names, being computed.
pub struct Verifier {
    expected: Option<Checksum>,
    digest: Option<Box<dyn DynDigest + Send>>,
}

impl Verifier {
    /// # Errors
    /// `Unacceptable` when the request names checksums and none that we know: better than none.
    pub fn new(image: &ImageRequest) -> Result<Self, ImageError> {
        let expected = ALGORITHMS.iter().find_map(|algorithm| {
            image.checksums.iter().find(|sum| sum.algorithm.eq_ignore_ascii_case(algorithm))
        });
        if expected.is_none() && !image.checksums.is_empty() {
            return Err(ImageError::Unacceptable {
                image: image.id.clone(),
                reason: "none of its checksums is of a known algorithm".into(),
            });
        }
        let mut verifier = Self { expected: expected.cloned(), digest: None };
        verifier.restart();
        Ok(verifier)
    }

    /// Forgets what was seen.
    pub fn restart(&mut self) {
        self.digest = self.expected.as_ref().map(|sum| -> Box<dyn DynDigest + Send> {
            match sum.algorithm.to_ascii_lowercase().as_str() {
                "sha512" => Box::new(Sha512::default()),
                "sha256" => Box::new(Sha256::default()),
                "sha1" => Box::new(Sha1::default()),
                _ => Box::new(Md5::default()),
            }
        });
    }

    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }

    /// # Errors
    /// `WrongChecksum`
    pub fn verify(&mut self, image: &str) -> Result<(), ImageError> {
        let (Some(expected), Some(digest)) = (&self.expected, &mut self.digest) else {
            return Ok(());
        };
        let found: String =
            digest.finalize_reset().iter().map(|byte| format!("{byte:02x}")).collect();
        if found.eq_ignore_ascii_case(&expected.value) {
            return Ok(());
        }
        Err(ImageError::WrongChecksum {
            image: image.to_owned(),
            algorithm: expected.algorithm.clone(),
            expected: expected.value.clone(),
            found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(checksums: &[(&str, &str)]) -> Result<(), ImageError> {
        let checksums = checksums
            .iter()
            .map(|(algorithm, value)| Checksum {
                algorithm: (*algorithm).into(),
                value: (*value).into(),
            })
            .collect();
        let image = ImageRequest {
            id: "i".into(),
            url: None,
            disk_format: None,
            checksums,
            size: None,
            any_file: false,
        };
        let mut verifier = Verifier::new(&image)?;
        verifier.update(b"forgotten");
        verifier.restart();
        verifier.update(b"ab");
        verifier.update(b"c");
        verifier.verify("i")
    }

    const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";
    const SHA1: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";
    const SHA256: &str = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";

    #[test]
    fn each_algorithm_is_checked() {
        assert!(verify(&[]).is_ok());
        for (algorithm, value) in [("md5", MD5), ("sha1", SHA1), ("sha256", SHA256)] {
            assert!(verify(&[(algorithm, value)]).is_ok(), "{algorithm}");
            let wrong = verify(&[(algorithm, &value[1..])]).unwrap_err();
            assert!(matches!(wrong, ImageError::WrongChecksum { .. }), "{algorithm}");
        }
        assert!(matches!(verify(&[("sha512", "00")]), Err(ImageError::WrongChecksum { .. })));
    }

    #[test]
    fn the_strongest_counts() {
        assert!(verify(&[("md5", "00"), ("sha256", SHA256)]).is_ok());
        assert!(verify(&[("md5", MD5), ("sha256", "00")]).is_err());
    }

    #[test]
    fn unknown_algorithms_alone_are_refused() {
        assert!(matches!(verify(&[("crc32", "00")]), Err(ImageError::Unacceptable { .. })));
    }
}
