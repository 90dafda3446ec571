//! Where is the master now? Asked before every connect, so that a failover or a slot that moved
//! needs nothing but a new connection.
//!
//! A fixed address is its own answer. Sentinels are asked in turn, and the server that they name
//! must say that it is a master. In a Cluster any node that is known says who owns the partition's
//! slot. Who gave no good answer is asked last the next time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value, from_redis_value};
use tokio::time::timeout;

use super::error;
use super::servers::RedisUrl;
use crate::config::Secret;
use crate::store::StoreError;

/// How the master is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MasterDiscovery {
    /// The URL's address.
    FixedAddress,
    /// The URL's sentinels.
    Sentinel,
    /// The owner of this slot.
    SlotOwner(u16),
}

/// A master, wherever it is.
pub(super) struct MasterLocator {
    url: Secret,
    discovery: MasterDiscovery,
    /// Whom to ask, in order; empty before the first answer, when it is the URL's hosts.
    query_order: Mutex<Vec<String>>,
}

impl MasterLocator {
    /// The one that `url` and `by` name.
    ///
    /// # Errors
    /// [`StoreError::Setup`] for a URL that no client can be made of.
    pub(super) fn new(url: &Secret, discovery: MasterDiscovery) -> Result<Self, StoreError> {
        let master = Self { url: url.clone(), discovery, query_order: Mutex::default() };
        let servers = RedisUrl::load(&Secret::new(url.expose()))?;
        let bad = || {
            StoreError::InvalidSetup(
                "store.url is not a redis URL: write redis://[user:password@]host:port/db".into(),
            )
        };
        let host = servers.hosts.first().ok_or_else(bad)?;
        // the files that it names may come later
        let readable = Secret::new(url.expose().split('?').next().unwrap_or_default());
        RedisUrl::load(&readable)?
            .build_client(host, true, master.database_of(&servers))
            .map_err(|_| bad())?;
        Ok(master)
    }

    /// A client of the master, found within `deadline`.
    pub(super) async fn locate_master(&self, deadline: Duration) -> Result<Client, StoreError> {
        let servers = RedisUrl::load(&self.url)?;
        let host = match self.discovery {
            MasterDiscovery::FixedAddress => servers.hosts.first().cloned().unwrap_or_default(),
            MasterDiscovery::Sentinel | MasterDiscovery::SlotOwner(_) => {
                self.query_hosts_in_order(&servers, deadline / 3).await?
            }
        };
        let client = servers.build_client(&host, true, self.database_of(&servers));
        client.map_err(|error| {
            StoreError::Unreachable(format!("no connection to {host} can be made: {error}"))
        })
    }

    /// Whether a server that was found must say that it is a master.
    pub(super) fn requires_role_check(&self) -> bool {
        self.discovery == MasterDiscovery::Sentinel
    }

    /// The last answer led nowhere: others are asked first the next time.
    pub(super) fn deprioritize_first_host(&self) {
        let mut asked = self.query_order.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.is_empty() {
            asked.rotate_left(1);
        }
    }

    fn database_of<'a>(&self, servers: &'a RedisUrl) -> &'a str {
        servers.database_name(self.discovery == MasterDiscovery::Sentinel)
    }

    async fn query_hosts_in_order(
        &self,
        servers: &RedisUrl,
        per_host_timeout: Duration,
    ) -> Result<String, StoreError> {
        let mut hosts = self.query_order.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let new = |host: &&String| !hosts.contains(*host);
        let missing: Vec<String> = servers.hosts.iter().filter(new).cloned().collect();
        hosts.extend(missing);
        let mut failed = StoreError::Unreachable("store.url names no server".into());
        for at in 0..hosts.len() {
            let answer = timeout(per_host_timeout, self.query_host(servers, &hosts[at])).await;
            match answer.unwrap_or_else(|_| Err(format!("{} does not answer", hosts[at]))) {
                Ok((master, known)) => {
                    let mut order = hosts.split_off(at);
                    order.extend(hosts);
                    order.extend(known);
                    let mut seen = std::collections::HashSet::new();
                    order.retain(|host| seen.insert(host.clone()));
                    *self.query_order.lock().unwrap_or_else(PoisonError::into_inner) = order;
                    return Ok(master);
                }
                Err(why) => failed = StoreError::Unreachable(why),
            }
        }
        Err(failed)
    }

    /// The master as `host` says, and whom else can be asked.
    async fn query_host(
        &self,
        servers: &RedisUrl,
        host: &str,
    ) -> Result<(String, Vec<String>), String> {
        match self.discovery {
            MasterDiscovery::FixedAddress => Ok((host.to_owned(), Vec::new())),
            MasterDiscovery::Sentinel => Ok((query_sentinel(servers, host).await?, Vec::new())),
            MasterDiscovery::SlotOwner(slot) => {
                let mut node = connect_to_node(servers, host, true)
                    .await
                    .map_err(|error| describe_host_error(&error, host))?;
                let slots = redis::cmd("CLUSTER")
                    .arg("SLOTS")
                    .query_async::<Vec<Vec<Value>>>(&mut node)
                    .await;
                find_slot_owner(
                    &slots.map_err(|error| describe_host_error(&error, host))?,
                    slot,
                    host,
                )
            }
        }
    }
}

/// Sentinels often have no password where the servers do.
async fn query_sentinel(servers: &RedisUrl, host: &str) -> Result<String, String> {
    let mut sentinel = match connect_to_node(servers, host, false).await {
        Err(error) if error.code() == Some("NOAUTH") => connect_to_node(servers, host, true).await,
        other => other,
    }
    .map_err(|error| describe_host_error(&error, host))?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(servers.sentinel_service());
    let master: Option<(String, u16)> = command
        .query_async(&mut sentinel)
        .await
        .map_err(|error| describe_host_error(&error, host))?;
    let (name, port) = master.ok_or_else(|| {
        format!(
            "the sentinel {host} knows no master named {}: check the path of store.url",
            servers.sentinel_service()
        )
    })?;
    Ok(format_host_port(&name, port))
}

async fn connect_to_node(
    servers: &RedisUrl,
    host: &str,
    credentials: bool,
) -> redis::RedisResult<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    servers
        .build_client(host, credentials, "")?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// The owner of a slot, and all nodes, of what `CLUSTER SLOTS` on `host` says.
fn find_slot_owner(
    rows: &[Vec<Value>],
    slot: u16,
    host: &str,
) -> Result<(String, Vec<String>), String> {
    let read = |row: &Vec<Value>| -> Option<(u16, u16, Vec<String>)> {
        let [first, last, nodes @ ..] = &row[..] else { return None };
        let bounds: (u16, u16) =
            (from_redis_value(first.clone()).ok()?, from_redis_value(last.clone()).ok()?);
        Some((
            bounds.0,
            bounds.1,
            nodes.iter().filter_map(|node| node_address(node, host)).collect(),
        ))
    };
    let rows: Vec<_> = rows.iter().filter_map(read).collect();
    let known = rows.iter().flat_map(|(_, _, nodes)| nodes.clone()).collect();
    let owner = rows.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
    let master = owner.and_then(|(_, _, nodes)| nodes.first().cloned());
    let master =
        master.ok_or_else(|| format!("no node of the cluster owns slot {slot}, says {host}"))?;
    Ok((master, known))
}

/// `host:port` of a node; one without a name is where it was asked.
fn node_address(node: &Value, queried_host: &str) -> Option<String> {
    let Value::Array(fields) = node else { return None };
    let name: Option<String> = from_redis_value(fields.first()?.clone()).ok()?;
    let port: u16 = from_redis_value(fields.get(1)?.clone()).ok()?;
    match name.filter(|name| !name.is_empty() && name != "?") {
        Some(name) => Some(format_host_port(&name, port)),
        None => queried_host.rsplit_once(':').map(|(host, _)| format!("{host}:{port}")),
    }
}

fn format_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn describe_host_error(error: &redis::RedisError, host: &str) -> String {
    format!("{host}: {}", error::format_redis_error(error))
}

/// The slot of a key with this hash tag: CRC16 (XMODEM) modulo 16384, as in the Redis Cluster
/// specification.
pub(super) fn hash_slot(tag: &str) -> u16 {
    let step = |crc: u16, byte: &u8| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    };
    tag.as_bytes().iter().fold(0, step) % 16384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_that_of_the_cluster_specification() {
        assert_eq!(hash_slot("123456789"), 0x31c3);
    }

    #[test]
    fn a_slots_owner_is_the_first_node_of_its_range() {
        let node =
            |name: &str, port| Value::Array(vec![Value::BulkString(name.into()), Value::Int(port)]);
        let row = |first, last, nodes: Vec<Value>| {
            [vec![Value::Int(first), Value::Int(last)], nodes].concat()
        };
        let rows = [
            row(0, 9, vec![node("a", 1), node("b", 2)]),
            row(10, 99, vec![node("::1", 3), node("", 4)]),
        ];
        assert_eq!(find_slot_owner(&rows, 9, "seed:7").map(|found| found.0), Ok("a:1".into()));
        let (master, known) = find_slot_owner(&rows, 10, "seed:7").expect("owned");
        assert_eq!((master.as_str(), known.len(), known[3].as_str()), ("[::1]:3", 4, "seed:4"));
        assert!(find_slot_owner(&rows, 100, "seed:7").is_err());
    }
}
