//! A file or a block device of this host. nova: virt/libvirt/volume/volume.py, LibvirtVolumeDriver

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use tokio::io::AsyncSeekExt;

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

/// How large it is, in bytes.
///
/// # Errors
/// `NotExtendable` where its length isn't that of the disk; `Host` for what can't be looked at.
pub async fn size(connection: &ConnectionInfo) -> Result<u64, VolumeError> {
    let path = connection.required("device_path")?;
    if connection.text("format").is_some_and(|format| format != "raw") {
        return Err(VolumeError::NotExtendable);
    }
    let look = async {
        let mut file = tokio::fs::File::open(path).await?;
        file.seek(std::io::SeekFrom::End(0)).await
    };
    look.await.map_err(|error| VolumeError::Host {
        operation: "look at",
        what: path.to_owned(),
        message: error.to_string(),
    })
}
