//! Compressed bodies, as kombu makes them for `kombu_compression`: a header names the method. Whoever
//! sends chooses; whoever receives reads both, and no more of either than a message may hold.
//!
//! kombu: compression.py. What it calls gzip is zlib's format.

use std::borrow::Cow;
use std::io::{Read, Write};

use lapin::types::{AMQPValue, FieldTable};
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

use crate::rpc::envelope::EnvelopeError;

/// A body may hold so much once it is unpacked: a few bytes can be made to hold gigabytes.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// Python's default for both.
const GZIP_LEVEL: u8 = 6;
const BZIP2_LEVEL: u32 = 9;
const HEADER: &str = "compression";

/// `[oslo_messaging_rabbit] kombu_compression`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Bzip2,
}

impl Compression {
    /// By kombu's names and their aliases.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "gzip" | "zlib" | "application/x-gzip" => Some(Self::Gzip),
            "bz2" | "bzip2" | "bzip" | "application/x-bz2" => Some(Self::Bzip2),
            _ => None,
        }
    }

    /// The header that says so.
    pub(crate) fn headers(self) -> FieldTable {
        let name = match self {
            Self::Gzip => "application/x-gzip",
            Self::Bzip2 => "application/x-bz2",
        };
        let mut headers = FieldTable::default();
        headers.insert(HEADER.into(), AMQPValue::LongString(name.into()));
        headers
    }

    pub(crate) fn compress(self, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Gzip => compress_to_vec_zlib(body, GZIP_LEVEL),
            Self::Bzip2 => {
                let level = bzip2::Compression::new(BZIP2_LEVEL);
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), level);
                let packed = encoder.write_all(body).and_then(|()| encoder.finish());
                packed.expect("a vector takes everything")
            }
        }
    }

    fn decompress(self, body: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let bad = |message: String| Err(EnvelopeError::Compressed(message));
        match self {
            Self::Gzip => decompress_to_vec_zlib_with_limit(body, MAX_BODY)
                .or_else(|error| bad(format!("{:?}", error.status))),
            Self::Bzip2 => {
                let mut unpacked = Vec::new();
                let limit = MAX_BODY as u64 + 1;
                let read = bzip2::read::BzDecoder::new(body).take(limit).read_to_end(&mut unpacked);
                match read {
                    Err(error) => bad(error.to_string()),
                    Ok(_) if unpacked.len() > MAX_BODY => bad("it holds too much".into()),
                    Ok(_) => Ok(unpacked),
                }
            }
        }
    }
}

/// The body of a message as its sender had it.
///
/// # Errors
/// `Compressed` for a method that isn't ours, and for what can't be unpacked.
pub(crate) fn unpack<'a>(
    body: &'a [u8],
    headers: Option<&FieldTable>,
) -> Result<Cow<'a, [u8]>, EnvelopeError> {
    let Some(header) = headers.and_then(|headers| headers.inner().get(HEADER)) else {
        return Ok(Cow::Borrowed(body));
    };
    let name = match header {
        AMQPValue::LongString(text) => text.to_string(),
        other => format!("{other:?}"),
    };
    let Some(method) = Compression::parse(&name) else {
        return Err(EnvelopeError::Compressed(format!("{name} is not supported")));
    };
    method.decompress(body).map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Compression; 2] = [Compression::Gzip, Compression::Bzip2];

    #[test]
    fn what_is_packed_is_unpacked_and_damage_is_an_error() {
        let body = "{\"a\": \"ü\"}".repeat(1000).into_bytes();
        for method in BOTH {
            let headers = method.headers();
            let packed = method.compress(&body);
            assert!(packed.len() < body.len() / 10);
            assert_eq!(*unpack(&packed, Some(&headers)).unwrap(), *body);
            for damaged in [&packed[..packed.len() / 2], &packed[1..], b"", b"{}"] {
                assert!(unpack(damaged, Some(&headers)).is_err(), "{method:?}");
            }
        }
        assert_eq!(*unpack(&body, None).unwrap(), *body);
    }

    #[test]
    fn pythons_own_bytes_are_read() {
        // zlib.compress(b'{"method": "x"}'), bz2.compress(…)
        for (method, packed) in [
            (Compression::Gzip, "789cab56ca4d2dc9c84f51b25250aa50aa0500291304d4"),
            (
                Compression::Bzip2,
                "425a6839314159265359f7f9cd490000069980500000100642844a2000310340d020688cf544\
                 a117ba209f47c5dc914e14243dfe735240",
            ),
        ] {
            let digits: String = packed.split_whitespace().collect();
            let bytes: Vec<u8> = (0..digits.len() / 2)
                .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            let found = unpack(&bytes, Some(&method.headers()));
            assert_eq!(found.map(Cow::into_owned).unwrap(), br#"{"method": "x"}"#, "{method:?}");
        }
    }

    #[test]
    fn a_small_body_that_holds_gigabytes_is_refused() {
        let zeros = vec![0; MAX_BODY + 1];
        for method in BOTH {
            let error = unpack(&method.compress(&zeros), Some(&method.headers())).unwrap_err();
            assert!(matches!(error, EnvelopeError::Compressed(_)));
        }
    }

    #[test]
    fn another_method_is_named() {
        let mut headers = FieldTable::default();
        headers.insert(HEADER.into(), AMQPValue::LongString("application/zstd".into()));
        let error = unpack(b"", Some(&headers)).unwrap_err();
        assert!(error.to_string().contains("application/zstd"), "{error}");
    }
}
