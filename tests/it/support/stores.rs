//! Scenarios that hold on both stores: each is written once, and runs on each.

use crate::support::redis::server::RedisServer;

/// A store for one server under test.
pub(crate) enum Store {
    /// The embedded one.
    Sqlite,
    /// A redis-server of its own.
    Redis(RedisServer),
}

impl Store {
    pub(crate) async fn redis() -> Self {
        Self::Redis(RedisServer::start().await)
    }

    /// What goes into `store.url`.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite => "sqlite:data/omnidaemon.db".into(),
            Self::Redis(server) => server.url(),
        }
    }
}

/// Makes a test on each store of every named `async fn(Store)`.
macro_rules! on_both_stores {
    ($($scenario:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(crate::support::stores::Store::Sqlite).await;
            })+
        }
        mod on_redis {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(crate::support::stores::Store::redis().await).await;
            })+
        }
    };
}
pub(crate) use on_both_stores;
