//! Ids made of names, so that they come out the same each time. RFC 9562, version 5.

use sha1::{Digest, Sha1};
use uuid::Uuid;

/// The UUID of `name` in `namespace`, and the whole hash: its tail isn't in the UUID.
pub fn name_based(namespace: Uuid, name: &str) -> (Uuid, [u8; 20]) {
    let hash = Sha1::new().chain_update(namespace.as_bytes()).chain_update(name).finalize();
    let hash: [u8; 20] = hash.into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    (uuid::Builder::from_sha1_bytes(bytes).into_uuid(), hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python: uuid.uuid5(uuid.UUID('24ef2f14-daa6-42b1-b7fa-7136169b5f1c'), 'port:0')
    #[test]
    fn it_is_a_version_5_uuid() {
        let namespace = Uuid::parse_str("24ef2f14-daa6-42b1-b7fa-7136169b5f1c").unwrap();
        let (id, hash) = name_based(namespace, "port:0");
        assert_eq!(id.to_string(), "df5400e3-aa72-5e69-b85a-68b36a975133");
        assert_eq!(hash[17..], [0x6e, 0xff, 0xc8]);
    }
}
