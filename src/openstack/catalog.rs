//! Where services are: Keystone's catalog, as a token brings it and as a message's context does.
//! keystoneauth1: access/service_catalog.py.

use serde_json::Value;
use url::Url;

/// Of one token's catalog: what is beyond it is left out.
const MOST_ENDPOINTS: usize = 10_000;

/// Names of one service that Keystones' catalogs have, the best first.
/// service-types-authority: `block-storage`.
const BLOCK_STORAGE: [&str; 5] = ["block-storage", "volumev3", "volumev2", "volume", "block-store"];

/// The services that one project may use, with their endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog(Vec<CatalogEndpoint>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct CatalogEndpoint {
    service_type: String,
    service_name: Option<String>,
    /// `public`, `internal`, `admin`
    interface: String,
    region: Option<String>,
    url: String,
}

/// What to look for in a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub service_type: String,
    pub service_name: Option<String>,
    /// The best first; with or without a final `URL`. None: any.
    pub interfaces: Vec<String>,
    pub region: Option<String>,
}

impl Catalog {
    /// Reads a catalog in the format of Keystone's v3, or in that of v2.0, which a message's context
    /// has. What isn't an endpoint is left out.
    pub fn parse(services: &Value) -> Self {
        let services = services.as_array().map(Vec::as_slice).unwrap_or_default();
        let of_service = |service: &Value| {
            let service_type = text(service, "type").unwrap_or_default();
            let service_name = text(service, "name");
            let endpoints = service.get("endpoints").and_then(Value::as_array).cloned();
            endpoints.unwrap_or_default().into_iter().flat_map(move |endpoint| {
                let region = text(&endpoint, "region_id").or_else(|| text(&endpoint, "region"));
                let (service_type, name) = (service_type.clone(), service_name.clone());
                addresses(&endpoint).into_iter().map(move |(interface, url)| CatalogEndpoint {
                    service_type: service_type.clone(),
                    service_name: name.clone(),
                    interface,
                    region: region.clone(),
                    url,
                })
            })
        };
        Self(services.iter().flat_map(of_service).take(MOST_ENDPOINTS).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The endpoint's address. A service's own type comes before its older ones, then the interfaces
    /// count in their order, then the catalog's order.
    pub fn find(&self, lookup: &Lookup) -> Option<&str> {
        let matches = |endpoint: &&CatalogEndpoint| {
            let named = match (&lookup.service_name, &endpoint.service_name) {
                (Some(wanted), Some(name)) => wanted == name,
                _ => true,
            };
            let here = match &lookup.region {
                Some(region) => endpoint.region.as_ref() == Some(region),
                None => true,
            };
            named && here
        };
        let interface = |endpoint: &CatalogEndpoint| {
            let is = |wanted: &String| interface_name(wanted) == endpoint.interface;
            let rank = lookup.interfaces.iter().position(is);
            if lookup.interfaces.is_empty() { Some(0) } else { rank }
        };
        self.0
            .iter()
            .filter(matches)
            .filter_map(|endpoint| {
                let rank = type_rank(&lookup.service_type, &endpoint.service_type)?;
                Some(((rank, interface(endpoint)?), endpoint))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, endpoint)| endpoint.url.as_str())
    }
}

/// How well a type of the catalog fits the one asked for; `None`: not at all. An older name stands
/// for the service's own, and the other way round, but not for another older one.
fn type_rank(wanted: &str, found: &str) -> Option<usize> {
    let position = |name: &str| BLOCK_STORAGE.iter().position(|known| *known == name);
    match (position(wanted), position(found)) {
        _ if wanted == found => Some(0),
        (Some(0), Some(rank)) => Some(rank),
        (Some(_), Some(0)) => Some(1),
        _ => None,
    }
}

/// `publicURL` and `public` are the same interface.
fn interface_name(name: &str) -> &str {
    name.strip_suffix("URL").unwrap_or(name)
}

/// An endpoint's addresses by interface: one in v3's format, several in v2.0's.
fn addresses(endpoint: &Value) -> Vec<(String, String)> {
    let one = text(endpoint, "interface").zip(text(endpoint, "url"));
    let several = endpoint.as_object().into_iter().flatten().filter_map(|(key, value)| {
        let interface = key.strip_suffix("URL")?;
        Some((interface.to_owned(), value.as_str()?.to_owned()))
    });
    let named = |(interface, url): (String, String)| (interface_name(&interface).to_owned(), url);
    one.map(named).into_iter().chain(several).filter(|(_, url)| !url.is_empty()).collect()
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// `text` as an address that can be asked over HTTP.
pub fn web_address(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// The address of `path` below an endpoint. Catalogs name endpoints with their version or without:
/// it is never in the address twice.
pub fn below(endpoint: &str, path: &str) -> Option<Url> {
    let mut base = endpoint.trim_end_matches('/');
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if let Some((before, last)) = base.rsplit_once('/')
        && is_version(last)
        && is_version(first)
    {
        base = before;
    }
    let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
    web_address(&format!("{base}{slash}{path}"))
}

/// `v2`, `v2.0`, `v3`, …
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn v3() -> Catalog {
        let endpoint = |interface: &str, region: &str, host: &str| {
            json!({"id": "1", "interface": interface, "region": region, "region_id": region,
                   "url": format!("http://{host}:9696")})
        };
        Catalog::parse(&json!([
            {"type": "network", "name": "neutron", "id": "n", "endpoints": [
                endpoint("admin", "One", "admin1"), endpoint("public", "Two", "public2"),
                endpoint("public", "One", "public1"), endpoint("internal", "One", "internal1")]},
            {"type": "network", "name": "other", "endpoints": [endpoint("public", "One", "other")]},
            {"type": "volumev2", "endpoints": [endpoint("public", "One", "v2")]},
            {"type": "volumev3", "endpoints": [endpoint("public", "One", "v3")]},
            {"type": "image", "name": "glance", "endpoints": []},
            {"name": "typeless"}, "garbage", {"type": "x", "endpoints": ["garbage", {"url": 3}]},
        ]))
    }

    fn lookup(service_type: &str, interfaces: &[&str], region: Option<&str>) -> Lookup {
        Lookup {
            service_type: service_type.to_owned(),
            service_name: None,
            interfaces: interfaces.iter().map(|i| (*i).to_owned()).collect(),
            region: region.map(str::to_owned),
        }
    }

    #[test]
    fn interfaces_count_in_their_order_and_regions_exactly() {
        let find = |interfaces: &[&str], region| {
            v3().find(&lookup("network", interfaces, region)).map(str::to_owned)
        };
        let host = |name: &str| Some(format!("http://{name}:9696"));
        assert_eq!(find(&["internal", "public"], Some("One")), host("internal1"));
        assert_eq!(find(&["internal", "public"], Some("Two")), host("public2"));
        assert_eq!(find(&["public"], None), host("public2"));
        assert_eq!(find(&["adminURL"], None), host("admin1"));
        assert_eq!(find(&["internal"], Some("Two")), None);
        assert_eq!(find(&["public"], Some("Three")), None);
        assert_eq!(find(&[], Some("One")), host("admin1"));
    }

    #[test]
    fn a_name_counts_where_the_catalog_has_one() {
        let mut wanted = lookup("network", &["public"], Some("One"));
        wanted.service_name = Some("other".to_owned());
        assert_eq!(v3().find(&wanted), Some("http://other:9696"));
        wanted.service_type = "volumev3".to_owned();
        assert_eq!(v3().find(&wanted), Some("http://v3:9696"));
    }

    #[test]
    fn block_storage_has_older_names() {
        let find = |kind: &str| v3().find(&lookup(kind, &["public"], None)).map(str::to_owned);
        assert_eq!(find("block-storage").unwrap(), "http://v3:9696");
        assert_eq!(find("volumev2").unwrap(), "http://v2:9696");
        assert_eq!(find("volume"), None);
        assert_eq!(find("image"), None);
        let modern = Catalog::parse(&json!([{"type": "block-storage", "endpoints": [
            {"interface": "public", "url": "http://c/v3"}]}]));
        assert_eq!(modern.find(&lookup("volumev3", &["public"], None)), Some("http://c/v3"));
    }

    #[test]
    fn a_contexts_catalog_is_in_the_older_format() {
        let catalog = Catalog::parse(&json!([{"type": "image", "name": "glance", "endpoints": [
            {"region": "One", "publicURL": "http://p:9292", "internalURL": "http://i:9292",
             "adminURL": ""}]}]));
        let find = |interface: &str| catalog.find(&lookup("image", &[interface], Some("One")));
        assert_eq!(find("internal"), Some("http://i:9292"));
        assert_eq!(find("publicURL"), Some("http://p:9292"));
        assert_eq!(find("admin"), None);
    }

    #[test]
    fn a_version_is_in_an_address_once() {
        let address = |endpoint: &str, path: &str| below(endpoint, path).unwrap().to_string();
        assert_eq!(address("http://n:9696/", "/v2.0/ports"), "http://n:9696/v2.0/ports");
        assert_eq!(
            address("http://n/networking/v2.0", "/v2.0/ports"),
            "http://n/networking/v2.0/ports"
        );
        assert_eq!(address("http://g/image/v2/", "/v2/images/i"), "http://g/image/v2/images/i");
        assert_eq!(
            address("http://c:8776/v3/project", "/volumes/i"),
            "http://c:8776/v3/project/volumes/i"
        );
        assert_eq!(address("http://c:8776/v3", "volumes/i"), "http://c:8776/v3/volumes/i");
        assert_eq!(address("http://p/placement", ""), "http://p/placement");
        assert_eq!(below("file:///etc", "/passwd"), None);
        assert_eq!(below("nonsense", "/v2"), None);
    }

    proptest! {
        #[test]
        fn no_catalog_panics(text in "[\\[\\]{}\":,a-zURL]{0,80}") {
            if let Ok(value) = serde_json::from_str(&text) {
                Catalog::parse(&value).find(&lookup("image", &["public"], None));
            }
        }
    }
}
