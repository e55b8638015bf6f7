//! Settings that had another name. Users are told the new one; files that runs of the version before left are read with it.

use std::collections::BTreeMap;

use serde_json::Value;

use dualpool_types::settings::{flatten, nest};

use super::Settings;

/// Old name and new name.
const RENAMED: [(&str, &str); 6] = [
    ("migrate.lease_ms", "kv.lease_ms"),
    ("migrate.verify_kv", "kv.verify"),
    ("migrate.run_dir", "kv.run_dir"),
    ("migrate.calibration", "kv.calibration"),
    ("migrate.copy_grid_blocks_max", "kv.copy_grid_blocks_max"),
    ("router.migration.moves_max", "router.migration.per_request_max"),
];

/// Tables whose settings are in another one now.
const RENAMED_TABLES: [(&str, &str); 1] = [("migrate", "kv")];

/// Settings that are no more, and that older runs have.
const GONE: [&str; 1] = ["run.bootstrap_resamples"];

/// What a setting is called now that was once called this.
pub fn renamed(key: &str) -> Option<&'static str> {
    RENAMED.iter().find(|(old, _)| *old == key).map(|&(_, new)| new)
}

/// The table of this key by its old name and by the one it has now, where it was renamed.
pub fn renamed_table(key: &str) -> Option<(&'static str, &'static str)> {
    let table = key.split('.').next();
    RENAMED_TABLES.into_iter().find(|&(old, _)| Some(old) == table)
}

/// The same settings by the names they have now.
pub(crate) fn with_present_names<V>(settings: BTreeMap<String, V>) -> BTreeMap<String, V> {
    settings
        .into_iter()
        .filter(|(key, _)| !GONE.contains(&key.as_str()))
        .map(|(key, value)| (renamed(&key).map_or(key, String::from), value))
        .collect()
}

impl Settings {
    /// The settings that a `run.json` holds, be it of this version or of the one before.
    pub fn of_run(settings: &Value) -> Result<Settings, serde_json::Error> {
        let present = if settings.is_object() { nest(with_present_names(flatten(settings))) } else { settings.clone() };
        serde_json::from_value(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::settings::values;
    use serde_json::json;

    #[test]
    fn every_new_name_is_that_of_a_setting_and_no_old_one_is() {
        let known = values(&Settings::default());
        for (old, new) in RENAMED {
            assert!(known.contains_key(new) && !known.contains_key(old), "{old} -> {new}");
            assert_eq!(renamed(old), Some(new));
        }
        assert_eq!(renamed("kv.lease_ms"), None);
        for (old, new) in RENAMED_TABLES {
            assert!(known.keys().any(|key| renamed_table(key).is_none() && key.starts_with(&format!("{new}."))), "{new}");
            assert_eq!([old, &format!("{old}.magic")].map(renamed_table), [Some((old, new)); 2]);
        }
    }

    #[test]
    fn a_run_of_the_version_before_is_read() {
        let mut settings = Settings::default();
        settings.kv.lease_ms = 7;
        settings.router.migration.per_request_max = 9;
        let mut old = values(&settings);
        for (old_name, new) in RENAMED {
            let value = old.remove(new).unwrap();
            old.insert(old_name.to_string(), value);
        }
        let old = nest(old);
        assert_eq!(old["migrate"]["lease_ms"], json!(7));
        assert_eq!(Settings::of_run(&old).unwrap(), settings);
        assert_eq!(Settings::of_run(&serde_json::to_value(&settings).unwrap()).unwrap(), settings);
        assert!(Settings::of_run(&json!({ "migrate": { "magic": 1 } })).is_err());
        assert!(Settings::of_run(&Value::Null).is_err());
    }
}
