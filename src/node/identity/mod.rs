//! Who this compute node is: a uuid in a file `compute_id`, which the node's record and its resource
//! provider have, too. An agent that isn't sure who it is doesn't start: it would take another
//! node's instances and allocations for its own, or leave its own behind.
//! nova: compute/manager.py, `_ensure_existing_node_identity` and `_check_for_host_rename`

use tracing::warn;
use uuid::Uuid;

pub use self::error::IdentityError;
pub use self::files::IdentityFiles;
use crate::model::context::RequestContext;
use crate::model::object::{ComputeNode, Service};
use crate::records::conductor::Conductor;

mod error;
mod files;

/// From this service version on a host that has registered has a file.
/// nova: objects/service.py, NODE_IDENTITY_VERSION
const SINCE_VERSION: i64 = 65;

/// What is asked at start.
#[derive(Debug, Clone, Copy)]
pub struct Identify<'a> {
    pub files: &'a IdentityFiles,
    /// `[DEFAULT] host`
    pub host: &'a str,
    /// The hypervisor's host name.
    pub node: &'a str,
    /// The host's service as it is on record; `None` when it is new.
    pub service: Option<&'a Service>,
    /// How many domains the hypervisor has.
    pub domains: usize,
}

/// Who this node is.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// Of the node's record and of its resource provider.
    pub uuid: Uuid,
    /// `None`: there is no record yet.
    pub record: Option<ComputeNode>,
}

/// Finds out who this node is, and writes it down if this is its first start.
///
/// # Errors
/// [`IdentityError`] when the agent must not start.
pub async fn identify(
    conductor: &Conductor,
    context: &RequestContext,
    ask: Identify<'_>,
) -> Result<NodeIdentity, IdentityError> {
    let (files, host) = (ask.files, ask.host.to_owned());
    let found = files.read()?;
    let uuid = match (found, ask.service) {
        // Domains that nobody here has on record are another control plane's.
        (_, None) if ask.domains > 0 => {
            return Err(IdentityError::NotEmpty { host, domains: ask.domains });
        }
        (Some(uuid), _) => uuid,
        (None, None) => {
            let uuid = Uuid::new_v4();
            files.write(uuid)?;
            uuid
        }
        (None, Some(service)) => {
            let version = service.version.get().copied().unwrap_or(0);
            let uuid = recall(conductor, context, files, host, version).await?;
            files.write(uuid)?;
            uuid
        }
    };
    let record = conductor.nodes(context, &[uuid]).await?.into_iter().next();
    match &record {
        Some(record) => check(uuid, record, &ask)?,
        None => {
            // nova can't keep two nodes of one host, and stops at the second's record.
            let nodes = match ask.service {
                Some(_) => conductor.nodes_of_host(context, ask.host).await?,
                None => Vec::new(),
            };
            let nodes: Vec<_> = nodes.iter().filter_map(|node| node.uuid.get().copied()).collect();
            if !nodes.is_empty() {
                return Err(IdentityError::Another { uuid, host: ask.host.to_owned(), nodes });
            }
            warn!(%uuid, "no compute node of this identity is on record: it will be created");
        }
    }
    Ok(NodeIdentity { uuid, record })
}

/// The identity of a host that has registered and has no file: what its record says, if the host
/// is from before there were files.
async fn recall(
    conductor: &Conductor,
    context: &RequestContext,
    files: &IdentityFiles,
    host: String,
    version: i64,
) -> Result<Uuid, IdentityError> {
    let nodes = conductor.nodes_of_host(context, &host).await?;
    let nodes: Vec<Uuid> = nodes.iter().filter_map(|node| node.uuid.get().copied()).collect();
    let path = files.own.clone();
    match nodes[..] {
        _ if version >= SINCE_VERSION => Err(IdentityError::Lost { path, nodes }),
        [uuid] => Ok(uuid),
        [] => Err(IdentityError::NoNode { host, version }),
        _ => Err(IdentityError::SeveralNodes { host, path, nodes }),
    }
}

fn check(uuid: Uuid, record: &ComputeNode, ask: &Identify<'_>) -> Result<(), IdentityError> {
    let recorded = record.hypervisor_hostname.text().unwrap_or_default();
    if recorded != ask.node {
        let (recorded, node) = (recorded.to_owned(), ask.node.to_owned());
        return Err(IdentityError::Renamed { uuid, recorded, node });
    }
    let recorded = record.host.text().unwrap_or_default();
    if recorded != ask.host {
        let (recorded, host) = (recorded.to_owned(), ask.host.to_owned());
        return Err(IdentityError::AnotherHost { uuid, recorded, host });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::Source;
    use crate::records::conductor::ConductorOptions;
    use crate::records::conductor::fake::FakeConductor;

    const ID: Uuid = Uuid::from_u128(1);

    struct World {
        fake: Arc<FakeConductor>,
        conductor: Conductor,
        directory: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let fake = Arc::new(FakeConductor::new());
            let options = ConductorOptions::new(Duration::from_secs(1));
            let conductor = Conductor::new(fake.clone(), options);
            Self { fake, conductor, directory: tempfile::tempdir().unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn add_node(&self, uuid: Uuid, host: &str, name: &str) {
            let mut node = ComputeNode::default();
            node.uuid.load(Some(uuid));
            node.host.load(Some(Some(host.to_owned())));
            node.hypervisor_hostname.load(Some(Some(name.to_owned())));
            self.fake.add(&node);
        }

        async fn identify(
            &self,
            version: Option<i64>,
            domains: usize,
        ) -> Result<NodeIdentity, IdentityError> {
            let service = version.map(|version| {
                let mut service = Service::default();
                service.version.load(Some(version));
                service
            });
            let sources =
                [Source::File(self.path("etc/nova.conf")), Source::Directory(self.path("conf.d"))];
            let files = IdentityFiles::new(&sources, &self.path("state"));
            let service = service.as_ref();
            let ask = Identify { files: &files, host: "h1", node: "n1", service, domains };
            identify(&self.conductor, &RequestContext::admin(), ask).await
        }
    }

    #[tokio::test]
    async fn a_new_host_makes_itself_an_identity_and_keeps_it() {
        let world = World::new();
        let first = world.identify(None, 0).await.unwrap();
        assert!(first.record.is_none());
        let text = fs::read_to_string(world.path("state/compute_id")).unwrap();
        assert_eq!(text, first.uuid.to_string());
        assert_eq!(fs::read_dir(world.path("state")).unwrap().count(), 1);
        world.add_node(first.uuid, "h1", "n1");
        let again = world.identify(Some(72), 3).await.unwrap();
        assert_eq!(again.uuid, first.uuid);
        assert!(again.record.is_some());
    }

    #[tokio::test]
    async fn a_new_host_takes_the_identity_that_an_operator_gave_it() {
        let world = World::new();
        world.write("etc/compute_id", &format!(" {ID}\n"));
        assert_eq!(world.identify(None, 0).await.unwrap().uuid, ID);
        assert!(!world.path("state/compute_id").exists());
    }

    #[tokio::test]
    async fn a_new_host_with_domains_is_refused_and_writes_nothing() {
        let world = World::new();
        let refused = world.identify(None, 2).await.unwrap_err();
        assert!(matches!(refused, IdentityError::NotEmpty { domains: 2, .. }), "{refused}");
        assert!(!world.path("state").exists());
    }

    #[tokio::test]
    async fn a_host_that_lost_its_identity_is_told_what_is_on_record() {
        let world = World::new();
        world.add_node(ID, "h1", "n1");
        let refused = world.identify(Some(65), 0).await.unwrap_err();
        assert!(matches!(refused, IdentityError::Lost { .. }), "{refused}");
        assert!(refused.to_string().contains(&ID.to_string()), "{refused}");
        assert!(!world.path("state/compute_id").exists());
    }

    #[tokio::test]
    async fn a_host_from_before_there_were_files_is_what_its_record_says() {
        let world = World::new();
        let refused = world.identify(Some(64), 0).await.unwrap_err();
        assert!(matches!(refused, IdentityError::NoNode { version: 64, .. }), "{refused}");
        world.add_node(ID, "h1", "n1");
        assert_eq!(world.identify(Some(64), 1).await.unwrap().uuid, ID);
        fs::remove_file(world.path("state/compute_id")).unwrap();
        world.add_node(Uuid::from_u128(2), "h1", "n2");
        let refused = world.identify(Some(64), 0).await.unwrap_err();
        assert!(matches!(refused, IdentityError::SeveralNodes { .. }), "{refused}");
    }

    #[tokio::test]
    async fn an_identity_of_another_host_is_refused() {
        let world = World::new();
        world.write("state/compute_id", &ID.to_string());
        world.add_node(ID, "h2", "n1");
        let refused = world.identify(None, 0).await.unwrap_err();
        assert!(
            matches!(&refused, IdentityError::AnotherHost { recorded, .. } if recorded == "h2"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_host_that_is_on_record_as_another_node_is_refused() {
        let world = World::new();
        world.write("state/compute_id", &ID.to_string());
        let recorded = Uuid::from_u128(2);
        world.add_node(recorded, "h1", "n1");
        let refused = world.identify(Some(72), 0).await.unwrap_err();
        assert!(matches!(refused, IdentityError::Another { .. }), "{refused}");
        assert!(refused.to_string().contains(&recorded.to_string()), "{refused}");
    }

    #[tokio::test]
    async fn a_renamed_machine_is_refused() {
        let world = World::new();
        world.write("state/compute_id", &ID.to_string());
        world.add_node(ID, "h1", "old");
        let refused = world.identify(Some(72), 0).await.unwrap_err();
        assert!(
            matches!(&refused, IdentityError::Renamed { recorded, .. } if recorded == "old"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn files_that_disagree_or_hold_no_uuid_are_refused() {
        let world = World::new();
        world.write("state/compute_id", &ID.to_string());
        world.write("etc/compute_id", &Uuid::from_u128(2).to_string());
        let refused = world.identify(Some(72), 0).await.unwrap_err();
        assert!(matches!(refused, IdentityError::Disagreeing { .. }), "{refused}");
        for text in ["", "compute1", &format!("{ID}{ID}"), "\u{fffd}\u{fffd}"] {
            world.write("etc/compute_id", text);
            let refused = world.identify(Some(72), 0).await.unwrap_err();
            assert!(matches!(refused, IdentityError::NotUuid { .. }), "{text}: {refused}");
        }
        world.write("etc/compute_id", &ID.to_string());
        assert_eq!(world.identify(Some(72), 0).await.unwrap().uuid, ID);
    }
}
