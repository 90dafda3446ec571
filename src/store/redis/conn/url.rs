//! `store.url`: servers, credentials, TLS files. It is read at each connect, so that files that
//! were rotated on disk are used from the next connection on.
//!
//! The form is `SCHEME://[user:password@]host:port[,host:port…][/path][?ca=…&cert=…&key=…]`. The
//! parameters name PEM files: the authority that signs the servers' certificates (by default the
//! system's), the client's certificate, and its key.

use redis::{
    Client, ClientTlsConfig, IntoConnectionInfo, ProtocolVersion, RedisResult, TlsCertificates,
};

use crate::config::Secret;
use crate::store::StoreError;

/// The parts of a URL.
pub(crate) struct RedisUrl {
    uses_tls: bool,
    /// `user:password`, percent-encoded.
    credentials: Option<String>,
    /// `host:port` each.
    pub(crate) hosts: Vec<String>,
    /// Without the leading slash: a database, or for Sentinel a service and a database.
    path: String,
    ca_path: Option<String>,
    cert_path: Option<String>,
    key_path: Option<String>,
}

impl RedisUrl {
    /// Reads a URL and the files that it refers to.
    pub(crate) fn load(url: &Secret) -> Result<Self, StoreError> {
        let unreadable = |why: String| StoreError::Unreachable(format!("store.url: {why}"));
        let text = url.read_current().map_err(unreadable)?;
        Self::parse(&text).ok_or_else(invalid_url_error)
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials.to_owned()), hosts),
            None => (None, authority),
        };
        let parameter = |name: &str| {
            let found = query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_owned())
        };
        Some(Self {
            uses_tls: scheme.starts_with("rediss"),
            credentials,
            hosts: hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect(),
            path: path.to_owned(),
            ca_path: parameter("ca"),
            cert_path: parameter("cert"),
            key_path: parameter("key"),
        })
    }

    /// The service of a Sentinel URL.
    pub(crate) fn sentinel_service(&self) -> &str {
        self.path.split_once('/').map_or(&self.path, |(service, _)| service)
    }

    /// The database, empty for the default.
    pub(crate) fn database_name(&self, is_sentinel: bool) -> &str {
        if is_sentinel {
            self.path.split_once('/').map_or("", |(_, database)| database)
        } else {
            &self.path
        }
    }

    /// A client of `host`, with the URL's credentials or without.
    pub(crate) fn build_client(
        &self,
        host: &str,
        with_credentials: bool,
        database: &str,
    ) -> RedisResult<Client> {
        let user = self.credentials.as_deref().filter(|_| with_credentials);
        let (scheme, at) =
            (if self.uses_tls { "rediss" } else { "redis" }, if user.is_some() { "@" } else { "" });
        let info = format!("{scheme}://{}{at}{host}/{database}", user.unwrap_or_default())
            .into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(settings);
        if self.ca_path.is_none() && self.cert_path.is_none() {
            return Client::open(info);
        }
        let root_cert = self.ca_path.as_deref().map(read_pem_file).transpose()?;
        let client_tls = match (&self.cert_path, &self.key_path) {
            (Some(certificate), key) => {
                let key = read_pem_file(key.as_ref().unwrap_or(certificate))?;
                Some(ClientTlsConfig { client_cert: read_pem_file(certificate)?, client_key: key })
            }
            (None, _) => None,
        };
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
    }
}

/// The error for a URL of another form.
pub(crate) fn invalid_url_error() -> StoreError {
    StoreError::InvalidSetup(
        "store.url is not a redis URL: write redis://[user:password@]host:port/db".into(),
    )
}

fn read_pem_file(path: &str) -> RedisResult<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| std::io::Error::new(error.kind(), format!("{path}: {error}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_parsed_and_a_client_made_from_it() {
        let load = |url: &str| RedisUrl::load(&Secret::new(url)).expect("a URL");
        let single = load("redis://user:p%40ss@h:1/2");
        assert_eq!(
            (single.hosts.as_slice(), single.database_name(false)),
            (["h:1".to_owned()].as_slice(), "2")
        );
        let client = single.build_client("h:1", true, "2").expect("a client");
        let settings = client.get_connection_info().redis_settings();
        assert_eq!(
            (settings.username(), settings.password(), settings.db()),
            (Some("user"), Some("p@ss"), 2)
        );
        let bare = single.build_client("h:1", false, "").expect("a client");
        assert_eq!(bare.get_connection_info().redis_settings().password(), None);

        let sentinel = load("rediss+sentinel://:p@[::1]:1,b:2/main/3?ca=/x/ca.pem");
        assert_eq!(
            (sentinel.hosts.len(), sentinel.sentinel_service(), sentinel.database_name(true)),
            (2, "main", "3")
        );
        assert_eq!(
            (sentinel.uses_tls, sentinel.ca_path.as_deref(), sentinel.key_path),
            (true, Some("/x/ca.pem"), None)
        );
    }
}
