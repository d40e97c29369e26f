//! The services that a configuration names, each with its credentials.
//!
//! Sections with the same credentials share their token, and those with the same certificates share
//! their connections.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::catalog::{Lookup, web_address};
use super::credentials::Credentials;
use super::endpoint::{Endpoint, Location};
use super::identity::Identities;
use super::keystone::TokenSource;
use super::retry::RetryPolicy;
use super::transport::{TlsOptions, Transport};
use super::{Api, Observer};
use crate::config::Config;
use crate::config::keystoneauth::{Adapter, Auth, Http};
use crate::model::class::Class;

/// An answer's time where the section says nothing.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The services that the agent asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Placement,
    Neutron,
    Glance,
    Cinder,
}

impl Service {
    pub const ALL: [Self; 4] = [Self::Placement, Self::Neutron, Self::Glance, Self::Cinder];

    /// The service's name, which is its section's, too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Placement => "placement",
            Self::Neutron => "neutron",
            Self::Glance => "glance",
            Self::Cinder => "cinder",
        }
    }
}

/// The control plane's services, as a configuration names them.
pub struct Session {
    /// One for each set of credentials.
    sources: Vec<Arc<TokenSource>>,
    placement: Arc<Endpoint>,
    neutron: Arc<Endpoint>,
    glance: Arc<Endpoint>,
    cinder: Arc<Endpoint>,
}

/// Why there can be no session. Nobody was asked yet.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("[{section}] {problem}")]
    Auth { section: String, problem: String },
    #[error("[{section}] {option} = {}: {problem}", path.display())]
    Tls { section: String, option: &'static str, path: PathBuf, problem: String },
    #[error("[{section}] {option} = {value} is no http or https address")]
    Address { section: &'static str, option: &'static str, value: String },
}

impl SessionError {
    pub fn class(&self) -> Class {
        Class::Refused
    }
}

impl Session {
    /// Makes ready what `config` says; nobody is asked anything. A section without credentials is
    /// no error: it fails where they are needed.
    ///
    /// # Errors
    /// [`SessionError`] for what can't work as it is configured.
    pub fn from_config(
        config: &Config,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, SessionError> {
        let mut builder = Builder { config, observer, transports: Vec::new(), sources: Vec::new() };
        let placement = builder.placement()?;
        let neutron = builder.neutron()?;
        let glance = builder.glance()?;
        let cinder = builder.cinder()?;
        Ok(Self { sources: builder.sources, placement, neutron, glance, cinder })
    }

    pub(super) fn sources(&self) -> &[Arc<TokenSource>] {
        &self.sources
    }

    /// The API of `service`.
    pub fn service(&self, service: Service) -> Arc<dyn Api> {
        self.endpoint(service)
    }

    /// The same with what not every service needs, such as streams.
    pub fn endpoint(&self, service: Service) -> Arc<Endpoint> {
        match service {
            Service::Placement => self.placement.clone(),
            Service::Neutron => self.neutron.clone(),
            Service::Glance => self.glance.clone(),
            Service::Cinder => self.cinder.clone(),
        }
    }
}

struct Builder<'a> {
    config: &'a Config,
    observer: Option<Arc<dyn Observer>>,
    transports: Vec<Arc<Transport>>,
    sources: Vec<Arc<TokenSource>>,
}

impl Builder<'_> {
    fn placement(&mut self) -> Result<Arc<Endpoint>, SessionError> {
        let options = &self.config.placement;
        let location = located("placement", &options.service_type, &options.adapter)?;
        let transport = self.transport("placement", &options.http)?;
        let own = self.source("placement", &options.auth, &transport)?;
        // nova: scheduler/client/report.py: placement is asked as the service alone.
        let identities = Identities { section: "placement", own, service_user: None };
        let policy = policy(&options.adapter, 3);
        Ok(self.endpoint(
            Service::Placement,
            location,
            identities,
            transport,
            &options.http,
            policy,
        ))
    }

    fn neutron(&mut self) -> Result<Arc<Endpoint>, SessionError> {
        let options = &self.config.neutron;
        let location = located("neutron", &options.service_type, &options.adapter)?;
        let transport = self.transport("neutron", &options.http)?;
        let own = self.source("neutron", &options.auth, &transport)?;
        let service_user = self.service_user(&transport)?;
        let identities = Identities { section: "neutron", own, service_user };
        let policy = policy(&options.adapter, options.http_retries);
        Ok(self.endpoint(Service::Neutron, location, identities, transport, &options.http, policy))
    }

    fn glance(&mut self) -> Result<Arc<Endpoint>, SessionError> {
        let options = &self.config.glance;
        let location = match options.api_servers.as_slice() {
            [] => located("glance", &options.service_type, &options.adapter)?,
            servers => {
                for server in servers {
                    checked("glance", "api_servers", server)?;
                }
                Location::Servers(servers.to_vec())
            }
        };
        let transport = self.transport("glance", &options.http)?;
        // Images are asked for with the user's token; what nobody asked for, the service user does.
        let own = self.source("service_user", &self.config.service_user.auth, &transport)?;
        let service_user = self.service_user(&transport)?;
        let identities = Identities { section: "service_user", own, service_user };
        let mut policy = policy(&options.adapter, options.num_retries);
        policy.status_retries = options.adapter.status_code_retries.unwrap_or(options.num_retries);
        Ok(self.endpoint(Service::Glance, location, identities, transport, &options.http, policy))
    }

    fn cinder(&mut self) -> Result<Arc<Endpoint>, SessionError> {
        let options = &self.config.cinder;
        let location = match &options.endpoint_template {
            Some(template) => {
                checked("cinder", "endpoint_template", template)?;
                Location::Servers(vec![template.clone()])
            }
            None => Location::Catalog(Lookup {
                service_type: options.catalog_info.service_type.clone(),
                service_name: options.catalog_info.service_name.clone(),
                interfaces: vec![options.catalog_info.interface.clone()],
                region: options.os_region_name.clone(),
            }),
        };
        let transport = self.transport("cinder", &options.http)?;
        let own = self.source("cinder", &options.auth, &transport)?;
        let service_user = self.service_user(&transport)?;
        let identities = Identities { section: "cinder", own, service_user };
        let policy =
            RetryPolicy { connect_retries: options.http_retries, ..RetryPolicy::default() };
        Ok(self.endpoint(Service::Cinder, location, identities, transport, &options.http, policy))
    }

    fn endpoint(
        &self,
        service: Service,
        location: Location,
        identities: Identities,
        transport: Arc<Transport>,
        http: &Http,
        policy: RetryPolicy,
    ) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            service: service.as_str(),
            location,
            server: AtomicUsize::new(fastrand::usize(..1 << 16)),
            identities,
            transport,
            timeout: http.timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT),
            policy,
            observer: self.observer.clone(),
        })
    }

    /// Keystone is asked over the connections of the section that needs a token, as keystoneauth
    /// does it; where that section says nothing of certificates, `[service_user]` may.
    fn transport(
        &mut self,
        section: &'static str,
        http: &Http,
    ) -> Result<Arc<Transport>, SessionError> {
        let options = TlsOptions::from(http);
        if let Some(made) = self.transports.iter().find(|made| *made.options() == options) {
            return Ok(made.clone());
        }
        let transport = Arc::new(Transport::new(section, options)?);
        self.transports.push(transport.clone());
        Ok(transport)
    }

    fn source(
        &mut self,
        section: &'static str,
        auth: &Auth,
        transport: &Arc<Transport>,
    ) -> Result<Option<Arc<TokenSource>>, SessionError> {
        let Some(credentials) = Credentials::from_config(section, auth)? else { return Ok(None) };
        let made = self.sources.iter().find(|made| made.is_of(&credentials, transport));
        if let Some(made) = made {
            return Ok(Some(made.clone()));
        }
        let source = TokenSource::new(credentials, transport.clone());
        self.sources.push(source.clone());
        Ok(Some(source))
    }

    fn service_user(
        &mut self,
        transport: &Arc<Transport>,
    ) -> Result<Option<Arc<TokenSource>>, SessionError> {
        let options = &self.config.service_user;
        if !options.send_service_user_token {
            return Ok(None);
        }
        let own = TlsOptions::from(&options.http);
        if *transport.options() == TlsOptions::default() && own != TlsOptions::default() {
            let transport = self.transport("service_user", &options.http)?;
            return self.source("service_user", &options.auth, &transport);
        }
        self.source("service_user", &options.auth, transport)
    }
}

fn located(
    section: &'static str,
    service_type: &str,
    adapter: &Adapter,
) -> Result<Location, SessionError> {
    if let Some(address) = &adapter.endpoint_override {
        checked(section, "endpoint_override", address)?;
        return Ok(Location::Servers(vec![address.clone()]));
    }
    Ok(Location::Catalog(Lookup {
        service_type: service_type.to_owned(),
        service_name: adapter.service_name.clone(),
        interfaces: adapter.valid_interfaces.clone(),
        region: adapter.region_name.clone(),
    }))
}

fn checked(section: &'static str, option: &'static str, value: &str) -> Result<(), SessionError> {
    match web_address(value) {
        Some(_) => Ok(()),
        None => Err(SessionError::Address { section, option, value: value.to_owned() }),
    }
}

fn policy(adapter: &Adapter, connect_retries: u32) -> RetryPolicy {
    let default = RetryPolicy::default();
    RetryPolicy {
        connect_retries: adapter.connect_retries.unwrap_or(connect_retries),
        connect_delay: adapter.connect_retry_delay,
        status_retries: adapter.status_code_retries.unwrap_or(default.status_retries),
        status_delay: adapter.status_code_retry_delay,
        statuses: adapter.retriable_status_codes.clone(),
    }
}
