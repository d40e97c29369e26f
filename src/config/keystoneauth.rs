//! What the sections of OpenStack services have in common: credentials, TLS and where the service is.
//! keystoneauth1: loading/conf.py, loading/session.py, loading/adapter.py.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::ConfigError;
use crate::config::opt::{Opt, OptionSpec, group};
use crate::config::oslo::Resolver;
use crate::model::secret::Secret;

group! {
    /// Who the agent is to Keystone.
    Auth:

    /// The section to read the other options of authentication from.
    auth_section: Option<String> = Opt::text();

    /// How to authenticate: password, v3password, v3applicationcredential, token or v3token.
    auth_type: Option<String> = Opt::text().also(&["auth_plugin"]);

    /// Keystone's address, with or without /v3.
    auth_url: Option<String> = Opt::text();

    /// The user's name.
    username: Option<String> = Opt::text().also(&["user-name", "user_name"]);

    /// The user's id.
    user_id: Option<String> = Opt::text();

    /// The user's password.
    password: Option<Secret> = Opt::text().secret();

    /// The name of the user's domain.
    user_domain_name: Option<String> = Opt::text();

    /// The id of the user's domain.
    user_domain_id: Option<String> = Opt::text();

    /// The project that the token is for.
    project_name: Option<String> = Opt::text().also(&["tenant-name", "tenant_name"]);

    /// The id of the project that the token is for.
    project_id: Option<String> = Opt::text().also(&["tenant-id", "tenant_id"]);

    /// The name of the project's domain.
    project_domain_name: Option<String> = Opt::text();

    /// The id of the project's domain.
    project_domain_id: Option<String> = Opt::text();

    /// The name of the domain of user and project when none is given for them.
    default_domain_name: Option<String> = Opt::text();

    /// The id of the domain of user and project when none is given for them.
    default_domain_id: Option<String> = Opt::text();

    /// The domain that the token is for, instead of a project.
    domain_name: Option<String> = Opt::text();

    /// The id of the domain that the token is for, instead of a project.
    domain_id: Option<String> = Opt::text();

    /// all: the token is for the system, instead of a project.
    system_scope: Option<String> = Opt::text();

    /// The trust that the token is for, instead of a project.
    trust_id: Option<String> = Opt::text();

    /// The application credential's id.
    application_credential_id: Option<String> = Opt::text();

    /// The application credential's name, with its user.
    application_credential_name: Option<String> = Opt::text();

    /// The application credential's secret.
    application_credential_secret: Option<Secret> = Opt::text().secret();

    /// A token to get another for.
    token: Option<Secret> = Opt::text().secret();
}

impl Auth {
    /// `auth_section` is followed once, as keystoneauth does it, and kept.
    pub(in crate::config) fn read(
        resolver: &Resolver<'_>,
        section: &str,
        options: &[OptionSpec],
    ) -> Result<Self, ConfigError> {
        let own = Self::read_from(resolver, section, options)?;
        let Some(other) = own.auth_section else { return Ok(own) };
        let read = Self::read_from(resolver, &other, options)?;
        Ok(Self { auth_section: Some(other), ..read })
    }

    /// Whether `[section] name` was read because of `auth_section`.
    pub(in crate::config) fn reads(&self, section: &str, name: &str) -> bool {
        let options = Self::options("");
        self.auth_section.as_deref() == Some(section)
            && options.iter().any(|option| option.is_named("", name))
    }
}

group! {
    /// Connections to the service and to its Keystone.
    Http:

    /// A PEM file with the certificate authorities to trust, instead of the system's.
    cafile: Option<PathBuf> = Opt::text();

    /// A PEM file with the client's certificate, and its key if keyfile isn't set.
    certfile: Option<PathBuf> = Opt::text();

    /// A PEM file with the key of the client's certificate.
    keyfile: Option<PathBuf> = Opt::text();

    /// Whether to take any certificate.
    insecure: bool = Opt::boolean().default("false");

    /// How long an answer may take. Unset: 120.
    timeout: Option<Duration> = Opt::seconds(0);
}

impl Http {
    pub(in crate::config) fn read(
        resolver: &Resolver<'_>,
        section: &str,
        options: &[OptionSpec],
    ) -> Result<Self, ConfigError> {
        Self::read_from(resolver, section, options)
    }
}

group! {
    /// Where the service is, and how often it is asked.
    Adapter:

    /// The service's name in the catalog. Unset: any.
    service_name: Option<String> = Opt::text();

    /// Which of the service's endpoints to take, the best first.
    valid_interfaces: Vec<String> = Opt::list().default("internal,public");

    /// The region whose endpoint to take. Unset: any.
    region_name: Option<String> = Opt::text();

    /// The service's address, instead of the catalog's.
    endpoint_override: Option<String> = Opt::text();

    /// How often a request is repeated that didn't reach the service.
    connect_retries: Option<u32> = Opt::integer(0, 100).unit("when unset: 3");

    /// Seconds before each such repeat. Unset: half a second, doubled each time.
    connect_retry_delay: Option<Duration> = Opt::float(0.0, 3600.0);

    /// How often a request is repeated that the service was too busy for.
    status_code_retries: Option<u32> = Opt::integer(0, 100).unit("when unset: 3");

    /// Seconds before each such repeat. Unset: what the service asks for, or else half a second,
    /// doubled each time.
    status_code_retry_delay: Option<Duration> = Opt::float(0.0, 3600.0);

    /// The statuses by which a service says that it was too busy.
    retriable_status_codes: Vec<u16> = Opt::list().default("429,503");
}

impl Adapter {
    pub(in crate::config) fn read(
        resolver: &Resolver<'_>,
        section: &str,
        options: &[OptionSpec],
    ) -> Result<Self, ConfigError> {
        Self::read_from(resolver, section, options)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;
    use crate::config::files::Files;

    fn load(text: &str) -> Config {
        let mut files = Files::default();
        files.add(Path::new("nova.conf"), text).unwrap();
        Config::from_files(&files).unwrap()
    }

    #[test]
    fn credentials_may_stand_in_another_section() {
        let config = load(
            "[placement]\nauth_section = shared\nregion_name = r\nusername = other\n\
             [shared]\nauth_plugin = password\nuser-name = nova\npassword = $word\nword = w\n\
             auth_url = http://k/v3\nregion_name = unread\ntenant_name = service",
        );
        let auth = &config.placement.auth;
        assert_eq!(auth.auth_section.as_deref(), Some("shared"));
        assert_eq!(auth.auth_type.as_deref(), Some("password"));
        assert_eq!(auth.username.as_deref(), Some("nova"));
        assert_eq!(auth.project_name.as_deref(), Some("service"));
        assert_eq!(auth.password.as_ref().unwrap().expose(), "w");
        assert_eq!(config.placement.adapter.region_name.as_deref(), Some("r"));
        let ignored: Vec<_> = config.ignored.iter().map(|option| option.name.as_str()).collect();
        assert_eq!(ignored, ["word", "region_name"]);
    }

    #[test]
    fn glance_has_older_names_for_tls_and_no_credentials_of_its_own() {
        let config = load(
            "[glance]\napi_insecure = yes\nusername = u\n[ssl]\nca_file = /ca\ncert_file = /c\n\
             key_file = /k",
        );
        let http = &config.glance.http;
        assert!(http.insecure);
        assert_eq!(http.cafile.as_deref(), Some(Path::new("/ca")));
        assert_eq!(http.certfile.as_deref(), Some(Path::new("/c")));
        assert_eq!(http.keyfile.as_deref(), Some(Path::new("/k")));
        assert!(!config.placement.http.insecure && config.placement.http.cafile.is_none());
        assert_eq!(config.ignored.len(), 1);
    }

    #[test]
    fn numbers_of_statuses_are_numbers() {
        let config = load("[neutron]\nretriable_status_codes = 503, 504");
        assert_eq!(config.neutron.adapter.retriable_status_codes, [503, 504]);
        let mut files = Files::default();
        files.add(Path::new("a"), "[neutron]\nretriable_status_codes = many").unwrap();
        assert!(Config::from_files(&files).is_err());
    }

    #[test]
    fn an_error_in_another_section_names_that_section() {
        let mut files = Files::default();
        let text = "[placement]\nauth_section = shared\n[shared]\npassword = hun$ter2";
        files.add(Path::new("a.conf"), text).unwrap();
        let error = Config::from_files(&files).unwrap_err().to_string();
        assert!(error.starts_with("a.conf:4: [shared] password = ***"), "{error}");
    }
}
