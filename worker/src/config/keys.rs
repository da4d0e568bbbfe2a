//! The keys of the settings file, and those in it that no setting has.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Visitor, value::Error},
    forward_to_deserialize_any,
};
use toml::de::{DeTable, DeValue};

use super::{Actions, File, Files, Log};
use crate::{apps, services, spelling::did_you_mean};

/// A key that is not known.
pub(super) struct Unknown {
    /// Where it stands: `services.web.programm`.
    pub(super) path: String,
    /// A hint at the known key that was probably meant, as the end of a sentence.
    pub(super) meant: String,
}

/// The keys of a settings file that no setting has.
pub(super) fn unknown(file: &DeTable<'_>) -> Vec<Unknown> {
    let mut found = Vec::new();
    look(file, "", fields::<File>(), &mut found);

    for (name, known) in [("actions", fields::<Actions>()), ("files", fields::<Files>()), ("log", fields::<Log>())] {
        if let Some(table) = table(file, name) {
            look(table, &format!("{name}."), known, &mut found);
        }
    }

    for (name, known) in [("services", fields::<services::Input>()), ("apps", fields::<apps::Input>())] {
        for (key, value) in table(file, name).into_iter().flatten() {
            let DeValue::Table(one) = value.get_ref() else { continue };
            let path = format!("{name}.{}.", key.get_ref());
            look(one, &path, known, &mut found);
            if let Some(check) = table(one, "check") {
                look(check, &format!("{path}check."), fields::<services::CheckInput>(), &mut found);
            }
        }
    }
    found
}

fn table<'a, 'i>(within: &'a DeTable<'i>, name: &str) -> Option<&'a DeTable<'i>> {
    match within.get(name)?.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn look(table: &DeTable<'_>, path: &str, known: &[&str], found: &mut Vec<Unknown>) {
    let keys = table.iter().map(|(key, _)| key.get_ref().as_ref());
    found.extend(
        keys.filter(|key| !known.contains(key))
            .map(|key: &str| Unknown { path: format!("{path}{key}"), meant: did_you_mean(key, known) }),
    );
}

/// The names of the fields of a struct: its `Deserialize` asks for them.
fn fields<T: Deserialize<'static>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    let _ = T::deserialize(Asked(&mut fields));
    fields
}

/// Takes down which fields are asked for, and has none of them.
struct Asked<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("only asked"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_looked_at() {
        let text = "redis_ca = 'x'\nzzz = 1\n[labels]\nany = 'x'\n[files]\nputt = []\n[groups]\nany = []\n\
                    [services.web]\ncheck = { tpc = 'a:1' }\n[apps.shop]\nkeeps = 1\ncheck = { http = 'x' }\n\
                    [[policy]]\nwhoever = 'its reader says more'";
        let found = unknown(DeTable::parse(text).unwrap().get_ref());
        let found: Vec<_> = found.into_iter().map(|unknown| unknown.path + &unknown.meant).collect();
        assert_eq!(
            found,
            [
                "zzz",
                "files.putt (did you mean 'put'?)",
                "services.web.check.tpc (did you mean 'tcp'?)",
                "apps.shop.keeps (did you mean 'keep'?)"
            ]
        );
    }
}
