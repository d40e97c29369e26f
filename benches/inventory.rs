//! What it costs to read the counters of every domain, on libvirt's test driver: one bulk call,
//! against a call for each domain; and the node's resident memory before and after. Prints numbers;
//! passes or fails nothing. `cargo bench --bench inventory`

#![expect(clippy::print_stdout, reason = "the numbers are the point")]
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use hypernova::hypervisor::Hypervisor;
use hypernova::hypervisor::libvirt::{Libvirt, LibvirtOptions};
use hypernova::hypervisor::spec::*;
use uuid::Uuid;

const ROUNDS: u32 = 9;

fn spec() -> DomainSpec {
    let uuid = Uuid::new_v4();
    DomainSpec {
        uuid,
        name: format!("instance-{}", uuid.simple()),
        virt_type: "test".into(),
        memory_kib: 131_072,
        vcpus: 1,
        os: OsSpec { architecture: "i686".into(), ..OsSpec::default() },
        cpu: CpuSpec { sockets: 1, cores: 1, threads: 1, ..CpuSpec::default() },
        clock: Clock { offset: "utc".into(), ..Clock::default() },
        ..DomainSpec::default()
    }
}

fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / f64::from(1 << 20)
}

/// The middle of a few runs of `f`.
async fn median<F: AsyncFn()>(f: F) -> Duration {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        f().await;
        times.push(started.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

#[tokio::main]
async fn main() {
    let libvirt = Libvirt::open(LibvirtOptions::new("test:///default")).await.unwrap();
    println!("resident at start: {:.1} MiB", resident_mib());
    println!(
        "{:>7} {:>12} {:>14} {:>12} {:>12} {:>9}",
        "domains", "all_stats", "per domain", "one by one", "list", "resident"
    );
    let mut uuids = Vec::new();
    for count in [1, 30, 100, 300] {
        while uuids.len() < count {
            let spec = spec();
            libvirt.define(&spec).await.unwrap();
            libvirt.start(spec.uuid, Default::default()).await.unwrap();
            uuids.push(spec.uuid);
        }
        let bulk = median(async || drop(libvirt.all_stats().await.unwrap())).await;
        let single = median(async || {
            for uuid in &uuids {
                libvirt.stats(*uuid).await.unwrap();
            }
        })
        .await;
        let list = median(async || drop(libvirt.domains().await.unwrap())).await;
        println!(
            "{count:>7} {bulk:>12.1?} {:>14.2?} {single:>12.1?} {list:>12.1?} {:>5.1} MiB",
            bulk / u32::try_from(count).unwrap(),
            resident_mib()
        );
    }
}
