//! The node's NUMA cells, as its record has them.

use std::collections::BTreeSet;

use super::cpus::CpuSet;
use crate::hypervisor::host::{Capabilities, HostCell};
use crate::model::object::{
    InstanceNUMACell, InstanceNUMATopology, NUMACell, NUMAPagesTopology, NUMATopology,
    NetworkMetadata, VersionedObject,
};

/// Architectures on which the driver knows cells.
/// nova: virt/libvirt/driver.py, `_has_numa_support`
const ARCHITECTURES: &[&str] = &["i686", "x86_64", "aarch64", "ppc64", "ppc64le"];

/// The host's cells with what the instances take of them, as JSON text; `None` where the hypervisor
/// tells of no cells. nova: `_get_host_numa_topology`, virt/hardware.py,
/// `numa_usage_from_instance_numa`
pub fn numa_topology<'a>(
    host: &Capabilities,
    (shared, pinnable): (&CpuSet, &CpuSet),
    instances: impl Iterator<Item = &'a InstanceNUMATopology>,
) -> Option<String> {
    if host.cells.is_empty() || !ARCHITECTURES.contains(&host.cpu.architecture.as_str()) {
        return None;
    }
    let mut cells: Vec<NUMACell> =
        host.cells.iter().map(|cell| numa_cell(cell, shared, pinnable)).collect();
    for taken in instances.filter_map(|instance| instance.cells.get()).flatten() {
        for cell in cells.iter_mut().filter(|cell| cell.id.get() == taken.id.get()) {
            take(cell, taken);
        }
    }
    let mut topology = NUMATopology::default();
    topology.cells.set(cells);
    Some(topology.to_primitive().to_string())
}

fn numa_cell(cell: &HostCell, shared: &CpuSet, pinnable: &CpuSet) -> NUMACell {
    let cpus: CpuSet = cell.cpus.iter().map(|cpu| cpu.id).collect();
    let wide = |set: CpuSet| -> BTreeSet<i64> { set.into_iter().map(i64::from).collect() };
    let ours = &cpus & &(shared | pinnable);
    let siblings: BTreeSet<BTreeSet<i64>> = cell
        .cpus
        .iter()
        .map(|cpu| wide(&cpu.siblings & &ours))
        .filter(|siblings| !siblings.is_empty())
        .collect();
    let sockets: BTreeSet<Option<u32>> = cell.cpus.iter().map(|cpu| cpu.socket).collect();
    // With several sockets in a cell, none is the cell's.
    let socket = sockets.first().copied().flatten().filter(|_| sockets.len() == 1);
    let pages = cell.pages.iter().map(|pages| {
        let mut of_size = NUMAPagesTopology::default();
        of_size.size_kb.set(i64::try_from(pages.size_kib).unwrap_or(i64::MAX));
        of_size.total.set(i64::try_from(pages.total).unwrap_or(i64::MAX));
        of_size.used.set(0);
        of_size.reserved.set(0);
        of_size
    });
    let mut network = NetworkMetadata::default();
    network.physnets.set(BTreeSet::new());
    network.tunneled.set(false);
    let mut found = NUMACell::default();
    found.id.set(i64::from(cell.id));
    found.socket.set(socket.map(i64::from));
    found.cpuset.set(wide(&cpus & shared));
    found.pcpuset.set(wide(&cpus & pinnable));
    found.memory.set(i64::try_from(cell.memory_kib / 1024).unwrap_or(i64::MAX));
    found.cpu_usage.set(0);
    found.memory_usage.set(0);
    found.pinned_cpus.set(BTreeSet::new());
    found.siblings.set(siblings.into_iter().collect());
    found.mempages.set(pages.collect());
    found.network_metadata.set(network);
    found
}

/// Counts what an instance takes of a cell.
fn take(cell: &mut NUMACell, taken: &InstanceNUMACell) {
    let memory = taken.memory.get().copied().unwrap_or(0);
    cell.memory_usage.update(|usage| *usage += memory);
    let shared = taken.cpuset.get().map_or(0, BTreeSet::len);
    cell.cpu_usage.update(|usage| *usage += i64::try_from(shared).unwrap_or(i64::MAX));
    if let Some(size) = taken.pagesize.value().filter(|size| **size > 0) {
        cell.mempages.update(|pages| {
            for of_size in pages.iter_mut().filter(|pages| pages.size_kb.get() == Some(size)) {
                of_size.used.update(|used| *used += memory * 1024 / size);
            }
        });
    }
    if matches!(taken.cpu_policy.text(), None | Some("shared")) {
        return;
    }
    let mut pinned: BTreeSet<i64> = taken
        .cpu_pinning_raw
        .value()
        .into_iter()
        .flat_map(|pinning| pinning.values().copied())
        .chain(taken.cpuset_reserved.value().into_iter().flatten().copied())
        .collect();
    if taken.cpu_thread_policy.text() == Some("isolate") {
        let siblings = cell.siblings.get().into_iter().flatten();
        let cores = siblings.filter(|core| !core.is_disjoint(&pinned));
        pinned = cores.flatten().copied().chain(pinned.iter().copied()).collect();
    }
    cell.pinned_cpus.update(|cpus| cpus.extend(pinned));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::hypervisor::host::{HostCpu, HostPages, HostThread};

    fn host(threads: &[(u32, &[u32])]) -> Capabilities {
        let thread = |(id, siblings): &(u32, &[u32])| HostThread {
            id: *id,
            socket: Some(0),
            siblings: siblings.iter().copied().collect(),
        };
        let pages = [(4, 2_447_923), (2048, 0), (1_048_576, 0)];
        let cell = HostCell {
            id: 0,
            memory_kib: 9_791_692,
            pages: pages.map(|(size_kib, total)| HostPages { size_kib, total }).to_vec(),
            cpus: threads.iter().map(thread).collect(),
        };
        let cpu = HostCpu { architecture: "x86_64".into(), ..HostCpu::default() };
        Capabilities { cpu, cells: vec![cell], ..Capabilities::default() }
    }

    fn read(text: &str) -> Value {
        let mut value: Value = serde_json::from_str(text).unwrap();
        sort(&mut value);
        value
    }

    /// Python's sets have no order.
    fn sort(value: &mut Value) {
        match value {
            Value::Array(items) => {
                items.iter_mut().for_each(sort);
                if items.iter().all(Value::is_string) {
                    items.sort_by_key(Value::to_string);
                }
            }
            Value::Object(items) => items.values_mut().for_each(sort),
            _ => {}
        }
    }

    #[test]
    fn the_cells_are_novas() {
        let shared = CpuSet::from([0, 1]);
        let host = host(&[(0, &[0]), (1, &[1])]);
        let ours = numa_topology(&host, (&shared, &shared), [].iter()).unwrap();
        // Recorded of nova-compute 33.0.2.
        let recorded = include_str!("../../tests/fixtures/node/numa_topology.json");
        assert_eq!(read(&ours), read(recorded));
    }

    #[test]
    fn what_instances_take_of_a_cell_is_counted_there() {
        let mut cell = InstanceNUMACell::default();
        cell.id.set(0);
        cell.memory.set(512);
        cell.pagesize.set(Some(2048));
        cell.cpuset.set([0, 1].into());
        cell.cpu_policy.set(Some("dedicated".to_owned()));
        cell.cpu_thread_policy.set(Some("isolate".to_owned()));
        cell.cpu_pinning_raw.set(Some(BTreeMap::from([("0".to_owned(), 2)])));
        let mut elsewhere = cell.clone();
        elsewhere.id.set(1);
        let mut instance = InstanceNUMATopology::default();
        instance.cells.set(vec![cell, elsewhere]);
        let host = host(&[(0, &[0, 1]), (1, &[0, 1]), (2, &[2, 3]), (3, &[2, 3])]);
        let (shared, dedicated) = (CpuSet::from([0, 1]), CpuSet::from([2, 3]));
        let text = numa_topology(&host, (&shared, &dedicated), [&instance].into_iter()).unwrap();
        let text: Value = serde_json::from_str(&text).unwrap();
        let cell = &text["nova_object.data"]["cells"][0]["nova_object.data"];
        assert_eq!(cell["memory_usage"], 512);
        assert_eq!(cell["cpu_usage"], 2);
        assert_eq!(cell["pinned_cpus"], serde_json::json!([2, 3]));
        assert_eq!(cell["mempages"][1]["nova_object.data"]["used"], 256);
        assert_eq!(cell["cpuset"], serde_json::json!([0, 1]));
        assert_eq!(cell["pcpuset"], serde_json::json!([2, 3]));
    }

    #[test]
    fn a_host_that_tells_of_no_cells_has_none() {
        let none = CpuSet::new();
        assert_eq!(numa_topology(&Capabilities::default(), (&none, &none), [].iter()), None);
    }
}
