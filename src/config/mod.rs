//! Configuration: a host's nova.conf, by oslo.config's rules.
//!
//! `ini.rs` reads one file, `files.rs` says which of several values counts, `oslo.rs` puts values
//! in the place of `$name`, `value.rs` checks types and bounds. Then one file for each section:
//! a struct with a field for each option, named as in the file. A new option is a new line there;
//! the sample file shows it from then on. What a file sets and nobody here knows is no error, but
//! listed in [`Config::ignored`].

use std::path::PathBuf;

use crate::model::class::Class;

pub mod args;
pub mod files;
pub mod ini;
pub mod opt;
pub mod oslo;
pub mod value;

pub mod api;
pub mod cinder;
pub mod compute;
pub mod consoleauth;
pub mod default;
pub mod filter_scheduler;
pub mod glance;
pub mod hypernova;
pub mod image_cache;
pub mod key_manager;
pub mod keystoneauth;
pub mod libvirt;
pub mod neutron;
pub mod notifications;
pub mod os_vif_ovs;
pub mod oslo_messaging_notifications;
pub mod oslo_messaging_rabbit;
pub mod placement;
pub mod serial_console;
pub mod service_user;
pub mod spice;
pub mod upgrade_levels;
pub mod vnc;
pub mod workarounds;

#[cfg(test)]
mod sample;

pub use files::Source;

use files::Files;
use opt::OptionSpec;
use oslo::Resolver;

/// Lists the sections once for the struct, the loader and the table of options.
macro_rules! config {
    ($($field:ident: $module:ident::$struct:ident,)+) => {
        /// A whole configuration, checked.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $(pub $field: $module::$struct,)+
            /// What the files set and this agent doesn't read, in their order.
            pub ignored: Vec<IgnoredOption>,
        }

        /// Section, documentation and options of every section, in the order of the sample file.
        pub const SECTIONS: &[Section] = &[$(Section {
            name: $module::$struct::SECTION,
            doc: $module::$struct::DOC,
            options: $module::$struct::OPTIONS,
        },)+];

        fn read(resolver: &Resolver<'_>) -> Result<Config, ConfigError> {
            Ok(Config { $($field: $module::$struct::read(resolver)?,)+ ignored: Vec::new() })
        }
    };
}

config! {
    default_: default::DefaultSection,
    hypernova: hypernova::Hypernova,
    api: api::Api,
    cinder: cinder::Cinder,
    compute: compute::Compute,
    consoleauth: consoleauth::Consoleauth,
    filter_scheduler: filter_scheduler::FilterScheduler,
    glance: glance::Glance,
    image_cache: image_cache::ImageCache,
    key_manager: key_manager::KeyManager,
    libvirt: libvirt::Libvirt,
    neutron: neutron::Neutron,
    notifications: notifications::Notifications,
    oslo_messaging_notifications: oslo_messaging_notifications::OsloMessagingNotifications,
    os_vif_ovs: os_vif_ovs::OsVifOvs,
    oslo_messaging_rabbit: oslo_messaging_rabbit::OsloMessagingRabbit,
    placement: placement::Placement,
    serial_console: serial_console::SerialConsole,
    service_user: service_user::ServiceUser,
    spice: spice::Spice,
    upgrade_levels: upgrade_levels::UpgradeLevels,
    vnc: vnc::Vnc,
    workarounds: workarounds::Workarounds,
}

/// A section as declared.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    pub name: &'static str,
    pub doc: &'static [&'static str],
    pub options: &'static [OptionSpec],
}

/// An option that a file sets and this agent doesn't read. Its value isn't kept: it may be secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredOption {
    pub section: String,
    pub name: String,
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// What was probably meant, as `[section] name`.
    pub meant: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}:{line}: {problem}", path.display())]
    Syntax { path: PathBuf, line: usize, problem: &'static str },
    /// `place` is `file:line`, or `default`; a secret `value` is `***`.
    #[error("{place}: [{section}] {option} = {value}: {problem}")]
    Value { place: String, section: String, option: &'static str, value: String, problem: String },
}

impl ConfigError {
    pub fn class(&self) -> Class {
        match self {
            Self::Unreadable { .. } | Self::Syntax { .. } | Self::Value { .. } => Class::Refused,
        }
    }
}

impl Config {
    /// Reads `sources` in order, later ones winning. No sources: the defaults.
    ///
    /// # Errors
    /// The first file that can't be read, and the first value that isn't allowed.
    pub fn load(sources: &[Source]) -> Result<Self, ConfigError> {
        Self::from_files(&Files::read(sources)?)
    }

    /// # Errors
    /// The first value that isn't allowed.
    pub fn from_files(files: &Files) -> Result<Self, ConfigError> {
        let specs: Vec<OptionSpec> = specs().copied().collect();
        let resolver = Resolver::new(files, &specs);
        let mut config = read(&resolver)?;
        config.check(&resolver)?;
        let mut ignored = ignored(files, &specs);
        ignored.retain(|option| !config.reads_elsewhere(&option.section, &option.name));
        config.ignored = ignored;
        Ok(config)
    }

    /// Whether `[section] name` was read because an `auth_section` names the section.
    fn reads_elsewhere(&self, section: &str, name: &str) -> bool {
        let auths =
            [&self.cinder.auth, &self.neutron.auth, &self.placement.auth, &self.service_user.auth];
        auths.into_iter().any(|auth| auth.reads(section, name))
    }

    /// What no single option can say.
    fn check(&self, resolver: &Resolver<'_>) -> Result<(), ConfigError> {
        self.oslo_messaging_rabbit.check(resolver)
    }
}

/// Every option of every section.
pub fn specs() -> impl Iterator<Item = &'static OptionSpec> {
    SECTIONS.iter().flat_map(|section| section.options)
}

fn ignored(files: &Files, specs: &[OptionSpec]) -> Vec<IgnoredOption> {
    let known = |section: &str, name: &str| specs.iter().find(|spec| spec.is_named(section, name));
    files
        .assignments()
        .filter(|(_, a)| known(&a.section, &a.name).is_none())
        .map(|(file, a)| {
            let section = if a.section == "default" { "DEFAULT" } else { &a.section };
            let meant = known(section, &a.name.replace('-', "_").to_lowercase());
            IgnoredOption {
                section: a.section.clone(),
                name: a.name.clone(),
                file: file.to_owned(),
                line: a.line,
                meant: meant.map(|spec| format!("[{}] {}", spec.section, spec.name)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let mut files = Files::default();
        files.add(Path::new("nova.conf"), text)?;
        Config::from_files(&files)
    }

    #[test]
    fn nothing_set_gives_the_defaults() {
        let config = Config::load(&[]).unwrap();
        assert_eq!(config.default_.instances_path, Path::new("/var/lib/nova/instances"));
        assert_eq!(config.default_.transport_url.expose(), "rabbit://");
        assert_eq!(config.ignored, []);
    }

    #[test]
    fn names_of_options_are_theirs_alone() {
        let mut names: Vec<_> = specs().flat_map(|s| s.names_in(s.section)).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn what_nobody_reads_is_listed_with_what_was_meant() {
        let config = load(
            "[DEFAULT]\nfrobnicate = 1\nforce-raw-images = no\nvnc_enabled = no\n\
             [default]\ndebug = 1\n[barbican]\npassword = hunter2",
        )
        .unwrap();
        assert!(!config.vnc.enabled && config.default_.force_raw_images);
        let ignored: Vec<_> = config
            .ignored
            .iter()
            .map(|i| (i.section.as_str(), i.name.as_str(), i.line, i.meant.as_deref()))
            .collect();
        assert_eq!(
            ignored,
            [
                ("DEFAULT", "frobnicate", 2, None),
                ("DEFAULT", "force-raw-images", 3, Some("[DEFAULT] force_raw_images")),
                ("default", "debug", 6, Some("[DEFAULT] debug")),
                ("barbican", "password", 8, None),
            ]
        );
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_value_out_of_bounds_names_place_option_value_and_bounds() {
        let error = load("[libvirt]\nnum_pcie_ports = 29").unwrap_err().to_string();
        assert_eq!(error, "nova.conf:2: [libvirt] num_pcie_ports = 29: must be between 0 and 28");
    }

    #[test]
    fn a_password_is_in_no_error_and_no_debug_text() {
        let config = load("[DEFAULT]\ntransport_url = rabbit://nova:hunter2@h:5672/").unwrap();
        assert_eq!(config.default_.transport_url.expose(), "rabbit://nova:hunter2@h:5672/");
        assert!(!format!("{config:?}").contains("hunter2"));
        let error = load("[DEFAULT]\ntransport_url = rabbit://nova:hun$ter2@h:5672/").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("ter2"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_loads_or_is_refused(text in "(?s).{0,300}") {
            load(&text).ok();
        }

        #[test]
        fn any_value_of_any_option_loads_or_is_refused(
            option in 0..specs().count(), value in "(?s).{0,40}",
        ) {
            let spec = specs().nth(option).unwrap();
            load(&format!("[{}]\n{} = {value}", spec.section, spec.name)).ok();
        }
    }
}
