//! `[cinder]`: the volume service.

use crate::config::keystoneauth::{Auth, Http};
use crate::config::opt::{FromValue, Opt, section};
use crate::config::value::Value;

/// `type:name:interface`, where the name may be empty. nova: conf/cinder.py, `catalog_info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogInfo {
    pub service_type: String,
    pub service_name: Option<String>,
    pub interface: String,
}

impl FromValue for CatalogInfo {
    fn from_value(value: Option<Value>) -> Result<Self, String> {
        let text = String::from_value(value)?;
        let of_word =
            |text: &str| text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
        match *text.splitn(3, ':').collect::<Vec<_>>() {
            [service_type, name, interface]
                if !service_type.is_empty() && of_word(service_type) && of_word(name) =>
            {
                Ok(Self {
                    service_type: service_type.to_owned(),
                    service_name: Some(name.to_owned()).filter(|name| !name.is_empty()),
                    interface: interface.to_owned(),
                })
            }
            _ => Err("must be service_type:service_name:interface".to_owned()),
        }
    }
}

section! {
    /// The volume service.
    Cinder in "cinder":

    /// What to look for in the catalog: service_type:service_name:interface. The name may be
    /// empty.
    catalog_info: CatalogInfo = Opt::text().default("volumev3::publicURL");

    /// The service's address, instead of the catalog's, with %(project_id)s for the project.
    endpoint_template: Option<String> = Opt::text();

    /// The region whose endpoint to take. Unset: any.
    os_region_name: Option<String> = Opt::text();

    /// How often a request is repeated that didn't reach the service.
    http_retries: u32 = Opt::integer(0, 100).default("3");

    /// Whether an instance's volumes may be in another availability zone than itself.
    cross_az_attach: bool = Opt::boolean().default("true");

    group auth: Auth = Auth::options("cinder");
    group http: Http = Http::options("cinder");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_s_entry_is_named_in_three_parts() {
        let read = |text: &str| CatalogInfo::from_value(Some(Value::Text(text.to_owned())));
        let info = read("block-storage:cinder:internalURL").unwrap();
        assert_eq!(info.service_type, "block-storage");
        assert_eq!(info.service_name.as_deref(), Some("cinder"));
        assert_eq!(read("volumev3::publicURL").unwrap().service_name, None);
        for bad in ["", "volumev3", "volumev3:cinder", "::publicURL", "a b::publicURL"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
