//! Against the Neutron in memory: what is asked, what is left, and what nova would have recorded.

use std::sync::Arc;

use serde_json::{Value, json};

use super::fake::FakeNeutron;
use super::*;
use crate::model::class::Class;
use crate::model::network::{network_info_text, parse_network_info};
use crate::model::object::InstanceInfoCache;
use crate::model::secret::Secret;
use crate::network::RequestedNetwork;
use crate::network::plug::ovs::OvsOptions;

const INSTANCE: &str = "24ef2f14-daa6-42b1-b7fa-7136169b5f1c";
const PROJECT: &str = "1636986d9ad64a04986c679176c6d90f";
pub(super) const NETWORK: &str = "57b8d57e-9dff-432d-9967-42c1e70508a4";
pub(super) const SUBNET: &str = "f97f925f-d4d5-4fbb-9232-07ce846830b2";
const USERS_PORT: &str = "da651fe8-a81c-4397-8bf3-e8fd4ded7527";

/// A recorded build of nova-compute's: what it asked of Neutron, and what it recorded.
fn recorded() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/neutron/build.json")).unwrap()
}

pub(super) fn network(fake: &Arc<FakeNeutron>) -> NeutronNetwork {
    let ovs = OvsOptions {
        connection: "unix:/nonexistent".to_owned(),
        timeout: Duration::from_secs(1),
        isolate_vif: false,
        per_port_bridge: false,
        default_qos_type: "linux-noop".to_owned(),
    };
    let options = NeutronOptions {
        host: "compute1".to_owned(),
        allocate_retries: 0,
        ovs_bridge: "br-int".to_owned(),
        extension_sync_interval: Duration::from_secs(600),
        flat_injected: false,
    };
    NeutronNetwork::new(fake.clone(), fake.clone(), Plugger::new(ovs, 1500), options)
}

/// The network and the subnet of the recording.
pub(super) fn neutron() -> Arc<FakeNeutron> {
    let fake = FakeNeutron::new();
    let recorded = recorded();
    let answer = |path: &str| {
        let requests = recorded["requests"].as_array().unwrap();
        let found = requests.iter().find(|r| r["path"].as_str().unwrap().starts_with(path));
        found.unwrap_or_else(|| panic!("{path}"))["answer"].clone()
    };
    fake.add("networks", answer("/v2.0/networks?id=")["networks"][0].clone());
    fake.add("subnets", answer("/v2.0/subnets?id=")["subnets"][0].clone());
    Arc::new(fake)
}

fn users_port(more: Value) -> Value {
    let mut port = json!({
        "id": USERS_PORT, "network_id": NETWORK, "tenant_id": PROJECT, "device_id": "",
        "device_owner": "", "mac_address": "fa:16:3e:99:99:99", "status": "DOWN",
        "admin_state_up": true, "dns_name": "", "binding:vif_type": "unbound",
        "binding:profile": {"pci_slot": "x", "mine": 1}, "binding:vnic_type": "normal",
        "fixed_ips": [{"subnet_id": SUBNET, "ip_address": "10.77.0.99"}], "bindings": [],
    });
    for (key, value) in more.as_object().unwrap() {
        port[key] = value.clone();
    }
    port
}

pub(super) fn instance() -> Instance {
    let mut instance = Instance::default();
    instance.uuid.load(Some(Uuid::parse_str(INSTANCE).unwrap()));
    instance.project_id.load(Some(Some(PROJECT.to_owned())));
    instance.hostname.load(Some(Some("sc".to_owned())));
    instance.availability_zone.load(Some(Some("nova".to_owned())));
    instance
}

fn with_vifs(vifs: &[Vif]) -> Instance {
    let mut cache = InstanceInfoCache::default();
    cache.set_vifs(vifs);
    let mut instance = instance();
    instance.info_cache.load(Some(Some(cache)));
    instance
}

pub(super) fn user() -> RequestContext {
    RequestContext {
        auth_token: Some(Secret::new("token")),
        request_id: Some("req-d6dba12c-6aa3-4396-8f2a-54dda5d2f76c".to_owned()),
        ..RequestContext::default()
    }
}

pub(super) fn on(network: &str) -> RequestedNetwork {
    RequestedNetwork { network_id: Some(network.to_owned()), ..Default::default() }
}

fn port(id: &str) -> RequestedNetwork {
    RequestedNetwork { port_id: Some(Uuid::parse_str(id).unwrap()), ..Default::default() }
}

fn want(networks: &[RequestedNetwork]) -> Wanted {
    Wanted {
        networks: networks.to_vec(),
        security_groups: vec!["default".to_owned()],
        ..Wanted::default()
    }
}

pub(super) async fn allocate(
    fake: &Arc<FakeNeutron>,
    networks: &[RequestedNetwork],
) -> Result<Vec<Vif>, NetworkError> {
    network(fake).allocate(&user(), &instance(), &want(networks)).await
}

/// The ports that are there, with whose they are and where they are bound.
fn ports(fake: &FakeNeutron) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ports = fake.all("ports");
    ports
        .iter()
        .map(|p| (text(&p["id"]), text(&p["device_id"]), text(&p["binding:host_id"])))
        .collect()
}

#[tokio::test]
async fn a_build_is_asked_for_and_recorded_as_nova_compute_does_it() {
    let fake = neutron();
    // The names that the recorded Neutron gave.
    let renamed = |vifs: &[Vif]| {
        let (id, mac) = (vifs[0].id.to_string(), vifs[0].address.clone().unwrap());
        let text = network_info_text(vifs);
        let text = text.replace(&id, "c7352cde-117d-4aa3-9307-70caa5bf3a76");
        let text = text.replace(&id[..11], "c7352cde-11").replace(&mac, "fa:16:3e:63:66:4e");
        text.replace("10.77.0.1\", \"type\": \"fixed\"", "10.77.0.55\", \"type\": \"fixed\"")
    };
    let mut vifs = allocate(&fake, &[on(NETWORK)]).await.unwrap();
    let subnet = &mut vifs[0].network.as_mut().unwrap().subnets[0];
    subnet.ips[0].address = Some("10.77.0.55".to_owned());
    let recorded = recorded();
    let ours = parse_network_info(&renamed(&vifs)).unwrap();
    let expected = recorded["network_info"].as_str().unwrap();
    // As text, so that the keys stand in nova's order too.
    let expected = network_info_text(&parse_network_info(expected).unwrap());
    assert_eq!(network_info_text(&ours), expected);

    let asked = fake.take_asked();
    let theirs = recorded["requests"].as_array().unwrap();
    assert!(asked.len() <= theirs.len(), "{} requests: {asked:#?}", asked.len());
    let body = |method: &str| {
        let ours = asked.iter().find(|asked| asked.line.starts_with(method)).unwrap();
        let theirs = theirs.iter().find(|request| request["method"] == method).unwrap();
        (ours.body.clone().unwrap(), theirs["body"].clone(), ours.as_user)
    };
    let (ours, theirs, as_user) = body("POST");
    assert_eq!((ours, as_user), (theirs, true), "the user makes the port");
    let (ours, theirs, as_user) = body("PUT");
    assert_eq!((ours, as_user), (theirs, false), "the service binds it");

    let (id, mac) = (vifs[0].id, vifs[0].address.clone().unwrap());
    assert_eq!(fake.interfaces(), [(id, format!("{mac}/{id}"), None)]);
}

#[tokio::test]
async fn a_repeat_finds_the_first_attempts_ports() {
    let fake = neutron();
    let networks = [on(NETWORK), on(NETWORK)];
    let first = allocate(&fake, &networks).await.unwrap();
    assert_eq!(first.len(), 2);
    let again = allocate(&fake, &networks).await.unwrap();
    let ids = |vifs: &[Vif]| vifs.iter().map(|vif| vif.id).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&first));
    assert_eq!((fake.all("ports").len(), fake.interfaces().len()), (2, 2));
    // Ports that the instance keeps beside them aren't taken for ours.
    let besides = Wanted { besides: ids(&first), ..want(&[on(NETWORK)]) };
    let more = network(&fake).allocate(&user(), &instance(), &besides).await.unwrap();
    assert!(more.len() == 1 && !ids(&first).contains(&more[0].id));
}

#[tokio::test]
async fn a_failure_at_any_request_leaves_nothing_behind() {
    let networks = [on(NETWORK), port(USERS_PORT)];
    let fresh = || {
        let fake = neutron();
        fake.add("ports", users_port(json!({})));
        fake
    };
    let fake = fresh();
    allocate(&fake, &networks).await.unwrap();
    let asked = fake.take_asked();
    assert!(asked.len() > 5);
    for (at, request) in asked.iter().enumerate() {
        let fake = fresh();
        let before = asked[..at].iter().filter(|other| other.line.starts_with(&request.line));
        fake.fail(&request.line, before.count(), 500, "Broken");
        let failed = allocate(&fake, &networks).await;
        let error = failed.expect_err(&request.line);
        assert_eq!(error.class(), Class::Transient, "{}: {error}", request.line);
        let left = ports(&fake);
        let expected = [(USERS_PORT.to_owned(), String::new(), String::new())];
        assert_eq!(left, expected, "{}", request.line);
        assert_eq!(fake.interfaces(), [], "{}", request.line);
    }
    let fake = fresh();
    fake.fail("interface", 0, 0, "");
    allocate(&fake, &networks).await.unwrap_err();
    assert_eq!((ports(&fake).len(), fake.interfaces().len()), (1, 0));
}

#[tokio::test]
async fn a_users_port_is_given_back_as_it_was() {
    let fake = neutron();
    fake.add("ports", users_port(json!({})));
    let vifs = allocate(&fake, &[port(USERS_PORT), on(NETWORK)]).await.unwrap();
    assert!(vifs[0].preserve_on_delete && !vifs[1].preserve_on_delete);
    assert_eq!(vifs[0].id.to_string(), USERS_PORT);
    let bound = ports(&fake);
    assert!(bound.iter().all(|(_, device, host)| device == INSTANCE && host == "compute1"));

    network(&fake).deallocate(&user(), &with_vifs(&vifs), &[]).await.unwrap();
    assert_eq!(ports(&fake), [(USERS_PORT.to_owned(), String::new(), String::new())]);
    let left = &fake.all("ports")[0];
    assert_eq!(left["binding:profile"], json!({"mine": 1}), "what is the host's is gone");
    assert_eq!((&left["dns_name"], &left["device_owner"]), (&json!(""), &json!("")));
    assert_eq!(fake.interfaces(), []);
    network(&fake).deallocate(&user(), &with_vifs(&vifs), &[]).await.expect("absent is success");
}

#[tokio::test]
async fn one_interface_is_given_back_and_the_others_stay() {
    let fake = neutron();
    fake.add("ports", users_port(json!({})));
    let vifs = allocate(&fake, &[port(USERS_PORT), on(NETWORK), on(NETWORK)]).await.unwrap();
    let (network, instance) = (network(&fake), with_vifs(&vifs));
    let released = async |vif: &Vif| network.release(&user(), &instance, vif.id).await;
    released(&vifs[1]).await.unwrap();
    released(&vifs[1]).await.expect("absent is success");
    assert_eq!((ports(&fake).len(), fake.interfaces().len()), (2, 2));
    released(&vifs[0]).await.unwrap();
    let users = (USERS_PORT.to_owned(), String::new(), String::new());
    assert!(ports(&fake).contains(&users), "let go of, and there");
    assert_eq!(fake.interfaces().len(), 1);
    // By now it is somebody else's.
    let other = json!({"device_id": "other"});
    fake.change("ports", "id", &vifs[2].id.to_string(), &other);
    released(&vifs[2]).await.unwrap();
    assert_eq!((ports(&fake).len(), fake.interfaces().len()), (2, 0));
}

#[tokio::test]
async fn a_failed_build_lets_go_of_what_was_asked_for_and_deletes_the_rest() {
    let fake = neutron();
    fake.add("ports", users_port(json!({})));
    allocate(&fake, &[port(USERS_PORT), on(NETWORK)]).await.unwrap();
    let keep = [Uuid::parse_str(USERS_PORT).unwrap()];
    // The record of its interfaces was never written.
    network(&fake).deallocate(&user(), &instance(), &keep).await.unwrap();
    assert_eq!(ports(&fake), [(USERS_PORT.to_owned(), String::new(), String::new())]);
}

#[tokio::test]
async fn a_delete_fails_when_a_port_stays_and_not_when_one_is_gone() {
    let fake = neutron();
    let vifs = allocate(&fake, &[on(NETWORK)]).await.unwrap();
    fake.fail("DELETE", 0, 409, "PortInUse");
    let network = network(&fake);
    let error = network.deallocate(&user(), &with_vifs(&vifs), &[]).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    fake.fail("DELETE", 0, 404, "PortNotFound");
    network.deallocate(&user(), &with_vifs(&vifs), &[]).await.unwrap();
}

#[tokio::test]
async fn what_neutron_says_no_to_has_novas_name() {
    for (line, status, kind, expected) in [
        ("POST", 409, "OverQuota", "PortLimitExceeded"),
        ("POST", 409, "IpAddressGenerationFailure", "NoMoreFixedIps"),
        ("POST", 409, "IpAddressInUse", "FixedIpInUse"),
        ("POST", 409, "IpAddressAlreadyAllocated", "FixedIpInUse"),
        ("POST", 400, "InvalidIpForNetwork", "AddressNotOnNetwork"),
        ("PUT", 409, "MacAddressInUse", "PortInUse"),
        ("PUT", 409, "HostNotCompatibleWithFixedIps", "FixedIpInvalidOnHost"),
        ("POST", 403, "PolicyNotAuthorized", "Api(Status"),
    ] {
        let fake = neutron();
        fake.fail(line, 0, status, kind);
        let error = allocate(&fake, &[on(NETWORK)]).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{kind}: {error:?}");
        assert_eq!(ports(&fake), [], "{kind}");
    }
    let fake = neutron();
    fake.bind_as("binding_failed");
    let error = allocate(&fake, &[on(NETWORK)]).await.unwrap_err();
    assert!(matches!(error, NetworkError::PortBindingFailed(_)), "{error:?}");
    assert_eq!(ports(&fake), []);
}

#[tokio::test]
async fn a_port_that_cant_be_used_is_refused_by_name() {
    let other = "00000000-0000-0000-0000-00000000000a";
    for (port_more, expected) in [
        (json!({"tenant_id": "another"}), "PortNotUsable {"),
        (json!({"device_id": other}), "PortInUse"),
        (json!({"dns_name": "another"}), "PortNotUsableDns"),
        (json!({"binding:vif_type": "binding_failed"}), "PortBindingFailed"),
        (json!({"id": other}), "PortNotFound"),
    ] {
        let fake = neutron();
        fake.add("ports", users_port(port_more.clone()));
        let error = allocate(&fake, &[port(USERS_PORT)]).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{port_more}: {error:?}");
        let changes = fake.take_asked().into_iter().filter(|asked| !asked.line.starts_with("GET"));
        assert_eq!(changes.count(), 0, "{port_more}: nothing is changed");
    }
}

#[tokio::test]
async fn networks_are_found_when_none_is_named() {
    let none = Wanted::default();
    let fake = neutron();
    let vifs = network(&fake).allocate(&user(), &instance(), &none).await.unwrap();
    assert_eq!(vifs[0].network.as_ref().unwrap().id.as_deref(), Some(NETWORK), "the only one");

    fake.add("networks", json!({"id": "n2", "shared": true, "subnets": [SUBNET]}));
    let error = network(&fake).allocate(&user(), &instance(), &none).await.unwrap_err();
    assert!(matches!(error, NetworkError::Ambiguous), "{error:?}");

    let empty = Arc::new(FakeNeutron::new());
    let vifs = network(&empty).allocate(&user(), &instance(), &none).await.unwrap();
    assert_eq!(vifs, [], "an instance may have none");
    let error = allocate(&empty, &[on(NETWORK)]).await.unwrap_err();
    assert!(matches!(&error, NetworkError::NotFound(id) if id == NETWORK), "{error:?}");
    let error = allocate(&empty, &[on("auto")]).await.unwrap_err();
    assert!(matches!(error, NetworkError::NotAllocatable(_)), "{error:?}");
    assert_eq!(allocate(&empty, &[on("none")]).await.unwrap(), []);
}

#[tokio::test]
async fn security_groups_are_named_or_numbered_and_need_a_port_that_has_some() {
    let fake = neutron();
    let group = |id: &str, name: &str| json!({"id": id, "name": name, "tenant_id": PROJECT});
    for group in [group("g1", "web"), group("g2", "db"), group("g3", "db")] {
        fake.add("security-groups", group);
    }
    let with = |groups: &[&str]| Wanted {
        security_groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..want(&[on(NETWORK)])
    };
    let network = network(&fake);
    let (user, instance) = (user(), instance());
    network.allocate(&user, &instance, &with(&["web", "g3"])).await.unwrap();
    assert_eq!(fake.all("ports")[0]["security_groups"], json!(["g1", "g3"]));
    assert_eq!(network.security_groups(&user, &instance).await.unwrap(), ["web", "db"]);
    fake.change("security-groups", "id", "g1", &json!({"name": ""}));
    assert_eq!(network.security_groups(&user, &instance).await.unwrap(), ["g1", "db"]);
    fake.change("security-groups", "id", "g1", &json!({"name": "web"}));
    let error = network.allocate(&user, &instance, &with(&["db"])).await.unwrap_err();
    assert!(matches!(error, NetworkError::SecurityGroupAmbiguous(_)), "{error:?}");
    let error = network.allocate(&user, &instance, &with(&["none"])).await.unwrap_err();
    assert!(matches!(error, NetworkError::SecurityGroupNotFound(_)), "{error:?}");
    fake.change("networks", "id", NETWORK, &json!({"port_security_enabled": false}));
    let error = network.allocate(&user, &instance, &with(&["web"])).await.unwrap_err();
    assert!(matches!(error, NetworkError::SecurityGroupsNotApplicable(_)), "{error:?}");
}

#[tokio::test]
async fn an_external_network_is_for_administrators() {
    let fake = neutron();
    fake.change("networks", "id", NETWORK, &json!({"router:external": true, "shared": false}));
    let error = allocate(&fake, &[on(NETWORK)]).await.unwrap_err();
    assert!(matches!(error, NetworkError::ExternalForbidden(_)), "{error:?}");
    let admin = RequestContext { is_admin: true, ..user() };
    network(&fake).allocate(&admin, &instance(), &want(&[on(NETWORK)])).await.unwrap();
}

#[tokio::test]
async fn guarantees_go_to_the_ports_that_were_scheduled_with_them_and_no_others() {
    let request = json!({"resources": {"NET_BW_EGR_KILOBIT_PER_SEC": 1}, "required": []});
    let fake = neutron();
    fake.add("ports", users_port(json!({ "resource_request": request })));
    let error = allocate(&fake, &[port(USERS_PORT)]).await.unwrap_err();
    assert!(matches!(error, NetworkError::PortUpdateFailed { .. }), "{error:?}");
    let mut wanted = want(&[port(USERS_PORT)]);
    wanted.providers.insert(USERS_PORT.to_owned(), vec![Uuid::from_u128(7)]);
    let vifs = network(&fake).allocate(&user(), &instance(), &wanted).await.unwrap();
    let allocation = &vifs[0].profile.as_ref().unwrap()["allocation"];
    assert_eq!(allocation, &json!(Uuid::from_u128(7).to_string()));
}

#[tokio::test]
async fn a_refresh_shows_what_has_changed_and_nothing_else() {
    let fake = neutron();
    let vifs = allocate(&fake, &[on(NETWORK), on(NETWORK)]).await.unwrap();
    let instance = with_vifs(&vifs);
    let first = vifs[0].id;
    let up = json!({"status": "ACTIVE"});
    fake.change("ports", "device_id", INSTANCE, &up);
    fake.add(
        "floatingips",
        json!({
            "floating_ip_address": "172.16.0.9", "port_id": first.to_string(),
            "fixed_ip_address": vifs[0].fixed_ips().next().unwrap().address,
        }),
    );
    let network = network(&fake);
    let context = user();
    let refresh = async |instance: &Instance, which| {
        network.refresh(&context, instance, which).await.unwrap()
    };
    let one = refresh(&instance, Refresh::Port(first)).await;
    assert!(one[0].active && !one[1].active);
    let floating = &one[0].fixed_ips().next().unwrap().floating_ips;
    assert_eq!(floating[0].address.as_deref(), Some("172.16.0.9"));
    let all = refresh(&instance, Refresh::Recorded).await;
    assert!(all.iter().all(|vif| vif.active));
    assert_eq!(network.active_ports(&context, &instance).await.unwrap().len(), 2);

    // A record that was lost is made anew, in the old order.
    let healed = refresh(&with_vifs(&[]), Refresh::All).await;
    assert_eq!(healed.iter().map(|vif| vif.id).collect::<Vec<_>>(), [first, vifs[1].id]);
    assert_eq!(refresh(&with_vifs(&[]), Refresh::Recorded).await, []);

    fake.change("ports", "id", &first.to_string(), &json!({"device_id": ""}));
    let gone = refresh(&instance, Refresh::Port(first)).await;
    assert_eq!(gone.iter().map(|vif| vif.id).collect::<Vec<_>>(), [vifs[1].id]);
}

#[tokio::test]
async fn ports_move_with_their_instance() {
    let fake = neutron();
    let vifs = allocate(&fake, &[on(NETWORK)]).await.unwrap();
    let (network, context, instance) = (network(&fake), user(), with_vifs(&vifs));
    let id = vifs[0].id;
    let profiles = Default::default();
    let bindings = network.create_bindings(&context, &vifs, "compute2", &profiles).await.unwrap();
    assert_eq!(bindings[&id].status.as_deref(), Some("INACTIVE"));
    network.create_bindings(&context, &vifs, "compute2", &profiles).await.expect("a repeat");
    network.set_migrating_to(&context, &instance, Some("compute2")).await.unwrap();
    assert_eq!(fake.all("ports")[0]["binding:profile"]["migrating_to"], "compute2");
    network.activate_bindings(&context, &vifs, "compute2").await.unwrap();
    assert_eq!(ports(&fake)[0].2, "compute2");
    network.delete_bindings(&context, &[id], "compute2").await.unwrap();
    network.delete_bindings(&context, &[id], "compute2").await.expect("absent is success");
    assert_eq!(network.binding(&context, id, "compute2").await.unwrap(), None);

    network.bind(&context, &instance, "compute1").await.unwrap();
    assert_eq!(ports(&fake)[0].2, "compute1");
    assert_eq!(fake.all("ports")[0]["binding:profile"], json!({}), "it has arrived");
    fake.take_asked();
    network.bind(&context, &instance, "compute1").await.unwrap();
    assert!(fake.take_asked().iter().all(|asked| asked.line.starts_with("GET")), "a repeat");

    fake.bind_as("binding_failed");
    let failed = network.create_bindings(&context, &vifs, "compute3", &profiles).await;
    assert!(matches!(failed, Err(NetworkError::PortBindingFailed(_))));
    assert_eq!(fake.all("ports")[0]["bindings"], json!([]), "nothing is left of it");
    let refused = network.binding(&context, id, "../ports").await;
    assert!(matches!(refused, Err(NetworkError::Api(_))), "{refused:?}");
}

#[tokio::test]
async fn hostile_answers_are_refused() {
    let fake = neutron();
    fake.change("networks", "id", NETWORK, &json!({"id": "../../x"}));
    let error = allocate(&fake, &[on("../../x")]).await.unwrap_err();
    assert!(matches!(error, NetworkError::Api(crate::openstack::ApiError::Garbled { .. })));
    assert_eq!(ports(&fake), []);
    let fake = neutron();
    fake.change("networks", "id", NETWORK, &json!({"mtu": "many"}));
    let error = allocate(&fake, &[on(NETWORK)]).await.unwrap_err();
    assert!(matches!(error, NetworkError::Api(crate::openstack::ApiError::Garbled { .. })));
}
