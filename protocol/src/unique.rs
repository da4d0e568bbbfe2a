//! Maps in which each name stands once.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

/// Reads a map in which each name stands once. Of two values of a name one decoder might take the first, and another the
/// last: what was signed must mean one thing.
pub(crate) fn unique<'de, V: Deserialize<'de>, D: Deserializer<'de>>(
    input: D,
) -> Result<BTreeMap<String, V>, D::Error> {
    struct Unique<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("values by name")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut input: M) -> Result<Self::Value, M::Error> {
            let mut map = BTreeMap::new();
            while let Some((name, value)) = input.next_entry()? {
                if map.insert(name, value).is_some() {
                    return Err(M::Error::custom("a name stands twice"));
                }
            }
            Ok(map)
        }
    }

    input.deserialize_map(Unique(PhantomData))
}
