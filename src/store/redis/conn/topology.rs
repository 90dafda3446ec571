//! The address of the master, found again before every connect, so that after a failover or a move
//! of a slot a new connection is enough.
//!
//! The master is the URL's address, or the server that the sentinels name (which must confirm that
//! it is a master), or in a Cluster the owner of the partition's slot, which any known node names.
//! Hosts are queried in turn; one that gave no usable answer is queried last the next time.

use std::sync::Mutex;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value, from_redis_value};
use tokio::time::timeout;

use crate::config::Secret;
use crate::store::StoreError;
use crate::store::redis::conn::error;
use crate::store::redis::conn::url::{RedisUrl, invalid_url_error};
use crate::store::redis::lock::lock_unpoisoned;

/// How the master is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MasterDiscovery {
    /// It is the URL's host.
    FixedAddress,
    /// The URL's hosts are sentinels, which name it.
    Sentinel,
    /// It is the owner of this slot; the URL's hosts are nodes of a cluster.
    SlotOwner(u16),
}

/// Finds a master.
pub(crate) struct MasterLocator {
    url: Secret,
    discovery: MasterDiscovery,
    /// The hosts in the order in which they are queried; before the first answer it is empty, and
    /// the URL's hosts are queried.
    query_order: Mutex<Vec<String>>,
}

impl MasterLocator {
    /// The locator of the master that `url` and `discovery` name.
    ///
    /// # Errors
    /// [`StoreError::InvalidSetup`] for a URL that no client can be made from.
    pub(crate) fn new(url: &Secret, discovery: MasterDiscovery) -> Result<Self, StoreError> {
        let master = Self { url: url.clone(), discovery, query_order: Mutex::default() };
        let servers = RedisUrl::load(&Secret::new(url.expose()))?;
        let host = servers.hosts.first().ok_or_else(invalid_url_error)?;
        // without the parameters, whose files need not exist yet
        let without_files = Secret::new(url.expose().split('?').next().unwrap_or_default());
        RedisUrl::load(&without_files)?
            .build_client(host, true, master.database_of(&servers))
            .map_err(|_| invalid_url_error())?;
        Ok(master)
    }

    /// A client of the master. Each host may take a third of `deadline` to answer.
    pub(crate) async fn locate_master(&self, deadline: Duration) -> Result<Client, StoreError> {
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

    /// Whether a server that was found must confirm that it is a master.
    pub(crate) fn requires_role_check(&self) -> bool {
        self.discovery == MasterDiscovery::Sentinel
    }

    /// Queries the host that gave the last answer last the next time, since no connection could be
    /// made to the server that it named.
    pub(crate) fn deprioritize_first_host(&self) {
        let mut order = lock_unpoisoned(&self.query_order);
        if !order.is_empty() {
            order.rotate_left(1);
        }
    }

    fn database_of<'a>(&self, servers: &'a RedisUrl) -> &'a str {
        servers.database_name(self.discovery == MasterDiscovery::Sentinel)
    }

    /// The master by the first host that answers; hosts that answered, and those that they know,
    /// move to the front of the order.
    async fn query_hosts_in_order(
        &self,
        servers: &RedisUrl,
        per_host_timeout: Duration,
    ) -> Result<String, StoreError> {
        let mut hosts = lock_unpoisoned(&self.query_order).clone();
        let is_missing = |host: &&String| !hosts.contains(*host);
        let missing: Vec<String> = servers.hosts.iter().filter(is_missing).cloned().collect();
        hosts.extend(missing);
        let mut failed = StoreError::Unreachable("store.url names no server".into());
        for index in 0..hosts.len() {
            let host = &hosts[index];
            let answer = timeout(per_host_timeout, self.query_host(servers, host)).await;
            match answer.unwrap_or_else(|_| Err(format!("{host} does not answer"))) {
                Ok((master, known)) => {
                    let mut order = hosts.split_off(index);
                    order.extend(hosts);
                    order.extend(known);
                    let mut seen = std::collections::HashSet::new();
                    order.retain(|host| seen.insert(host.clone()));
                    *lock_unpoisoned(&self.query_order) = order;
                    return Ok(master);
                }
                Err(why) => failed = StoreError::Unreachable(why),
            }
        }
        Err(failed)
    }

    /// The master that `host` names, and further hosts that can be queried.
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

/// The master that a sentinel names. Sentinels often have no password where the servers have one,
/// so the first connect is without it.
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

/// The owner of a slot, and all nodes, in the reply of `host` to `CLUSTER SLOTS`.
fn find_slot_owner(
    rows: &[Vec<Value>],
    slot: u16,
    host: &str,
) -> Result<(String, Vec<String>), String> {
    let parse_row = |row: &Vec<Value>| -> Option<(u16, u16, Vec<String>)> {
        let [first, last, nodes @ ..] = &row[..] else { return None };
        let bounds: (u16, u16) =
            (from_redis_value(first.clone()).ok()?, from_redis_value(last.clone()).ok()?);
        Some((
            bounds.0,
            bounds.1,
            nodes.iter().filter_map(|node| node_address(node, host)).collect(),
        ))
    };
    let rows: Vec<_> = rows.iter().filter_map(parse_row).collect();
    let known = rows.iter().flat_map(|(_, _, nodes)| nodes.clone()).collect();
    let owner = rows.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
    let master = owner.and_then(|(_, _, nodes)| nodes.first().cloned());
    let master =
        master.ok_or_else(|| format!("no node of the cluster owns slot {slot}, says {host}"))?;
    Ok((master, known))
}

/// `host:port` of a node; a node without a name has the host that was queried.
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

#[cfg(test)]
mod tests {
    use super::*;

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
