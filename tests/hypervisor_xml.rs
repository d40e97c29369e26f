//! XML of any content, both ways: what is written is always well-formed and reads back; what is read
//! may be anything.

#![allow(clippy::unwrap_used)]

use hypernova::hypervisor::host::{Capabilities, DomainCapabilities};
use hypernova::hypervisor::libvirt::xml::read::{consoles, domain_facts};
use hypernova::hypervisor::libvirt::xml::{Node, domain_xml};
use hypernova::hypervisor::spec::*;
use proptest::prelude::*;
use proptest::sample::Index;

const RECORDED: &str = include_str!("golden/domain/recorded-instance-00000002.xml");

fn read_everything(xml: &str) {
    // Only that they come back matters here: each answers or refuses, and neither panics.
    drop(Node::parse(xml));
    drop(domain_facts(xml));
    drop(consoles(xml));
    drop(Capabilities::parse(xml));
    drop(DomainCapabilities::parse(xml));
}

/// Text as users can send it: with markup, controls, and whatever else is in Unicode.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[<>&\"'\\]\\[!\\-?/=; a-z\u{0}-\u{1f}\u{7f}-\u{9f}\u{fffe}\u{ffff}]{0,40}",
    ]
}

/// What is left of a text in XML.
fn kept(text: &str) -> String {
    let keep = |c: &char| !matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    text.chars().filter(keep).collect()
}

proptest! {
    #[test]
    fn reading_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        read_everything(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn reading_a_mangled_domain_never_panics(
        edits in proptest::collection::vec((any::<Index>(), any::<u8>(), 0..3u8), 1..30),
    ) {
        let mut bytes = RECORDED.as_bytes().to_vec();
        for (at, byte, how) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        read_everything(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn what_is_written_is_well_formed_and_reads_back(
        name in hostile(), key in hostile(), value in hostile(), path in hostile(), mac in hostile(),
    ) {
        let mut spec = DomainSpec { name: name.clone(), ..DomainSpec::default() };
        spec.metadata.name = name.clone();
        spec.metadata.flavor.extra_specs = vec![(key.clone(), value.clone())];
        spec.metadata.user = Some((key.clone(), value.clone()));
        spec.os.direct_kernel = Some(DirectKernel {
            kernel: path.clone().into(), ramdisk: None, command_line: value.clone(),
        });
        spec.disks = vec![DiskSpec { source: DiskSource::File(path.clone().into()), target: "vda".into(), ..DiskSpec::default() }];
        spec.interfaces = vec![InterfaceSpec { mac_address: mac.clone(), ..InterfaceSpec::default() }];
        let xml = domain_xml(&spec);
        let facts = domain_facts(&xml).unwrap();
        let nova = facts.nova.unwrap();
        prop_assert_eq!(nova.display_name.unwrap_or_default().trim().to_owned(), kept(&name).trim().to_owned());
        prop_assert_eq!(nova.user_id.unwrap_or_default(), kept(&key));
        prop_assert_eq!(facts.disks[0].source.clone().unwrap_or_default(), kept(&path));
        prop_assert_eq!(&facts.interfaces[0].mac_address, &kept(&mac));
        let node = Node::parse(&xml).unwrap();
        let specs = node.find(&["metadata", "nova:instance", "nova:flavor", "nova:extraSpecs"]);
        prop_assert_eq!(specs.unwrap().children.len(), 1, "no element was smuggled in");
    }
}
