//! A Redis server's reply to `INFO`.

use std::collections::HashMap;

use protocol::connection::Connection;
use redis::RedisError;

/// The oldest version that Redfleet supports.
pub const OLDEST: (u64, u64) = (7, 0);

/// The fields of `INFO`.
#[derive(Debug, Default)]
pub struct RedisInfo(HashMap<String, String>);

impl RedisInfo {
    /// Reads it from the server.
    pub async fn load(connection: &mut Connection) -> Result<Self, RedisError> {
        let text: String = redis::cmd("INFO").query_async(connection).await?;
        Ok(Self::read(&text))
    }

    /// Reads the reply.
    pub fn read(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// A field as it is.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A field as a number; 0 where it is none.
    pub fn number(&self, name: &str) -> u64 {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The values of fields that are numbered, such as `db0` and `db1`, in no order.
    pub fn numbered<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let is_numbered = move |field: &str| field.strip_prefix(name).is_some_and(|rest| rest.parse::<u32>().is_ok());
        self.0.iter().filter(move |(field, _)| is_numbered(field)).map(|(_, value)| value.as_str())
    }

    /// Whether a field is `1`.
    pub fn is(&self, name: &str) -> bool {
        self.text(name) == Some("1")
    }

    /// Whether it is still reading its data and refuses most commands.
    pub fn is_loading(&self) -> bool {
        self.is("loading")
    }

    /// Whether it is Valkey, which calls itself Redis 7.2 for the sake of old clients.
    pub fn is_valkey(&self) -> bool {
        self.text("server_name") == Some("valkey")
    }

    /// The program and its version, as people know them.
    pub fn product(&self) -> String {
        match self.text("valkey_version").filter(|_| self.is_valkey()) {
            Some(version) => format!("valkey {version}"),
            None => format!("redis {}", self.text("redis_version").unwrap_or("of an unknown version")),
        }
    }

    /// Major and minor number of the Redis version that it offers the commands of.
    pub fn version(&self) -> (u64, u64) {
        let version = self.text("redis_version").unwrap_or_default();
        let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Whether its version is supported.
    pub fn is_supported(&self) -> bool {
        self.version() >= OLDEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_known_by_their_own_name() {
        let redis = RedisInfo::read("# Server\r\nredis_version:7.0.15\r\nloading:0\r\nconnected_clients:3\r\n");
        assert_eq!((redis.product().as_str(), redis.version()), ("redis 7.0.15", (7, 0)));
        assert!(redis.is_supported() && !redis.is_loading());
        assert_eq!(redis.number("connected_clients"), 3);
        let valkey =
            RedisInfo::read("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\nloading:1\r\n");
        assert_eq!(valkey.product(), "valkey 8.1.0");
        assert!(valkey.is_loading());
        assert!(!RedisInfo::read("redis_version:6.2.14\r\n").is_supported());
    }
}
