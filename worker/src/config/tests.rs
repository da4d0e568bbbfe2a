//! The settings: what wins, what is refused, what is not swallowed.

use super::*;

fn resolve(file: &str, flags: &[&str]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.toml");
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    Config::resolve(Options::parse_from(["worker", "--config", path].iter().chain(flags)))
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = "redis = 'redis://127.0.0.1:1'\nhost = 'web1'\nslots = 7\ngrace = '5s'\n[labels]\nrole = 'web'";
    let config = resolve(file, &["--redis", "redis://127.0.0.1:2"]).unwrap();
    assert_eq!(config.redis.to_string(), "redis://127.0.0.1:2");
    assert_eq!((config.host.as_str(), config.slots, config.grace), ("web1", 7, Duration::from_secs(5)));
    assert_eq!(config.sample_interval, Duration::from_secs(10));
    assert_eq!(config.history_step, Some(Duration::from_secs(300)));
    assert_eq!(resolve(&format!("history_step = 'off'\n{file}"), &[]).unwrap().history_step, None);
    assert!(config.warnings.is_empty() && config.allow.is_empty());
}

#[test]
fn unknown_keys_are_reported_not_swallowed() {
    let config = resolve("redis = 'redis://127.0.0.1:1'\nslot = 7\n[log]\ncolour = 1", &["--allow", "exce"]).unwrap();
    assert!(config.warnings.is_empty());
    let meant = config.unknown.iter().filter(|unknown| unknown.contains("did you mean"));
    assert_eq!((config.unknown.len(), meant.count()), (3, 2), "{:?}", config.unknown);
}

#[test]
fn what_is_off_until_it_is_allowed_can_be_allowed() {
    let unknown = |action: &str| resolve("redis = 'redis://127.0.0.1:1'", &["--allow", action]).unwrap().unknown;
    for action in ["exec", "deploy-status", "status", "cancel"] {
        assert!(unknown(action).is_empty(), "{action}");
    }
    let [told] = &unknown("ping")[..] else { panic!("ping is allowed already") };
    assert!(told.contains("the actions that can be allowed are: ") && told.contains("deploy-status"), "{told}");
}

#[test]
fn nonsense_is_refused() {
    for file in [
        "",
        "redis = 5",
        "redis = 'x'",
        "redis = 'redis://a'\nslots = 0",
        "redis = 'redis://a'\ngrace = 5",
        "redis = 'redis://a'\nslots = 2\nreserved = 2",
        "redis = 'redis://a'\nhistory_step = '5s'",
        "redis = 'redis://a'\nhistory_step = '10500ms'",
        "redis = 'redis://a'\nhistory_step = '2d'",
        "redis = 'redis://a'\nhistory_step = 'never'",
    ] {
        assert!(resolve(file, &["--host", "web1"]).is_err(), "{file}");
    }
}

#[test]
fn services_are_checked_and_their_unknown_keys_reported() {
    let redis = "redis = 'redis://127.0.0.1:1'\nhost = 'web1'\n";
    let config =
        resolve(&format!("{redis}[services.web]\nprogram = ['/bin/web']\nlisten = ['127.0.0.1:80']"), &[]).unwrap();
    assert!(config.describe().unwrap().contains("web (supervised)"));
    let config = resolve(&format!("{redis}[services.web]\nprogramm = ['/bin/web']"), &[]).unwrap();
    assert!(config.unknown[0].contains("'services.web.programm' (did you mean 'program'?)"), "{:?}", config.unknown);
    let error = resolve(&format!("{redis}[services.web]\nsettle = '5'"), &[]).unwrap_err().to_string();
    assert!(error.contains("is not a duration"), "{error}");
    let error = resolve(&format!("{redis}[services.web]\nlisten = ['80']"), &[]).unwrap_err().to_string();
    assert_eq!(error, "[services.web]: listen is not for a service with driver = \"systemd\"");
}

#[test]
fn applications_are_checked_and_their_unknown_keys_reported() {
    let redis = "redis = 'redis://127.0.0.1:1'\nhost = 'web1'\n";
    let service = "[services.web]\nprogram = ['/srv/web/current/bin/web']\n";
    let app = "[apps.web]\ndirectory = '/srv/web'\nservice = 'web'\n";
    let config = resolve(&format!("{redis}{service}{app}"), &[]).unwrap();
    assert!(config.describe().unwrap().contains("web (/srv/web)"));
    let config = resolve(&format!("{redis}{service}{app}setle = '5s'"), &[]).unwrap();
    assert!(config.unknown[0].contains("'apps.web.setle' (did you mean 'settle'?)"), "{:?}", config.unknown);
    let error = resolve(&format!("{redis}[apps.web]\nkeep = 3"), &[]).unwrap_err().to_string();
    assert_eq!(error, "[apps.web]: directory = \"/PATH\" is missing");
}
