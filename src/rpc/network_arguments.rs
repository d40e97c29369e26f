//! The arguments that speak of networks: what a build wants of its own, and what others report.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::failure::Fault;
use super::request::{take, take_optional, text};
use crate::dispatch::events::InstanceEvent;
use crate::model::object::codec::FieldType;
use crate::model::object::{
    Instance, InstanceExternalEvent, NetworkRequestList, RequestGroup, clip,
};
use crate::network::{RequestedNetwork, Wanted};
use crate::workflow::exception::object_fault;
use crate::workflow::external_events::{EventKey, Reported};

/// What a build wants of its network.
///
/// # Errors
/// The object's own for one that can't be read.
pub(super) fn wanted(args: &mut Map<String, Value>) -> Result<Wanted, Fault> {
    let networks: Option<NetworkRequestList> = take_optional(args, "requested_networks")?;
    Ok(Wanted {
        networks: networks.map(requested).unwrap_or_default(),
        security_groups: security_groups(args.get("security_groups")),
        providers: providers(args.get("request_spec"))?,
        besides: Vec::new(),
    })
}

fn requested(list: NetworkRequestList) -> Vec<RequestedNetwork> {
    let all = list.objects.get().map(Vec::as_slice).unwrap_or_default();
    let read = |request: &crate::model::object::NetworkRequest| RequestedNetwork {
        network_id: request.network_id.value().cloned(),
        port_id: request.port_id.value().copied(),
        address: request.address.value().cloned(),
        tag: request.tag.value().cloned(),
        has_device: request.pci_request_id.value().is_some() || request.arq_uuid.value().is_some(),
    };
    all.iter().map(read).collect()
}

/// The interface that comes to a guest.
///
/// # Errors
/// `TypeError` for what is no text; `InvalidInput` for a port that no id names.
pub(super) fn attached(args: &Map<String, Value>) -> Result<RequestedNetwork, Fault> {
    let optional = |name: &str| match args.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => text(args, name).map(|text| Some(text).filter(|text| !text.is_empty())),
    };
    let port_id = optional("port_id")?.map(|id| {
        id.parse().map_err(|_| Fault::nova("InvalidInput", format!("{} is no port", clip(&id))))
    });
    Ok(RequestedNetwork {
        network_id: optional("network_id")?,
        port_id: port_id.transpose()?,
        address: optional("requested_ip")?,
        tag: optional("tag")?,
        has_device: false,
    })
}

/// nova-api sends names and ids alike.
fn security_groups(value: Option<&Value>) -> Vec<String> {
    let groups = value.and_then(Value::as_array).into_iter().flatten();
    groups.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Which resource providers serve which requester, a port say. Only this part of the request
/// specification is read here. nova: objects/request_spec.py, get_request_group_mapping
fn providers(spec: Option<&Value>) -> Result<BTreeMap<String, Vec<Uuid>>, Fault> {
    let groups = spec.and_then(|spec| spec.pointer("/nova_object.data/requested_resources"));
    let groups = groups.and_then(Value::as_array).into_iter().flatten();
    let mut providers = BTreeMap::new();
    for group in groups {
        let group = RequestGroup::decode(group).map_err(|error| object_fault(&error))?;
        if let (Some(requester), Some(uuids)) =
            (group.requester_id.value(), group.provider_uuids.get())
        {
            providers.insert(requester.clone(), uuids.clone());
        }
    }
    Ok(providers)
}

/// Events with the instances that they are about. One about no instance of the message is passed
/// over. nova: compute/manager.py, external_instance_event
///
/// # Errors
/// The object's own for one that can't be read.
pub(super) fn events(mut args: Map<String, Value>) -> Result<Vec<InstanceEvent>, Fault> {
    let instances: Vec<Instance> = take(&mut args, "instances")?;
    let events: Vec<InstanceExternalEvent> = take(&mut args, "events")?;
    let read = |event: &InstanceExternalEvent| {
        let uuid = *event.instance_uuid.get()?;
        let instance = instances.iter().find(|instance| instance.uuid.get() == Some(&uuid))?;
        let (name, tag) = (event.name.get()?.clone(), event.tag.value().cloned());
        let reported = match event.status.get().map(String::as_str) {
            Some("completed") => Reported::Completed,
            _ => Reported::Failed,
        };
        Some(InstanceEvent {
            instance: instance.clone(),
            uuid,
            key: EventKey { name, tag },
            reported,
        })
    };
    Ok(events.iter().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fixture() -> Map<String, Value> {
        let text = include_str!("../../tests/fixtures/rpc/external_instance_event.json");
        let message: Value = serde_json::from_str(text).unwrap();
        message["args"].as_object().unwrap().clone()
    }

    #[test]
    fn recorded_events_are_events() {
        let args = fixture();
        let events = events(args).unwrap();
        let [event] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(event.key.name, "network-changed");
        assert_eq!(event.key.tag.as_deref(), Some("c7352cde-117d-4aa3-9307-70caa5bf3a76"));
        assert_eq!(
            (event.reported, event.instance.uuid.get()),
            (Reported::Completed, Some(&event.uuid))
        );
    }

    #[test]
    fn an_event_about_no_instance_is_passed_over_and_what_is_no_event_is_refused() {
        let mut args = fixture();
        args["instances"] = json!([]);
        assert!(events(args.clone()).unwrap().is_empty());
        args["events"] = json!([{"name": 1}]);
        events(args).unwrap_err();
    }
}
