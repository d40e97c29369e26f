//! What belongs to an instance and has a table of its own: faults, tags, keypairs, …
//! nova: objects/{instance_fault,tag,keypair,security_group,trusted_certs,ec2,vcpu_model}.py

use uuid::Uuid;

use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

versioned_object! {
    /// The network of an instance as Neutron described it last. `network_info` is JSON text:
    /// [`InstanceInfoCache::vifs`] reads it.
    InstanceInfoCache "1.5" {
        instance_uuid: Uuid,
        network_info: Option<String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

versioned_object! {
    /// Why an operation failed, shown to the owner. `message` is at most 255 characters.
    InstanceFault "1.2" {
        id: i64,
        instance_uuid: Uuid,
        /// An HTTP status, 500 unless the error has one.
        code: i64,
        message: Option<String>,
        /// A traceback, shown to administrators.
        details: Option<String>,
        host: Option<String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several faults.
    InstanceFaultList "1.2" of InstanceFault
}

versioned_object! {
    /// A user's label on an instance.
    Tag "1.1" {
        resource_id: String,
        tag: String,
    }
}

object_list! {
    /// Several tags.
    TagList "1.1" of Tag
}

versioned_object! {
    /// A security group, of which a request has the name only.
    SecurityGroup "1.2" {
        id: i64,
        name: String,
        description: String,
        user_id: String,
        project_id: String,
        uuid: Uuid,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several security groups.
    SecurityGroupList "1.1" of SecurityGroup
}

versioned_object! {
    /// An SSH key or X.509 certificate of a user.
    KeyPair "1.4" {
        id: i64,
        name: String,
        user_id: Option<String>,
        fingerprint: Option<String>,
        public_key: Option<String>,
        kind = "type": String,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several keypairs.
    KeyPairList "1.3" of KeyPair
}

versioned_object! {
    /// Certificates by which a signed image may be validated.
    TrustedCerts "1.0" {
        ids: Vec<String>,
    }
}

versioned_object! {
    /// Ids in the style of EC2, for the metadata service.
    EC2Ids "1.0" {
        instance_id: String,
        ami_id: Option<String>,
        kernel_id: Option<String>,
        ramdisk_id: Option<String>,
    }
}

versioned_object! {
    /// The virtual CPU that an instance was started with.
    VirtCPUModel "1.0" {
        arch: Option<String>,
        vendor: Option<String>,
        topology: Option<VirtCPUTopology>,
        features: Vec<VirtCPUFeature>,
        /// `custom`, `host-model`, `host-passthrough`
        mode: Option<String>,
        model: Option<String>,
        /// `minimum`, `exact`, `strict`
        matching = "match": Option<String>,
    }
}

versioned_object! {
    /// One feature flag of a virtual CPU.
    VirtCPUFeature "1.0" {
        /// `force\`, `require\`, `optional\`, `disable\`, `forbid`
        policy: Option<String>,
        name: String,
    }
}

versioned_object! {
    /// Sockets × cores × threads.
    VirtCPUTopology "1.0" {
        sockets: Option<i64>,
        cores: Option<i64>,
        threads: Option<i64>,
    }
}
