//! A file or a block device of this host. nova: virt/libvirt/volume/volume.py, LibvirtVolumeDriver

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::volumes::{ConnectionInfo, VolumeError};

/// In the connection: `file` or `block`.
pub const SOURCE: &str = "source_type";

/// Looks whether it is there, and what it is.
///
/// # Errors
/// `Host` for what isn't there or is no disk, `Connection` for a path that isn't whole.
pub async fn connect(connection: &mut ConnectionInfo) -> Result<(), VolumeError> {
    let path = connection.required("device_path")?.to_owned();
    if !Path::new(&path).is_absolute() {
        let message = "its path isn't absolute".to_owned();
        return Err(VolumeError::Connection { message });
    }
    let failed =
        |message: String| VolumeError::Host { operation: "look at", what: path.clone(), message };
    let found = tokio::fs::metadata(&path).await.map_err(|error| failed(error.to_string()))?;
    let source = match found.file_type() {
        kind if kind.is_file() => "file",
        kind if kind.is_block_device() => "block",
        _ => return Err(failed("it is no file and no block device".to_owned())),
    };
    connection.note(SOURCE, source);
    Ok(())
}
