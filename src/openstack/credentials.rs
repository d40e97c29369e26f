//! Who we are to Keystone, from a section's options: pure. keystoneauth1: identity/generic/base.py,
//! identity/v3/base.py, identity/v3/application_credential.py.

use serde_json::{Map, Value, json};
use url::Url;

use super::SessionError;
use crate::config::keystoneauth::Auth;
use crate::model::secret::Secret;

/// Everything that makes one token differ from another.
#[derive(Debug, Clone, PartialEq)]
pub struct Credentials {
    /// Where tokens are asked for: `…/v3/auth/tokens`.
    pub tokens_url: Url,
    proof: Proof,
    scope: Option<Scope>,
}

/// How we prove who we are.
#[derive(Debug, Clone, PartialEq)]
enum Proof {
    Password { user: Name, password: Secret },
    ApplicationCredential { name: CredentialName, secret: Secret },
    Token(Secret),
}

#[derive(Debug, Clone, PartialEq)]
enum CredentialName {
    Id(String),
    /// Of this user.
    Name(String, Name),
}

/// A user or a project.
#[derive(Debug, Clone, PartialEq)]
enum Name {
    Id(String),
    Name { name: String, domain: Domain },
}

#[derive(Debug, Clone, PartialEq)]
enum Domain {
    Id(String),
    Name(String),
}

/// What the token is for.
#[derive(Debug, Clone, PartialEq)]
enum Scope {
    Project(Name),
    Domain(Domain),
    System,
    Trust(String),
}

impl Credentials {
    /// The credentials of `section`; `None` when it has no `auth_type`.
    ///
    /// # Errors
    /// [`SessionError::Auth`] for a method that isn't supported, and for options that are missing
    /// or that contradict each other.
    pub fn from_config(section: &str, auth: &Auth) -> Result<Option<Self>, SessionError> {
        let Some(method) = auth.auth_type.as_deref() else { return Ok(None) };
        let section = auth.auth_section.as_deref().unwrap_or(section);
        let refused = |problem: String| SessionError::Auth { section: section.to_owned(), problem };
        let needs = |option: &str| refused(format!("{option} is needed for auth_type = {method}"));
        let domains = Domains { auth, generic: matches!(method, "password" | "token") };
        let proof = match method {
            "password" | "v3password" => {
                let user = domains.user().map_err(refused)?.ok_or_else(|| needs("username"))?;
                let password = auth.password.clone().ok_or_else(|| needs("password"))?;
                Proof::Password { user, password }
            }
            "v3applicationcredential" => {
                let secret = auth.application_credential_secret.clone();
                let secret = secret.ok_or_else(|| needs("application_credential_secret"))?;
                let name =
                    match (&auth.application_credential_id, &auth.application_credential_name) {
                        (Some(id), _) => CredentialName::Id(id.clone()),
                        (None, Some(name)) => {
                            let user = domains.user().map_err(refused)?;
                            let user = user.ok_or_else(|| needs("user_id or username"))?;
                            CredentialName::Name(name.clone(), user)
                        }
                        (None, None) => return Err(needs("application_credential_id")),
                    };
                Proof::ApplicationCredential { name, secret }
            }
            "token" | "v3token" => Proof::Token(auth.token.clone().ok_or_else(|| needs("token"))?),
            other => return Err(refused(format!("auth_type = {other} is not supported"))),
        };
        let scope = match proof {
            // It has a project of its own, and Keystone refuses to be told one.
            Proof::ApplicationCredential { .. } => None,
            _ => domains.scope().map_err(refused)?,
        };
        let url = auth.auth_url.as_deref().ok_or_else(|| needs("auth_url"))?;
        let tokens_url = tokens_url(url).map_err(refused)?;
        Ok(Some(Self { tokens_url, proof, scope }))
    }

    /// The body that asks for a token. It holds the password.
    pub fn request(&self) -> Value {
        let (method, proof) = match &self.proof {
            Proof::Password { user, password } => {
                let mut user = user.to_json();
                user.insert("password".to_owned(), json!(password.expose()));
                ("password", json!({ "user": user }))
            }
            Proof::ApplicationCredential { name, secret } => {
                let mut credential = match name {
                    CredentialName::Id(id) => json!({ "id": id }),
                    CredentialName::Name(name, user) => {
                        json!({ "name": name, "user": user.to_json() })
                    }
                };
                credential["secret"] = json!(secret.expose());
                ("application_credential", credential)
            }
            Proof::Token(token) => ("token", json!({ "id": token.expose() })),
        };
        let mut identity = Map::new();
        identity.insert("methods".to_owned(), json!([method]));
        identity.insert(method.to_owned(), proof);
        let mut body = json!({ "auth": { "identity": identity } });
        if let Some(scope) = &self.scope {
            body["auth"]["scope"] = scope.to_json();
        }
        body
    }
}

/// Reads users, projects and domains out of the options.
struct Domains<'a> {
    auth: &'a Auth,
    /// Only the methods without a version know `default_domain_…`.
    generic: bool,
}

impl Domains<'_> {
    fn user(&self) -> Result<Option<Name>, String> {
        let auth = self.auth;
        let domain = self.domain(&auth.user_domain_id, &auth.user_domain_name);
        match (&auth.user_id, &auth.username) {
            (Some(id), _) => Ok(Some(Name::Id(id.clone()))),
            (None, None) => Ok(None),
            (None, Some(name)) => {
                let domain = domain.ok_or("username needs user_domain_name or user_domain_id")?;
                Ok(Some(Name::Name { name: name.clone(), domain }))
            }
        }
    }

    fn scope(&self) -> Result<Option<Scope>, String> {
        let auth = self.auth;
        let domain = match (&auth.domain_id, &auth.domain_name) {
            (Some(id), _) => Some(Domain::Id(id.clone())),
            (None, Some(name)) => Some(Domain::Name(name.clone())),
            (None, None) => None,
        };
        let project_domain = || self.domain(&auth.project_domain_id, &auth.project_domain_name);
        let project = match (&auth.project_id, &auth.project_name) {
            (Some(id), _) => Some(Name::Id(id.clone())),
            (None, Some(name)) => {
                let domain = project_domain()
                    .ok_or("project_name needs project_domain_name or project_domain_id")?;
                Some(Name::Name { name: name.clone(), domain })
            }
            (None, None) => None,
        };
        let system = match auth.system_scope.as_deref() {
            None => None,
            Some("all") => Some(Scope::System),
            Some(_) => return Err("system_scope can only be all".to_owned()),
        };
        let mut scopes = [
            domain.map(Scope::Domain),
            project.map(Scope::Project),
            auth.trust_id.clone().map(Scope::Trust),
            system,
        ]
        .into_iter()
        .flatten();
        let scope = scopes.next();
        match scopes.next() {
            Some(_) => Err("give one of project, domain, trust_id and system_scope".to_owned()),
            None => Ok(scope),
        }
    }

    fn domain(&self, id: &Option<String>, name: &Option<String>) -> Option<Domain> {
        let own = id.clone().map(Domain::Id).or_else(|| name.clone().map(Domain::Name));
        let (id, name) = (&self.auth.default_domain_id, &self.auth.default_domain_name);
        let default = id.clone().map(Domain::Id).or_else(|| name.clone().map(Domain::Name));
        own.or(default.filter(|_| self.generic))
    }
}

impl Name {
    fn to_json(&self) -> Map<String, Value> {
        let value = match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Name { name, domain } => json!({ "name": name, "domain": domain.to_json() }),
        };
        let Value::Object(object) = value else { unreachable!("it is made above") };
        object
    }
}

impl Domain {
    fn to_json(&self) -> Value {
        match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Name(name) => json!({ "name": name }),
        }
    }
}

impl Scope {
    fn to_json(&self) -> Value {
        match self {
            Self::Project(project) => json!({ "project": project.to_json() }),
            Self::Domain(domain) => json!({ "domain": domain.to_json() }),
            Self::System => json!({ "system": { "all": true } }),
            Self::Trust(id) => json!({ "OS-TRUST:trust": { "id": id } }),
        }
    }
}

/// keystoneauth asks Keystone which versions it has; there has been only one since 2018, below /v3.
fn tokens_url(auth_url: &str) -> Result<Url, String> {
    let bare = auth_url.trim_end_matches('/');
    if bare.ends_with("/v2.0") {
        return Err("auth_url = …/v2.0: Keystone's v2.0 is not supported".to_owned());
    }
    let version = if bare.ends_with("/v3") { "" } else { "/v3" };
    super::catalog::web_address(&format!("{bare}{version}/auth/tokens"))
        .ok_or_else(|| format!("auth_url = {auth_url} is no http or https address"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::config::files::Files;

    fn read(options: &str) -> Result<Option<Credentials>, SessionError> {
        let mut files = Files::default();
        files.add(Path::new("nova.conf"), &format!("[placement]\n{options}")).unwrap();
        let config = Config::from_files(&files).unwrap();
        Credentials::from_config("placement", &config.placement.auth)
    }

    const PASSWORD: &str = "auth_type = password\nauth_url = http://k:5000\nusername = nova\n\
        password = hunter2\nuser_domain_id = default\nproject_name = service\n\
        project_domain_name = Default\n";

    #[test]
    fn a_password_asks_as_keystoneauth_does() {
        let credentials = read(PASSWORD).unwrap().unwrap();
        assert_eq!(credentials.tokens_url.as_str(), "http://k:5000/v3/auth/tokens");
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "nova", "domain": {"id": "default"}, "password": "hunter2"}}},
            "scope": {"project": {"name": "service", "domain": {"name": "Default"}}}}});
        assert_eq!(credentials.request(), body);
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }

    #[test]
    fn ids_come_before_names_and_defaults_after_both() {
        let credentials = read(
            "auth_type = password\nauth_url = https://k/identity/v3/\nuser_id = u\nusername = n\n\
             password = p\nproject_name = service\ndefault_domain_id = d\n",
        );
        let credentials = credentials.unwrap().unwrap();
        assert_eq!(credentials.tokens_url.as_str(), "https://k/identity/v3/auth/tokens");
        let body = credentials.request();
        assert_eq!(
            body["auth"]["identity"]["password"]["user"],
            json!({"id": "u", "password": "p"})
        );
        assert_eq!(
            body["auth"]["scope"],
            json!({"project": {"name": "service", "domain": {"id": "d"}}})
        );
    }

    #[test]
    fn an_application_credential_has_its_own_project() {
        let base = "auth_type = v3applicationcredential\nauth_url = http://k/v3\n\
                    application_credential_secret = s\nproject_name = left-over\n";
        let by_id = read(&format!("{base}application_credential_id = i")).unwrap().unwrap();
        let body = json!({"auth": {"identity": {"methods": ["application_credential"],
            "application_credential": {"id": "i", "secret": "s"}}}});
        assert_eq!(by_id.request(), body);
        let by_name = read(&format!(
            "{base}application_credential_name = c\nusername = u\nuser_domain_name = D"
        ));
        assert_eq!(
            by_name.unwrap().unwrap().request()["auth"]["identity"]["application_credential"],
            json!({"name": "c", "secret": "s", "user": {"name": "u", "domain": {"name": "D"}}})
        );
    }

    #[test]
    fn a_token_and_every_scope_are_spelt_as_keystone_has_them() {
        let of = |scope: &str| {
            let token = "auth_type = v3token\nauth_url = http://k\ntoken = t\n";
            read(&format!("{token}{scope}")).unwrap().unwrap().request()["auth"].clone()
        };
        assert_eq!(of("")["identity"], json!({"methods": ["token"], "token": {"id": "t"}}));
        assert!(of("").get("scope").is_none());
        assert_eq!(of("system_scope = all")["scope"], json!({"system": {"all": true}}));
        assert_eq!(of("domain_name = d")["scope"], json!({"domain": {"name": "d"}}));
        assert_eq!(of("trust_id = t")["scope"], json!({"OS-TRUST:trust": {"id": "t"}}));
    }

    #[test]
    fn what_is_missing_or_contradicts_itself_is_named() {
        assert!(read("auth_url = http://k").unwrap().is_none());
        for (options, problem) in [
            ("auth_type = v3kerberos", "auth_type = v3kerberos is not supported"),
            ("auth_type = password\nauth_url = http://k", "username is needed"),
            ("auth_type = password\nusername = u\npassword = p", "username needs user_domain_name"),
            ("auth_type = v3password\nusername = u\ndefault_domain_id = d", "user_domain_name"),
            ("auth_type = v3token\ntoken = t", "auth_url is needed"),
            ("auth_type = token\ntoken = t\nauth_url = file:///k", "no http or https address"),
            ("auth_type = token\ntoken = t\nauth_url = http://k/v2.0", "v2.0 is not supported"),
            (
                "auth_type = token\ntoken = t\nauth_url = http://k\nproject_name = p",
                "project_domain",
            ),
            (
                "auth_type = token\ntoken = t\nauth_url = http://k\nproject_id = p\ntrust_id = t",
                "give one of",
            ),
        ] {
            let error = read(options).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("[placement]"), "{error}");
        }
    }
}
