//! Images as Glance and nova describe them. nova: objects/image_meta.py

use uuid::Uuid;

use crate::versioned_object;

versioned_object! {
    /// An image's record in Glance. Sizes: `size` and `virtual_size` in bytes, `min_disk` in GiB,
    /// `min_ram` in MiB.
    ImageMeta "1.8" {
        id: Uuid,
        name: String,
        status: String,
        checksum: String,
        size: i64,
        virtual_size: i64,
        container_format: String,
        disk_format: String,
        direct_url: String,
        min_disk: i64,
        min_ram: i64,
        properties: ImageMetaProps,
    }
}

versioned_object! {
    /// The image properties that nova understands.
    ImageMetaProps "1.39" {
        hw_machine_type: String,
    }
}
