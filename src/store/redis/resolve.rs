//! Where is the master now? Asked before every connect, so that a failover or a slot that moved needs nothing but a
//! new connection.
//!
//! A fixed address is its own answer. Sentinels are asked in turn, and the server that they name must say that it is
//! a master. In a Cluster any node that is known says who owns the partition's slot. Who gave no good answer is
//! asked last the next time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value, from_redis_value};
use tokio::time::timeout;

use super::error;
use super::servers::Servers;
use crate::config::Secret;
use crate::store::StoreError;

/// How the master is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The URL's address.
    Address,
    /// The URL's sentinels.
    Sentinel,
    /// The owner of this slot.
    Slot(u16),
}

/// A master, wherever it is.
pub(super) struct Master {
    url: Secret,
    by: By,
    /// Whom to ask, in order; empty before the first answer, when it is the URL's hosts.
    asked: Mutex<Vec<String>>,
}

impl Master {
    /// The one that `url` and `by` name.
    ///
    /// # Errors
    /// [`StoreError::Setup`] for a URL that no client can be made of.
    pub(super) fn new(url: &Secret, by: By) -> Result<Self, StoreError> {
        let master = Self { url: url.clone(), by, asked: Mutex::default() };
        let servers = Servers::read(&Secret::new(url.expose()))?;
        let bad =
            || StoreError::Setup("store.url is not a redis URL: write redis://[user:password@]host:port/db".into());
        let host = servers.hosts.first().ok_or_else(bad)?;
        // the files that it names may come later
        let readable = Secret::new(url.expose().split('?').next().unwrap_or_default());
        Servers::read(&readable)?.client(host, true, master.database(&servers)).map_err(|_| bad())?;
        Ok(master)
    }

    /// A client of the master, found within `deadline`.
    pub(super) async fn find(&self, deadline: Duration) -> Result<Client, StoreError> {
        let servers = Servers::read(&self.url)?;
        let host = match self.by {
            By::Address => servers.hosts.first().cloned().unwrap_or_default(),
            By::Sentinel | By::Slot(_) => self.ask_in_turn(&servers, deadline / 3).await?,
        };
        let client = servers.client(&host, true, self.database(&servers));
        client.map_err(|error| StoreError::Unreachable(format!("no connection to {host} can be made: {error}")))
    }

    /// Whether a server that was found must say that it is a master.
    pub(super) fn is_watched(&self) -> bool {
        self.by == By::Sentinel
    }

    /// The last answer led nowhere: others are asked first the next time.
    pub(super) fn was_wrong(&self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.is_empty() {
            asked.rotate_left(1);
        }
    }

    fn database<'a>(&self, servers: &'a Servers) -> &'a str {
        servers.database(self.by == By::Sentinel)
    }

    async fn ask_in_turn(&self, servers: &Servers, each: Duration) -> Result<String, StoreError> {
        let mut hosts = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let new = |host: &&String| !hosts.contains(*host);
        let missing: Vec<String> = servers.hosts.iter().filter(new).cloned().collect();
        hosts.extend(missing);
        let mut failed = StoreError::Unreachable("store.url names no server".into());
        for at in 0..hosts.len() {
            let answer = timeout(each, self.ask(servers, &hosts[at])).await;
            match answer.unwrap_or_else(|_| Err(format!("{} does not answer", hosts[at]))) {
                Ok((master, known)) => {
                    let mut order = hosts.split_off(at);
                    order.extend(hosts);
                    order.extend(known);
                    let mut seen = std::collections::HashSet::new();
                    order.retain(|host| seen.insert(host.clone()));
                    *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = order;
                    return Ok(master);
                }
                Err(why) => failed = StoreError::Unreachable(why),
            }
        }
        Err(failed)
    }

    /// The master as `host` says, and whom else can be asked.
    async fn ask(&self, servers: &Servers, host: &str) -> Result<(String, Vec<String>), String> {
        match self.by {
            By::Address => Ok((host.to_owned(), Vec::new())),
            By::Sentinel => Ok((ask_sentinel(servers, host).await?, Vec::new())),
            By::Slot(slot) => {
                let mut node = connect(servers, host, true).await.map_err(|error| told(&error, host))?;
                let slots = redis::cmd("CLUSTER").arg("SLOTS").query_async::<Vec<Vec<Value>>>(&mut node).await;
                owner(&slots.map_err(|error| told(&error, host))?, slot, host)
            }
        }
    }
}

/// Sentinels often have no password where the servers do.
async fn ask_sentinel(servers: &Servers, host: &str) -> Result<String, String> {
    let mut sentinel = match connect(servers, host, false).await {
        Err(error) if error.code() == Some("NOAUTH") => connect(servers, host, true).await,
        other => other,
    }
    .map_err(|error| told(&error, host))?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(servers.service());
    let master: Option<(String, u16)> = command.query_async(&mut sentinel).await.map_err(|error| told(&error, host))?;
    let (name, port) = master.ok_or_else(|| {
        format!("the sentinel {host} knows no master named {}: check the path of store.url", servers.service())
    })?;
    Ok(join(&name, port))
}

async fn connect(servers: &Servers, host: &str, credentials: bool) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    servers.client(host, credentials, "")?.get_multiplexed_async_connection_with_config(&config).await
}

/// The owner of a slot, and all nodes, of what `CLUSTER SLOTS` on `host` says.
fn owner(rows: &[Vec<Value>], slot: u16, host: &str) -> Result<(String, Vec<String>), String> {
    let read = |row: &Vec<Value>| -> Option<(u16, u16, Vec<String>)> {
        let [first, last, nodes @ ..] = &row[..] else { return None };
        let bounds: (u16, u16) = (from_redis_value(first.clone()).ok()?, from_redis_value(last.clone()).ok()?);
        Some((bounds.0, bounds.1, nodes.iter().filter_map(|node| address(node, host)).collect()))
    };
    let rows: Vec<_> = rows.iter().filter_map(read).collect();
    let known = rows.iter().flat_map(|(_, _, nodes)| nodes.clone()).collect();
    let owner = rows.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
    let master = owner.and_then(|(_, _, nodes)| nodes.first().cloned());
    let master = master.ok_or_else(|| format!("no node of the cluster owns slot {slot}, says {host}"))?;
    Ok((master, known))
}

/// `host:port` of a node; one without a name is where it was asked.
fn address(node: &Value, asked: &str) -> Option<String> {
    let Value::Array(fields) = node else { return None };
    let name: Option<String> = from_redis_value(fields.first()?.clone()).ok()?;
    let port: u16 = from_redis_value(fields.get(1)?.clone()).ok()?;
    match name.filter(|name| !name.is_empty() && name != "?") {
        Some(name) => Some(join(&name, port)),
        None => asked.rsplit_once(':').map(|(host, _)| format!("{host}:{port}")),
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn told(error: &redis::RedisError, host: &str) -> String {
    format!("{host}: {}", error::text(error))
}

/// The slot of a key with this hash tag: CRC16 (XMODEM) modulo 16384, as in the Redis Cluster specification.
pub(super) fn slot(tag: &str) -> u16 {
    let step = |crc: u16, byte: &u8| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    };
    tag.as_bytes().iter().fold(0, step) % 16384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_that_of_the_cluster_specification() {
        assert_eq!(slot("123456789"), 0x31c3);
    }

    #[test]
    fn a_slots_owner_is_the_first_node_of_its_range() {
        let node = |name: &str, port| Value::Array(vec![Value::BulkString(name.into()), Value::Int(port)]);
        let row = |first, last, nodes: Vec<Value>| [vec![Value::Int(first), Value::Int(last)], nodes].concat();
        let rows = [row(0, 9, vec![node("a", 1), node("b", 2)]), row(10, 99, vec![node("::1", 3), node("", 4)])];
        assert_eq!(owner(&rows, 9, "seed:7").map(|found| found.0), Ok("a:1".into()));
        let (master, known) = owner(&rows, 10, "seed:7").expect("owned");
        assert_eq!((master.as_str(), known.len(), known[3].as_str()), ("[::1]:3", 4, "seed:4"));
        assert!(owner(&rows, 100, "seed:7").is_err());
    }
}
