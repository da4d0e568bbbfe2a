//! Which commands are about the same thing, so that they run one after another.

use crate::{
    apps,
    log::{self, excerpt},
    services,
};

/// The services and applications of a host.
#[derive(Clone, Debug, Default)]
pub struct Subjects {
    /// Its services.
    pub services: services::Settings,
    /// Its applications.
    pub apps: apps::Settings,
}

impl Subjects {
    /// The key of commands about a service, by whatever name they call it.
    pub(super) fn service(&self, name: &str) -> String {
        self.services.exclusion_key(name)
    }

    /// The key of commands about an application: that of its service, which a deploy takes over.
    pub(super) fn app(&self, name: &str) -> String {
        match self.apps.service_of(name) {
            Some(service) => self.service(service),
            None => format!("app '{}'", excerpt(name, log::NAME)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_deploy_and_a_restart_of_its_service_exclude_each_other() {
        let services: BTreeMap<String, services::Input> =
            toml::from_str("[web]\nprogram = ['/bin/web']\n[db]\nunit = 'postgresql'").unwrap();
        let services = services::Settings::read(services).unwrap();
        let apps: BTreeMap<String, apps::Input> = toml::from_str(
            "[site]\ndirectory = '/a'\nservice = 'web'\n[data]\ndirectory = '/b'\nservice = 'db'\n[plain]\ndirectory = '/c'",
        )
        .unwrap();
        let apps = apps::Settings::read(apps, &services).unwrap();
        let subjects = Subjects { services, apps };
        assert_eq!(subjects.app("site"), subjects.service("web"));
        assert_eq!(subjects.app("data"), subjects.service("postgresql.service"));
        assert_eq!(subjects.app("plain"), "app 'plain'");
        assert_ne!(subjects.app("none"), subjects.app("plain"));
    }
}
