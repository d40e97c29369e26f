//! Fixed IPs that an instance's ports get, and lose, while it runs.
//! nova: network/neutron.py, add_fixed_ip_to_instance, remove_fixed_ip_from_instance

use serde_json::json;
use tracing::debug;
use uuid::Uuid;

use super::NeutronNetwork;
use super::client::{As, CallError, Client, in_path};
use super::info::ports_of;
use super::types::{Port, Subnet};
use crate::model::object::Instance;
use crate::network::{NetworkError, PortAddresses};

impl NeutronNetwork {
    /// See [`crate::network::Network::addresses`].
    pub(super) async fn port_addresses(
        &self,
        client: Client<'_>,
        instance: &Instance,
    ) -> Result<Vec<PortAddresses>, NetworkError> {
        let ports = ports_of(client, As::Admin, instance).await?.into_iter();
        let of = |port: Port| PortAddresses {
            port: port.id,
            network_id: port.network_id,
            fixed_ips: port.fixed_ips.into_iter().map(|ip| (ip.subnet_id, ip.ip_address)).collect(),
        };
        Ok(ports.map(of).collect())
    }

    /// See [`crate::network::Network::add_address`]. What one subnet can't give, another one may.
    pub(super) async fn added_address(
        &self,
        client: Client<'_>,
        port: &PortAddresses,
    ) -> Result<bool, NetworkError> {
        let filter = [("network_id", in_path(&port.network_id)?)];
        let subnets: Vec<Subnet> = client.list(As::User, "subnets", &filter).await?;
        for subnet in subnets {
            let one_more = json!({ "subnet_id": subnet.id });
            let all = fixed_ips(port).into_iter().chain([one_more]).collect::<Vec<_>>();
            match set(client, port.port, json!(all)).await {
                Ok(()) => return Ok(true),
                Err(CallError::Fault { message, .. }) => {
                    debug!(port_id = %port.port, subnet_id = subnet.id, message, "no address");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// See [`crate::network::Network::set_addresses`].
    pub(super) async fn addresses_set(
        &self,
        client: Client<'_>,
        port: &PortAddresses,
    ) -> Result<(), NetworkError> {
        match set(client, port.port, json!(fixed_ips(port))).await {
            Err(error) if error.is_absent() => Ok(()),
            set => Ok(set?),
        }
    }
}

fn fixed_ips(port: &PortAddresses) -> Vec<serde_json::Value> {
    let ip = |(subnet, address): &(String, String)| json!({ "subnet_id": subnet, "ip_address": address });
    port.fixed_ips.iter().map(ip).collect()
}

async fn set(
    client: Client<'_>,
    port: Uuid,
    fixed_ips: serde_json::Value,
) -> Result<(), CallError> {
    let changes = json!({ "fixed_ips": fixed_ips });
    client.update::<Port>(As::User, &format!("ports/{port}"), "port", changes).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::tests::{NETWORK, SUBNET, allocate, instance, network, neutron, on, user};
    use super::*;
    use crate::network::Network;

    #[tokio::test]
    async fn an_address_comes_from_the_first_subnet_that_has_one_and_goes_again() {
        let fake = neutron();
        let full =
            json!({"id": "full", "network_id": NETWORK, "cidr": "10.1.0.0/30", "full": true});
        fake.add("subnets", full);
        let vif = allocate(&fake, &[on(NETWORK)]).await.unwrap().remove(0);
        let (network, instance) = (network(&fake), instance());
        let before = network.addresses(&user(), &instance).await.unwrap();
        assert_eq!((before.len(), before[0].port, before[0].fixed_ips.len()), (1, vif.id, 1));
        assert_eq!(before[0].network_id, NETWORK);

        assert!(network.add_address(&user(), &before[0]).await.unwrap());
        let after = network.addresses(&user(), &instance).await.unwrap();
        assert_eq!(after[0].fixed_ips.len(), 2);
        assert_eq!(
            (after[0].fixed_ips[0].clone(), &*after[0].fixed_ips[1].0),
            (before[0].fixed_ips[0].clone(), SUBNET)
        );

        network.set_addresses(&user(), &before[0]).await.unwrap();
        assert_eq!(network.addresses(&user(), &instance).await.unwrap(), before);
        let gone = PortAddresses { port: Uuid::from_u128(7), ..before[0].clone() };
        network.set_addresses(&user(), &gone).await.expect("absent is success");

        fake.change("subnets", "id", SUBNET, &json!({"full": Value::Bool(true)}));
        assert!(!network.add_address(&user(), &before[0]).await.unwrap());
        assert_eq!(network.addresses(&user(), &instance).await.unwrap(), before);
    }
}
