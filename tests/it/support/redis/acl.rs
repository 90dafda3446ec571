//! The Redis user of the documentation.

use super::server::RedisServer;

const DOCS: &str = include_str!("../../../../docs/redis.md");

/// Makes the user of `docs/redis.md` on a server, with this password; `first` is what its line says
/// first, such as `resetpass`.
pub(crate) async fn set_documented_user(redis: &RedisServer, first: &str, password: &str) {
    let line =
        DOCS.lines().find(|line| line.starts_with("ACL SETUSER")).expect("the docs have a user");
    let line = line.replace(" on ", &format!(" on {first} ")).replace("PASSWORD", password);
    let words: Vec<&str> = line.split_whitespace().collect();
    redis.run_command(&words).await;
}
