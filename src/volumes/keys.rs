//! Keys of encrypted volumes. nova: keymgr/conf_key_mgr.py; virt/libvirt/driver.py, `_attach_encryptor`

use async_trait::async_trait;

use super::VolumeError;
use crate::model::context::RequestContext;
use crate::model::secret::Secret;

/// What a fixed key is called.
const FIXED_KEY_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Whoever keeps the keys.
#[async_trait]
pub trait KeyManager: Send + Sync {
    /// The passphrase made of a key: its bytes in hexadecimal.
    async fn passphrase(
        &self,
        context: &RequestContext,
        volume_id: &str,
        key_id: &str,
    ) -> Result<Secret, VolumeError>;
}

/// One key for all volumes: `[key_manager] fixed_key`. Without it there is none.
pub struct FixedKey(pub Option<Secret>);

#[async_trait]
impl KeyManager for FixedKey {
    async fn passphrase(
        &self,
        _: &RequestContext,
        volume_id: &str,
        key_id: &str,
    ) -> Result<Secret, VolumeError> {
        let refused = |message: &str| VolumeError::NoKey {
            volume_id: volume_id.to_owned(),
            message: message.to_owned(),
        };
        let Some(key) = &self.0 else {
            return Err(refused("only keys of [key_manager] fixed_key are supported"));
        };
        if key_id != FIXED_KEY_ID {
            return Err(refused("it isn't that of [key_manager] fixed_key"));
        }
        let text = key.expose();
        match !text.is_empty() && text.len() % 2 == 0 && text.bytes().all(|b| b.is_ascii_hexdigit())
        {
            true => Ok(Secret::new(text.to_ascii_lowercase())),
            false => Err(refused("[key_manager] fixed_key isn't hexadecimal")),
        }
    }
}
