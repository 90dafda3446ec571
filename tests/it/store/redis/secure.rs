//! Redis over TLS, as the user that `docs/redis.md` gives, with credentials that rotate.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::load::Load;
use crate::support::redis::acl::set_documented_user;
use crate::support::redis::server::{RedisServer, find_free_port};
use crate::support::scenario::{ScenarioBuilder, scenario};
use crate::support::{TEST_DEADLINE, wait_until};

/// Makes `NAME.pem` and `NAME.key`, signed by `ca`, or by themselves.
fn certificate(dir: &Path, name: &str, ca: Option<&str>) {
    let file = |name: &str, kind: &str| dir.join(format!("{name}.{kind}")).display().to_string();
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]);
    openssl.args([
        "-subj",
        &format!("/CN={name}"),
        "-keyout",
        &file(name, "key"),
        "-out",
        &file(name, "pem"),
    ]);
    if let Some(ca) = ca {
        openssl.args(["-CA", &file(ca, "pem"), "-CAkey", &file(ca, "key")]);
        openssl.args([
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
    }
    let made = openssl.output().expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A server all of whose calls go onto the queue of the store at this URL.
fn on_store(url: String) -> ScenarioBuilder {
    let scenario = scenario().store_url(url).yaml("store.timeout", "2s").wait("5s").percent(100);
    scenario.workers(2).concurrency(2)
}

#[tokio::test]
async fn tls_and_the_documented_user_are_enough_and_what_rotates_needs_no_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    for (name, ca) in [("ca", None), ("server", Some("ca")), ("client", Some("ca")), ("ca2", None)]
    {
        certificate(dir.path(), name, ca);
    }
    certificate(dir.path(), "server2", Some("ca2"));
    let port = find_free_port().to_string();
    let redis = RedisServer::start_with(&[
        "--tls-port",
        &port,
        "--tls-auth-clients",
        "yes",
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-cert-file",
        &path("server.pem"),
        "--tls-key-file",
        &path("server.key"),
    ])
    .await;
    set_documented_user(&redis, "resetpass", "canary-one").await;
    fs::copy(path("ca.pem"), path("trusted.pem")).expect("copied");
    fs::write(path("password"), "canary-one\n").expect("written");
    let url = format!(
        "rediss://omnidaemon:${{file:{}}}@127.0.0.1:{port}/0?ca={}&cert={}&key={}",
        path("password"),
        path("trusted.pem"),
        path("client.pem"),
        path("client.key")
    );
    let omni = on_store(url).start().await;
    let load = Load::start(&omni, 2);
    load.wait_for_more("calls go async", &load.async_calls, 20).await;

    // the password and the server's certificate change, and then every connection ends
    set_documented_user(&redis, "resetpass", "canary-two").await;
    redis
        .run_command(&[
            "CONFIG",
            "SET",
            "tls-cert-file",
            &path("server2.pem"),
            "tls-key-file",
            &path("server2.key"),
        ])
        .await;
    redis.run_command(&["CLIENT", "KILL", "USER", "omnidaemon"]).await;
    load.wait_for_more("calls go sync with what is old", &load.sync_calls, 5).await;
    let admin = omni.admin_client();
    wait_until(TEST_DEADLINE, "the store is missed", async || {
        admin.get("/readyz").await.json()["status"] == "degraded"
    })
    .await;
    fs::copy(path("ca2.pem"), path("trusted.pem")).expect("copied");
    wait_until(TEST_DEADLINE, "the log says what is wrong with the password", async || {
        omni.logs().to_text().contains("refuses the user or password")
            || admin.get("/readyz").await.text().contains("refuses the user or password")
    })
    .await;
    fs::write(path("password"), "canary-two").expect("written");
    load.wait_for_more("calls go async with what is new", &load.async_calls, 20).await;
    load.finish().await;

    let shown = [
        admin.get("/readyz").await.text(),
        admin.get("/metrics").await.text(),
        omni.logs().to_text(),
    ]
    .concat();
    assert!(!shown.contains("canary"), "{shown}");
    assert!(!shown.contains("may not do this"), "{shown}");
}

/// Whatever is logged, asked for or refused: also while the server is gone, and with a password
/// that is wrong.
#[tokio::test]
async fn the_password_is_in_no_log_and_no_answer() {
    const CANARY: &str = "canary-7f3a9";
    let mut redis = RedisServer::start().await;
    set_documented_user(&redis, "resetpass", CANARY).await;
    let url = |password: &str| {
        redis.url().replace("redis://", &format!("redis://omnidaemon:{password}@"))
    };
    let wrong = on_store(url(&format!("{CANARY}-wrong")));
    let wrong = wrong.env("LOG_LEVEL", "trace").start_listening().await;
    let omni = on_store(url(CANARY)).env("LOG_LEVEL", "trace").start().await;
    let ask =
        async || omni.data_client().post("/invoke", &serde_json::json!({"task": "t"})).await.status;
    assert_eq!(ask().await, 200);
    redis.kill();
    assert_eq!(ask().await, 200);
    redis.restart().await; // which knows no such user any more
    assert_eq!(ask().await, 200);

    let mut seen = [wrong.logs().lines(), omni.logs().lines()].concat();
    for path in ["status", "config", "rollouts", "workers", "topics"] {
        seen.push(omni.admin_client().get(&format!("/admin/v1/{path}")).await.text());
    }
    for path in ["/metrics", "/readyz"] {
        seen.push(wrong.admin_client().get(path).await.text());
    }
    let file = omni.dir().join("config/omnidaemon.yaml").display().to_string();
    for command in [&["config", "check", &file][..], &["health", "--detailed"], &["rollout", "get"]]
    {
        let output = omni.run_cli(command).await;
        seen.extend(
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()),
        );
    }
    let logged =
        seen.iter().filter(|line| line.contains("TRACE") || line.contains("DEBUG")).count();
    assert!(
        logged > 0 && seen.iter().any(|line| line.contains("redis://***@")),
        "there is something to look at"
    );
    for line in seen {
        assert!(!line.contains(CANARY), "{line}");
    }
}
